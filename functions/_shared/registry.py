"""All endpoints, found by their modules, and the handler that serves them by path."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

import functions
from functions._shared import cors
from functions._shared.endpoint import Endpoint, complete, error_response
from functions._shared.error_format import PLAIN
from functions._shared.errors import ApiError
from functions._shared.http import json_response
from functions._shared.lambda_adapter import adapt, is_snapshot_start
from functions._shared.services import prepare, services_for_invocation

if TYPE_CHECKING:
    from functions._shared.error_format import ErrorFormat
    from functions._shared.http import Request, Response
    from functions._shared.services import Services

NOT_FAMILIES = {"worker"}


class NotAnEndpoint(Exception):
    """A module in a family's package that declares no endpoint."""


@cache
def endpoints() -> tuple[Endpoint, ...]:
    """Every module of a family's package declares one; packages and modules with a leading underscore do not."""
    return _import_endpoints(*(module for modules in _modules().values() for module in modules))


def handle(request: Request, services: Services) -> Response:
    candidates = _candidates(request.path)
    found = next((one for one in candidates if one.path_parameters(request.path) is not None), None)
    if found is None:
        return _handle_other_path(request, services)
    by_method = {one.method: one for one in candidates if one.path == found.path}
    return by_method.get(request.method, found).handle(request, services, [*by_method])


def _handle_other_path(request: Request, services: Services) -> Response:
    error_format = PLAIN
    try:
        error_format = _closest_error_format(request.path)
        response = _other_response(request)
    except Exception as error:
        response = error_response(error, request, error_format)
    return complete(response, request, services, error_format)


def _other_response(request: Request) -> Response:
    if request.method == "OPTIONS":
        return cors.preflight(["GET"])
    if request.path == "/openapi.json" and request.method == "GET":
        return json_response(200, _document())
    raise ApiError(404, "no_such_function", "There is no function at this path.")


@cache
def _document() -> dict[str, Any]:
    from functions._shared import openapi  # noqa: PLC0415 (a cold start does not need it)

    return openapi.document(endpoints())


@cache
def _modules() -> dict[str, tuple[str, ...]]:
    """The endpoints' modules by the package of their family. Imports none of them."""
    found = {}
    for family in pkgutil.iter_modules(functions.__path__):
        if family.ispkg and not family.name.startswith("_") and family.name not in NOT_FAMILIES:
            package = f"functions.{family.name}"
            modules = pkgutil.iter_modules([f"{functions.__path__[0]}/{family.name}"])
            found[package] = tuple(f"{package}.{each.name}" for each in modules if not each.name.startswith("_"))
    return found


@cache
def _import_endpoints(*modules: str) -> tuple[Endpoint, ...]:
    # A fixed segment sorts before a parameter, because /syncs/status is not the sync with id `status`.
    found = [_import_endpoint(module) for module in modules]
    return tuple(sorted(found, key=lambda endpoint: (endpoint.path.replace("{", "~"), endpoint.method)))


def _import_endpoint(module: str) -> Endpoint:
    endpoint = getattr(importlib.import_module(module), "endpoint", None)
    if not isinstance(endpoint, Endpoint):
        raise NotAnEndpoint(f"{module} declares no endpoint. Declare one, or begin the module's name with _.")
    return endpoint


def _candidates(path: str) -> tuple[Endpoint, ...]:
    """The endpoints that may have this path. A cold start pays for every import, so no others are imported."""
    name = path[1:].replace("-", "_")
    for package, modules in _modules().items():
        if f"{package}.{name}" in modules:
            return _import_endpoints(f"{package}.{name}")
    families = [modules for package, modules in _modules().items() if _has_path(package, path)]
    return _import_endpoints(*(module for modules in families for module in modules))


def _has_path(package: str, path: str) -> bool:
    """Whether the path may belong to this family: its published paths begin with PATH. Without it, names are paths."""
    prefix: str | None = getattr(importlib.import_module(package), "PATH", None)
    return prefix is not None and path.startswith(prefix)


def _closest_error_format(path: str) -> ErrorFormat:
    """For a path without an endpoint: the format of most endpoints whose paths begin like it."""
    segments = path.split("/", 4)[1:]
    for length in range(len(segments), 0, -1):
        formats = [one.error_format for one in endpoints() if one.path.split("/")[1 : length + 1] == segments[:length]]
        if formats:
            return max(formats, key=formats.count)
    return PLAIN


def _prepare() -> None:
    prepare()
    if is_snapshot_start():  # an import before the snapshot delays no request
        endpoints()


handler = adapt(lambda request: handle(request, services_for_invocation()), _prepare)
