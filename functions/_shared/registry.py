"""All endpoints, found by their modules, and the one handler that serves them by path."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

import functions
from functions._shared import runtime
from functions._shared.endpoint import Endpoint, answer
from functions._shared.errors import Problem
from functions._shared.http import json_response
from functions._shared.services import Services, services

if TYPE_CHECKING:
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
    return tuple(sorted(found, key=lambda endpoint: endpoint.path))


@cache
def _by_path() -> dict[str, Endpoint]:
    return {endpoint.path: endpoint for endpoint in endpoints()}


def handle(request: Request, services: Services) -> Response:
    endpoint = _by_path().get(request.path)
    if endpoint is not None:
        return endpoint.handle(request, services)

    return answer(request, services, lambda: _other(request), ["GET"])


def _other(request: Request) -> Response:
    if request.path == "/openapi.json" and request.method == "GET":
        return json_response(200, _document())
    raise Problem(404, "no_such_function", "There is no function at this path.")


@cache
def _document() -> dict[str, Any]:
    from functions._shared import openapi  # noqa: PLC0415 (only who asks for it pays for it)

    return openapi.document(endpoints())


handler = runtime.cloud_handler(lambda request: handle(request, services()))
