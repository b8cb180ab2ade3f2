"""The API as OpenAPI 3.1, from the registry and the models: what is declared is what is documented.

`python -m functions._shared.openapi` prints it; the functions serve it at /functions/v1/openapi.json.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from functions._shared import filters
from functions._shared.errors import ApiError, ErrorSpec
from functions._shared.fields import StrictRequest
from functions._shared.filters import FilteredList

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from functions._shared.endpoint import Endpoint

VERSION = "0.1.0"
REF = "#/components/schemas/{model}"

# What any endpoint may answer, because every request takes the same way.
EVERYONES = (
    ErrorSpec(401, "missing_token", "There is no access token."),
    ErrorSpec(401, "invalid_token", "The token is malformed, forged or another project's."),
    ErrorSpec(401, "expired_token", "The token has expired: refresh the session."),
    ErrorSpec(401, "revoked_token", "The session has ended or its user is gone: sign in again."),
    ErrorSpec(403, "no_agency", "Your user belongs to no agency."),
    ErrorSpec(405, "method_not_allowed", "Another method is meant; `Allow` names it."),
    ErrorSpec(413, "body_too_large", "The body is larger than 1 MiB."),
    ErrorSpec(500, "internal_error", "Ours; nothing of it is shown."),
    ErrorSpec(503, "auth_unavailable", "The Auth server cannot be reached; `Retry-After` says when to try again."),
    ErrorSpec(503, "database_unavailable", "The database cannot be reached; `Retry-After` says when to try again."),
)
OF_MEMBERS = (
    ErrorSpec(400, "invalid_field", "A member has the wrong type or value; `field` names it.", {"field": "name"}),
)
OF_REQUIRED_MEMBERS = (
    ErrorSpec(400, "missing_field", "A required member is missing; `field` names it.", {"field": "name"}),
)
OF_PATHS = (ErrorSpec(404, "not_found", "An id in the path is malformed."),)
OF_CONTRACTS = (
    ErrorSpec(
        422,
        "unsupported_field",
        "A member does not work yet or is unknown; `fields` names all.",
        {"fields": ["filters"]},
    ),
)
OF_API_KEYS = (ErrorSpec(401, "invalid_api_key", "The agency's API key is unknown or revoked."),)
OF_BODIES = (
    ErrorSpec(400, "invalid_json", "The body is not JSON."),
    ErrorSpec(400, "invalid_request", "The body is not an object, or its members do not go together."),
)
OF_IDEMPOTENCY = (
    ErrorSpec(400, "invalid_idempotency_key", "The Idempotency-Key is empty, too long or not printable ASCII."),
    ErrorSpec(409, "idempotency_key_in_use", "The first request with this Idempotency-Key is still under way."),
    ErrorSpec(422, "idempotency_key_reused", "This Idempotency-Key came with another request."),
)


def errors(endpoint: Endpoint) -> Sequence[ErrorSpec]:
    """All that this endpoint may answer besides its success, by status."""
    found = [*EVERYONES, *endpoint.errors]
    members = [member for name, member in endpoint.request.model_fields.items() if not is_in_path(endpoint, name)]
    if any(member.annotation is not object for member in members):  # an object is whatever it is
        found += OF_MEMBERS
    if any(member.is_required() for member in members) or (has_body(endpoint) and _requires_within(endpoint)):
        found += OF_REQUIRED_MEMBERS
    if "{" in endpoint.path:
        found += OF_PATHS
    if issubclass(endpoint.request, StrictRequest):
        found += OF_CONTRACTS
    if endpoint.error_format.api_keys:
        found += OF_API_KEYS
    if has_body(endpoint):
        found += OF_BODIES
    if endpoint.accepts_idempotency_key:
        found += OF_IDEMPOTENCY
    return sorted(found, key=lambda refusal: refusal.status)


def _requires_within(endpoint: Endpoint) -> bool:
    """Whether a member's own members are required, though it is not."""
    within = endpoint.request.model_json_schema().get("$defs", {}).values()
    return any(model.get("required") for model in within)


def is_in_path(endpoint: Endpoint, name: str) -> bool:
    return f"{{{name}}}" in endpoint.path


def has_body(endpoint: Endpoint) -> bool:
    return endpoint.method not in ("GET", "DELETE")


def _in_body(endpoint: Endpoint) -> dict[str, FieldInfo]:
    fields = endpoint.request.model_fields.items() if has_body(endpoint) else ()
    return {name: member for name, member in fields if not is_in_path(endpoint, name)}


def document(endpoints: Iterable[Endpoint], server: str = "/functions/v1") -> dict[str, Any]:
    endpoints = list(endpoints)
    models: list[Any] = [(e.request, "validation") for e in endpoints]
    models += [(e.response, "serialization") for e in endpoints if e.response]
    _, definitions = models_json_schema(models, ref_template=REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sync control plane", "version": VERSION},
        "servers": [{"url": server}],
        "security": [{"supabase": []}],
        "paths": {
            path: {e.method.lower(): _operation(e) for e in of_path}
            for path, of_path in groupby(endpoints, key=lambda e: e.path)
        },
        "components": {
            "schemas": {
                **definitions.get("$defs", {}),
                **{e.error_format.error: e.error_format.schema for e in endpoints},
            },
            "securitySchemes": {
                "supabase": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "agency": {"type": "http", "scheme": "bearer", "description": "An API key of your agency."},
                "agencyBasic": {"type": "http", "scheme": "basic", "description": "The key as the user name."},
            },
        },
    }


_REQUEST_ID = "5c0f2a3e-6f0b-4f0e-9d6e-0a4b9b1f7c11"
_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "For 24 hours the same key and request get the same answer, so a lost one can be asked for again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": _parameters(endpoint),
        "responses": {str(endpoint.status): _success(endpoint), **_errors(endpoint)},
    }
    if endpoint.error_format.api_keys:
        operation["security"] = [{"supabase": []}, {"agency": []}, {"agencyBasic": []}]
    in_body = _in_body(endpoint)
    if in_body:
        required = any(member.is_required() for member in in_body.values())
        operation["requestBody"] = {"required": required, "content": {"application/json": _body(endpoint)}}
    return operation


def _body(endpoint: Endpoint) -> dict[str, Any]:
    """The request without what its path says."""
    schema = endpoint.request.model_json_schema(ref_template=REF)
    schema.pop("$defs", None)
    schema["properties"] = {n: m for n, m in schema["properties"].items() if not is_in_path(endpoint, n)}
    schema["required"] = [name for name in schema.get("required", []) if not is_in_path(endpoint, name)]
    example = {name: value for name, value in endpoint.example_request.items() if not is_in_path(endpoint, name)}
    return {"schema": schema, "example": example}


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    schema = endpoint.request.model_json_schema(ref_template=REF)
    required, examples = schema.get("required", []), endpoint.example_request
    found: list[dict[str, Any]] = []
    for name, member in schema.get("properties", {}).items():
        place = "path" if is_in_path(endpoint, name) else "query"
        if place == "path" or not has_body(endpoint):
            one = {"name": name, "in": place, "required": name in required, "schema": _without_null(member)}
            found.append(one | ({"example": examples[name]} if name in examples else {}))
    if issubclass(endpoint.request, FilteredList):
        others = {name: value for name, value in examples.items() if name not in schema["properties"]}
        found.append(filters.parameter(endpoint.request, others))
    if endpoint.accepts_idempotency_key:
        found.append(_KEY_HEADER)
    if endpoint.error_format.version_header:
        versions = {"type": "string", "example": endpoint.error_format.versions[0]}
        found.append(
            {"name": endpoint.error_format.version_header, "in": "header", "required": False, "schema": versions}
        )
    return found


def _without_null(member: dict[str, Any]) -> dict[str, Any]:
    """A query has no null: what may be null in a model may be left out here."""
    if member.get("default", "") is not None:
        return member
    [one] = [variant for variant in member["anyOf"] if variant != {"type": "null"}]
    return {"title": member["title"], **one}


def _success(endpoint: Endpoint) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Success", "headers": _headers(endpoint)}
    if endpoint.response:
        success["content"] = _json(endpoint.response, endpoint.example_response)
    return success


def _headers(endpoint: Endpoint, *names: str) -> dict[str, Any]:
    version = [endpoint.error_format.version_header] if endpoint.error_format.version_header else []
    return {name: {"schema": {"type": "string"}} for name in ["x-request-id", *version, *names]}


def _json(model: type[BaseModel], example: object) -> dict[str, Any]:
    schema = {"$ref": REF.format(model=model.__name__)}
    return {"application/json": {"schema": schema, "example": example}}


def _errors(endpoint: Endpoint) -> dict[str, Any]:
    grouped = groupby(errors(endpoint), key=lambda refusal: refusal.status)
    return {str(status): _error(endpoint, [*group]) for status, group in grouped}


def _error(endpoint: Endpoint, group: Sequence[ErrorSpec]) -> dict[str, Any]:
    examples = {
        one.code: {
            "summary": one.when,
            "value": endpoint.error_format.serialize(
                ApiError(one.status, one.code, one.when, dict(one.members)), _REQUEST_ID
            ),
        }
        for one in group
    }
    further = {503: ["retry-after"], 405: ["allow"], 401: ["www-authenticate"]}.get(group[0].status, [])
    schema = {"$ref": REF.format(model=endpoint.error_format.error)}
    return {
        "description": " ".join(f"`{one.code}`: {one.when}" for one in group),
        "headers": _headers(endpoint, *further),
        "content": {"application/json": {"schema": schema, "examples": examples}},
    }


def main() -> None:
    from functions._shared import registry  # noqa: PLC0415 (the registry serves this document)

    print(json.dumps(document(registry.endpoints()), indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
