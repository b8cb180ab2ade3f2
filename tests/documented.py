"""What the API's own document says, and whether an answer keeps to it: every answer that a test gets is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from functions._shared import openapi, registry, runtime
from tests.json_schema import violations

if TYPE_CHECKING:
    import httpx

# As it is served: what JSON makes of it.
DOCUMENT: dict[str, Any] = json.loads(json.dumps(openapi.document(registry.endpoints())))
ALWAYS = {"error", "code", "requestId"}


def operation(path: str) -> dict[str, Any]:
    """The one of this path."""
    [found] = DOCUMENT["paths"][path].values()
    return dict(found)


def errors(path: str) -> dict[tuple[int, str], dict[str, Any]]:
    """By status and code, each documented error's example."""
    return {
        (int(status), code): example["value"]
        for status, answer in operation(path)["responses"].items()
        for code, example in answer["content"]["application/json"].get("examples", {}).items()
    }


def check(response: httpx.Response) -> None:
    """An answer of an endpoint is one of its documented ones: its status, code, headers, members and their types."""
    request = response.request
    path = "/" + "/".join(part for part in request.url.path.removeprefix(runtime.PREFIX).split("/") if part)
    if path not in DOCUMENT["paths"] or request.method == "OPTIONS":
        return
    said = f"{request.method} {path}: {response.status_code} {response.text[:500]}"
    documented = operation(path)["responses"].get(str(response.status_code))
    assert documented, f"not documented: {said}"
    assert set(documented["headers"]) <= set(response.headers), said
    if request.method == "HEAD":
        return
    body = response.json()
    assert not [*violations(body, documented["content"]["application/json"]["schema"], DOCUMENT)], said
    if response.is_success:
        return
    example = errors(path).get((response.status_code, body["code"]))
    assert example, f"not documented: {said}"
    assert {name: type(value) for name, value in example.items()} == {n: type(v) for n, v in body.items()}, said
