"""Checks each response that a test receives against the API's own OpenAPI document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from functions._shared import openapi, registry
from functions._shared.http import PREFIX
from tests.support.json_schema import violations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import httpx

    from functions._shared.endpoint import Endpoint

# As served, after JSON.
DOCUMENT: dict[str, Any] = json.loads(json.dumps(openapi.document(registry.endpoints())))
_BY_NAME = {endpoint.name: endpoint for endpoint in registry.endpoints()}


def operation(name: str) -> dict[str, Any]:
    """The OpenAPI operation of the endpoint with this name."""
    endpoint = _BY_NAME[name]
    return dict(DOCUMENT["paths"][endpoint.path][endpoint.method.lower()])


def errors(name: str) -> dict[tuple[int, str], dict[str, Any]]:
    """The example of each documented error, by status and code."""
    return {
        (int(status), code): example["value"]
        for status, response in operation(name)["responses"].items()
        for code, example in response.get("content", {}).get("application/json", {}).get("examples", {}).items()
    }


def endpoint_of(method: str, path: str) -> Endpoint | None:
    """The endpoint of this method and path. For a method that the path does not have, any endpoint of the path."""
    at_path = [endpoint for endpoint in registry.endpoints() if endpoint.path_parameters(path) is not None]
    of_first = [endpoint for endpoint in at_path if endpoint.path == at_path[0].path]
    return next((endpoint for endpoint in of_first if endpoint.method == method), at_path[0] if at_path else None)


def check(response: httpx.Response) -> None:
    """A response of an endpoint must be documented: its status, code, headers, members and their types."""
    request = response.request
    path = "/" + "/".join(part for part in request.url.path.removeprefix(PREFIX).split("/") if part)
    endpoint = endpoint_of(request.method, path)
    if endpoint is None or request.method == "OPTIONS":
        return
    found = [*problems(response, endpoint)]
    assert not found, f"{request.method} {path}: {'; '.join(found)}\n{response.status_code} {response.text[:500]}"


def problems(response: httpx.Response, endpoint: Endpoint) -> Iterator[str]:
    """The differences between this response and the endpoint's documentation."""
    documented = operation(endpoint.name)["responses"].get(str(response.status_code))
    if documented is None:
        yield f"status {response.status_code} is not documented. Name the error in `errors` of {endpoint.module}."
        return
    yield from (f"the header {name} is missing" for name in documented["headers"] if name not in response.headers)
    if response.request.method == "HEAD" or "content" not in documented:
        if response.content:
            yield "the body is not documented"
        return
    body = response.json()
    yield from violations(body, documented["content"]["application/json"]["schema"], DOCUMENT, "the body")
    if not response.is_success:
        yield from _error_problems(body, response.status_code, endpoint)


def _error_problems(body: dict[str, Any], status: int, endpoint: Endpoint) -> Iterator[str]:
    try:
        example = errors(endpoint.name)[status, code(body)]
    except KeyError:
        yield f"the error {code(body)!r} is not documented. Name it in `errors` of {endpoint.module}."
        return
    yield from _differences(body, example, "")
    for container in ("metadata", "details"):
        if container in example:
            yield from _differences(body.get(container, {}), example[container], f"{container}.")


def _differences(body: Mapping[str, Any], example: Mapping[str, Any], where: str) -> Iterator[str]:
    yield from (f"{where}{name} is not documented" for name in body if name not in example)
    yield from (f"{where}{name} is documented, but missing" for name in example if name not in body)
    for name, value in body.items():
        if name in example and type(value) is not type(example[name]):
            yield f"{where}{name} is documented as {type(example[name]).__name__}, but is {type(value).__name__}"


# The error formats, by a field that no other format has: the fields of the message and of the status, and the further
# fields that every error has.
FORMATS: Mapping[str, tuple[str, str | None, set[str]]] = {
    "key": ("message", "code", {"key", "error", "metadata", "status"}),
    "statusCode": ("message", "statusCode", {"error", "code"}),
    "instance": ("detail", "status", {"type", "title", "instance", "error", "details", "code"}),
    "error": ("error", None, {"code"}),
}


def error_format(body: Mapping[str, Any]) -> tuple[str, str | None, set[str]]:
    return FORMATS[next(name for name in FORMATS if name in body)]


def code(body: Mapping[str, Any]) -> str:
    """The stable code of an error, in any format. "None" if it has no code."""
    return str(body["key"] if "key" in body else body.get("code"))


def members(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an error that are its own, not the format's."""
    if "metadata" in body:
        return dict(body["metadata"])
    message, number, common = error_format(body)
    return {name: value for name, value in body.items() if name not in {message, number, "requestId", *common}}
