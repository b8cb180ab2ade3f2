"""Checks that every endpoint's declaration fits its file, URL, SQL function and documentation. Part of `make check`."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from functions._local.schema import ROOT
from functions._shared import error_catalog, openapi, registry
from functions._shared.error_format import PLAIN
from functions._shared.errors import ErrorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from functions._shared.endpoint import Endpoint

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def problems(endpoints: Iterable[Endpoint], root: Path = ROOT) -> list[str]:
    """Sentences that name the declaration, what is wrong with it, and what to do."""
    endpoints = list(endpoints)
    found = [problem for endpoint in endpoints for problem in _problems(endpoint, root)]
    return found + _duplicates(endpoints) + _unused_errors(endpoints)


def _problems(endpoint: Endpoint, root: Path) -> Iterator[str]:
    file = Path(*endpoint.module.split(".")).with_suffix(".py")
    if not (root / file).is_file():
        yield f"{endpoint.module}: there is no {file}. Pass __name__ as the endpoint's first argument."
        return
    if not re.fullmatch(r"[a-z]+(_[a-z]+)*", endpoint.name):
        yield f"{file}: the name must be snake_case, because it becomes the URL. Rename the file."
    if endpoint.method not in METHODS:
        yield f"{file}: unknown method {endpoint.method!r}. Use one of {', '.join(METHODS)}."
    if not endpoint.summary:
        yield f"{file}: the module has no docstring. Write one: its first paragraph is the summary in OpenAPI."
    if not hasattr(sys.modules[endpoint.module], "handler"):
        yield f"{file}: there is no handler. End the module with `handler = lambda_handler(endpoint)`."
    yield from _path_problems(endpoint, file)
    yield from _sql_problems(endpoint, file, root)
    for error in endpoint.errors:
        if error not in vars(error_catalog).values():
            yield f"{file}: {error.code} is not in functions/_shared/error_catalog.py. Declare it there."


def _path_problems(endpoint: Endpoint, file: Path) -> Iterator[str]:
    package = endpoint.module.rpartition(".")[0]
    prefix = getattr(importlib.import_module(package), "PATH", None)
    if prefix is None and endpoint.path != "/" + endpoint.name.replace("_", "-"):
        yield (
            f"{file}: its URL {endpoint.path} is never found, because the family has no PATH. Omit `path`, or declare"
            f" PATH in {file.parent}/__init__.py."
        )
    if prefix is not None and not endpoint.path.startswith(prefix):
        yield (
            f"{file}: its URL is {endpoint.path}, but those of the family begin with {prefix}. Set"
            f" `path`, or change PATH in {file.parent}/__init__.py."
        )
    if (prefix is None) != (endpoint.error_format is PLAIN):
        yield f"{file}: a family has PATH and an error format of its published API, or neither. Set `error_format`."
    for name in re.findall(r"\{(\w+)\}", endpoint.path):
        if name not in endpoint.request.model_fields:
            yield f"{file}: the request has no field for {{{name}}} in its path. Add {name} to {_name(endpoint)}."


def _sql_problems(endpoint: Endpoint, file: Path, root: Path) -> Iterator[str]:
    if not [*root.glob(f"sql/schemas/*/public/{endpoint.rpc}.sql")]:
        family = file.parent.name
        yield (
            f"{file}: there is no SQL function public.{endpoint.rpc}. Write"
            f" sql/schemas/{family}/public/{endpoint.rpc}.sql, or name another function with `rpc`."
        )


def _duplicates(endpoints: list[Endpoint]) -> list[str]:
    found = []
    by_place: dict[tuple[str, str], str] = {}
    for endpoint in endpoints:
        first = by_place.setdefault((endpoint.method, endpoint.path), endpoint.module)
        if first != endpoint.module:
            found.append(
                f"{endpoint.module} and {first} both serve {endpoint.method} {endpoint.path}. Change one's `path`."
            )
    return found


def _unused_errors(endpoints: list[Endpoint]) -> list[str]:
    used = {error.code for endpoint in endpoints for error in openapi.errors(endpoint)}
    specs = {name: value for name, value in vars(error_catalog).items() if isinstance(value, ErrorSpec)}
    wrong = [
        f"error_catalog.py: {name} declares {spec.code!r}. Call it {spec.code.upper()}."
        for name, spec in specs.items()
        if name != spec.code.upper()
    ]
    return wrong + [
        f"error_catalog.py: no endpoint documents {spec.code!r}. Name {name} in an endpoint's `errors`, or delete it."
        for name, spec in specs.items()
        if spec.code not in used
    ]


def _name(endpoint: Endpoint) -> str:
    return endpoint.request.__name__


def main() -> None:
    found = problems(registry.endpoints())
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
