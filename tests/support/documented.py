"""What the API's own document says, and whether an answer keeps to it: every answer that a test gets is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from functions._shared import openapi, registry
from functions._shared.http import PREFIX
from tests.support.json_schema import violations

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

    from functions._shared.endpoint import Endpoint

# As it is served: what JSON makes of it.
DOCUMENT: dict[str, Any] = json.loads(json.dumps(openapi.document(registry.endpoints())))
_BY_NAME = {endpoint.name: endpoint for endpoint in registry.endpoints()}


def operation(name: str) -> dict[str, Any]:
    """That of the endpoint of this name."""
    endpoint = _BY_NAME[name]
    return dict(DOCUMENT["paths"][endpoint.path][endpoint.method.lower()])


def errors(name: str) -> dict[tuple[int, str], dict[str, Any]]:
    """By status and code, each documented error's example."""
    return {
        (int(status), code): example["value"]
        for status, answer in operation(name)["responses"].items()
        for code, example in answer.get("content", {}).get("application/json", {}).get("examples", {}).items()
    }


def endpoint_of(method: str, path: str) -> Endpoint | None:
    """The one that answers; for a method that none has, any of the path's."""
    at_path = [endpoint for endpoint in registry.endpoints() if endpoint.path_parameters(path) is not None]
    of_first = [endpoint for endpoint in at_path if endpoint.path == at_path[0].path]
    return next((endpoint for endpoint in of_first if endpoint.method == method), at_path[0] if at_path else None)


def check(response: httpx.Response) -> None:
    """An answer of an endpoint is one of its documented ones: its status, code, headers, members and their types."""
    request = response.request
    path = "/" + "/".join(part for part in request.url.path.removeprefix(PREFIX).split("/") if part)
    endpoint = endpoint_of(request.method, path)
    if endpoint is None or request.method == "OPTIONS":
        return
    said = f"{request.method} {path}: {response.status_code} {response.text[:500]}"
    documented = operation(endpoint.name)["responses"].get(str(response.status_code))
    assert documented, f"not documented: {said}"
    assert set(documented["headers"]) <= set(response.headers), said
    if request.method == "HEAD" or "content" not in documented:
        assert not response.content, said
        return
    body = response.json()
    assert not [*violations(body, documented["content"]["application/json"]["schema"], DOCUMENT)], said
    if response.is_success:
        return
    example = errors(endpoint.name).get((response.status_code, code(body)))
    assert example, f"not documented: {said}"
    assert types(example) == types(body), said
    assert types(members(example)) == types(members(body)), said
    assert set(example.get("details", ())) == set(body.get("details", ())), said


# How each API spells an error, told by a member that it alone has: where sentence and status stand, and what else
# every one of its errors has.
SPELLINGS: Mapping[str, tuple[str, str | None, set[str]]] = {
    "key": ("message", "code", {"key", "error", "metadata", "status"}),
    "statusCode": ("message", "statusCode", {"error", "code"}),
    "instance": ("detail", "status", {"type", "title", "instance", "error", "details", "code"}),
    "error": ("error", None, {"code"}),
}


def spelling(body: Mapping[str, Any]) -> tuple[str, str | None, set[str]]:
    return SPELLINGS[next(name for name in SPELLINGS if name in body)]


def code(body: Mapping[str, Any]) -> str:
    """The stable code of an error, however its API spells it."""
    return str(body["key"] if "key" in body else body["code"])


def members(body: Mapping[str, Any]) -> dict[str, Any]:
    """What an error says besides what every one of its API says."""
    if "metadata" in body:
        return dict(body["metadata"])
    sentence, number, others = spelling(body)
    return {name: value for name, value in body.items() if name not in {sentence, number, "requestId", *others}}


def types(body: Mapping[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in body.items()}
