"""All endpoints, found by their modules, and the one handler that serves them by path."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import functions
from functions._shared import runtime
from functions._shared.dialect import PLAIN
from functions._shared.endpoint import Endpoint, answer
from functions._shared.errors import Problem
from functions._shared.http import json_response
from functions._shared.services import Services, awake

if TYPE_CHECKING:
    from functions._shared.dialect import Dialect
    from functions._shared.http import Request, Response

NO_ENDPOINTS = {"worker"}


@cache
def endpoints() -> tuple[Endpoint, ...]:
    """Every module of a family's package declares one; underscore packages are never endpoints."""
    found: list[Endpoint] = []
    for family in pkgutil.iter_modules(functions.__path__, "functions."):
        name = family.name.rpartition(".")[2]
        if not family.ispkg or name.startswith("_") or name in NO_ENDPOINTS:
            continue
        package = importlib.import_module(family.name)
        modules = pkgutil.iter_modules(package.__path__, f"{family.name}.")
        found.extend(importlib.import_module(module.name).endpoint for module in modules)
    # A fixed word sorts before a member: /syncs/status is not the sync called status.
    return tuple(sorted(found, key=lambda endpoint: (endpoint.path.replace("{", "~"), endpoint.method)))


@cache
def _paths() -> tuple[dict[str, Endpoint], ...]:
    """Per path its endpoints by method, in the order in which paths are tried."""
    return tuple({one.method: one for one in group} for _, group in groupby(endpoints(), key=lambda one: one.path))


def handle(request: Request, services: Services) -> Response:
    for by_method in _paths():
        first = next(iter(by_method.values()))
        if first.members_of(request.path) is not None:
            return by_method.get(request.method, first).handle(request, services, [*by_method])
    return answer(request, services, lambda: _other(request), ["GET"], _dialect(request.path))


def _dialect(path: str) -> Dialect:
    """Where there is nothing, the API says so most of whose paths begin like this one, as far as any do."""
    words = path.split("/", 4)[1:]
    for length in range(len(words), 0, -1):
        near = [one.dialect for one in endpoints() if one.path.split("/")[1 : length + 1] == words[:length]]
        if near:
            return max(near, key=near.count)
    return PLAIN


def _other(request: Request) -> Response:
    if request.path == "/openapi.json" and request.method == "GET":
        return json_response(200, _document())
    raise Problem(404, "no_such_function", "There is no function at this path.")


@cache
def _document() -> dict[str, Any]:
    from functions._shared import openapi  # noqa: PLC0415 (only who asks for it pays for it)

    return openapi.document(endpoints())


handler = runtime.cloud_handler(lambda request: handle(request, awake()), awake)
