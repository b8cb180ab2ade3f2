"""All endpoints, found by their modules, and the one handler that serves them by path."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

import functions
from functions._shared import runtime
from functions._shared.endpoint import Endpoint, answer
from functions._shared.error_format import PLAIN
from functions._shared.errors import ApiError
from functions._shared.http import json_response
from functions._shared.services import Services, services_for_invocation

if TYPE_CHECKING:
    from functions._shared.error_format import ErrorFormat
    from functions._shared.http import Request, Response

NO_ENDPOINTS = {"worker"}


@cache
def _modules() -> dict[str, tuple[str, ...]]:
    """The endpoints' modules by their family's package, none imported; underscore packages are never endpoints."""
    found = {}
    for family in pkgutil.iter_modules(functions.__path__):
        if family.ispkg and not family.name.startswith("_") and family.name not in NO_ENDPOINTS:
            folder = f"{functions.__path__[0]}/{family.name}"
            package = f"functions.{family.name}"
            found[package] = tuple(f"{package}.{module.name}" for module in pkgutil.iter_modules([folder]))
    return found


@cache
def endpoints() -> tuple[Endpoint, ...]:
    """Every module of a family's package declares one."""
    return _declared(*(module for modules in _modules().values() for module in modules))


@cache
def _declared(*modules: str) -> tuple[Endpoint, ...]:
    found: list[Endpoint] = [importlib.import_module(module).endpoint for module in modules]
    # A fixed word sorts before a member: /syncs/status is not the sync called status.
    return tuple(sorted(found, key=lambda endpoint: (endpoint.path.replace("{", "~"), endpoint.method)))


def _near(path: str) -> tuple[Endpoint, ...]:
    """The endpoints that may be at this path. A cold start pays for every import: the others are left alone."""
    name = path[1:].replace("-", "_")
    for package, modules in _modules().items():
        if f"{package}.{name}" in modules:
            return _declared(f"{package}.{name}")
    below = (modules for package, modules in _modules().items() if _is_of(path, package))
    return _declared(*(module for modules in below for module in modules))


def _is_of(path: str, package: str) -> bool:
    """Published paths of a family begin with its PATH; without one, its endpoints are found by their names."""
    begins: str | None = getattr(importlib.import_module(package), "PATH", None)
    return begins is not None and path.startswith(begins)


def handle(request: Request, services: Services) -> Response:
    near = _near(request.path)
    here = next((one for one in near if one.members_of(request.path) is not None), None)
    if here is None:
        return answer(request, services, lambda: _other(request), ["GET"], _dialect(request.path))
    by_method = {one.method: one for one in near if one.path == here.path}
    return by_method.get(request.method, here).handle(request, services, [*by_method])


def _dialect(path: str) -> ErrorFormat:
    """Where there is nothing, the API says so most of whose paths begin like this one, as far as any do."""
    words = path.split("/", 4)[1:]
    for length in range(len(words), 0, -1):
        near = [one.error_format for one in endpoints() if one.path.split("/")[1 : length + 1] == words[:length]]
        if near:
            return max(near, key=near.count)
    return PLAIN


def _other(request: Request) -> Response:
    if request.path == "/openapi.json" and request.method == "GET":
        return json_response(200, _document())
    raise ApiError(404, "no_such_function", "There is no function at this path.")


@cache
def _document() -> dict[str, Any]:
    from functions._shared import openapi  # noqa: PLC0415 (only who asks for it pays for it)

    return openapi.document(endpoints())


def _prepare() -> None:
    services_for_invocation()
    if runtime.is_kept_as_snapshot():  # what is in it costs no request anything
        endpoints()


handler = runtime.lambda_handler(lambda request: handle(request, services_for_invocation()), _prepare)
