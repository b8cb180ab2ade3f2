"""The API as OpenAPI 3.1, from the registry and the models: what is declared is what is documented.

`python -m functions._shared.openapi` prints it; the functions serve it at /functions/v1/openapi.json.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from functions._shared.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import BaseModel

    from functions._shared.endpoint import Endpoint

VERSION = "0.1.0"
REF = "#/components/schemas/{model}"

# What any endpoint may answer, because every request takes the same way.
EVERYONES = (
    Refusal(400, "invalid_field", "A member has the wrong type or value; `field` names it.", {"field": "job_id"}),
    Refusal(401, "missing_token", "There is no access token."),
    Refusal(401, "invalid_token", "The token is malformed, forged or another project's."),
    Refusal(401, "expired_token", "The token has expired: refresh the session."),
    Refusal(401, "revoked_token", "The session has ended or its user is gone: sign in again."),
    Refusal(403, "no_agency", "Your user belongs to no agency."),
    Refusal(405, "method_not_allowed", "Another method is meant; `Allow` names it."),
    Refusal(413, "body_too_large", "The body is larger than 1 MiB."),
    Refusal(500, "internal_error", "Ours; nothing of it is shown."),
    Refusal(503, "auth_unavailable", "The Auth server cannot be reached; `Retry-After` says when to try again."),
    Refusal(503, "database_unavailable", "The database cannot be reached; `Retry-After` says when to try again."),
)
OF_REQUIRED_MEMBERS = (
    Refusal(400, "missing_field", "A required member is missing; `field` names it.", {"field": "job_id"}),
)
OF_BODIES = (
    Refusal(400, "invalid_json", "The body is not JSON."),
    Refusal(400, "invalid_request", "The body is not an object, or its members do not go together."),
)
OF_IDEMPOTENCY = (
    Refusal(400, "invalid_idempotency_key", "The Idempotency-Key is empty, too long or not printable ASCII."),
    Refusal(409, "idempotency_key_in_use", "The first request with this Idempotency-Key is still under way."),
    Refusal(422, "idempotency_key_reused", "This Idempotency-Key came with another request."),
)


def refusals(endpoint: Endpoint) -> Sequence[Refusal]:
    """All that this endpoint may answer besides its success, by status."""
    found = [*EVERYONES, *endpoint.refusals]
    if any(member.is_required() for member in endpoint.request.model_fields.values()):
        found += OF_REQUIRED_MEMBERS
    if endpoint.method != "GET":
        found += [*OF_BODIES, *OF_IDEMPOTENCY]
    return sorted(found, key=lambda refusal: refusal.status)


def document(endpoints: Iterable[Endpoint], server: str = "/functions/v1") -> dict[str, Any]:
    endpoints = list(endpoints)
    models = [(e.request, "validation") for e in endpoints] + [(e.response, "serialization") for e in endpoints]
    _, definitions = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sync control plane", "version": VERSION},
        "servers": [{"url": server}],
        "security": [{"supabase": []}],
        "paths": {e.path: {e.method.lower(): _operation(e)} for e in endpoints},
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"supabase": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


_REQUEST_ID = "5c0f2a3e-6f0b-4f0e-9d6e-0a4b9b1f7c11"
_ERROR = {
    "type": "object",
    "required": ["error", "code", "requestId"],
    "properties": {
        "error": {"type": "string", "description": "A sentence that says what to do next."},
        "code": {"type": "string", "description": "Stable; branch on this."},
        "requestId": {"type": "string", "description": "Also the header x-request-id."},
    },
    "additionalProperties": True,
}
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
        "responses": {str(endpoint.status): _success(endpoint), **_errors(endpoint)},
    }
    if endpoint.method == "GET":
        operation["parameters"] = _query(endpoint)
    else:
        operation["parameters"] = [_KEY_HEADER]
        operation["requestBody"] = {"required": True, "content": _json(endpoint.request, endpoint.example_request)}
    return operation


def _query(endpoint: Endpoint) -> list[dict[str, Any]]:
    schema = endpoint.request.model_json_schema(ref_template=REF)
    required, examples = schema.get("required", []), endpoint.example_request
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(member)}
        | ({"example": examples[name]} if name in examples else {})
        for name, member in schema["properties"].items()
    ]


def _without_null(member: dict[str, Any]) -> dict[str, Any]:
    """A query has no null: what may be null in a model may be left out here."""
    if member.get("default", "") is not None:
        return member
    [one] = [variant for variant in member["anyOf"] if variant != {"type": "null"}]
    return {"title": member["title"], **one}


def _success(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "description": "Success",
        "headers": {"x-request-id": {"schema": {"type": "string"}}},
        "content": _json(endpoint.response, endpoint.example_response),
    }


def _json(model: type[BaseModel], example: object) -> dict[str, Any]:
    schema = {"$ref": REF.format(model=model.__name__)}
    return {"application/json": {"schema": schema, "example": example}}


def _errors(endpoint: Endpoint) -> dict[str, Any]:
    grouped = groupby(refusals(endpoint), key=lambda refusal: refusal.status)
    return {str(status): _error([*group]) for status, group in grouped}


def _error(group: Sequence[Refusal]) -> dict[str, Any]:
    examples = {
        refusal.code: {
            "summary": refusal.when,
            "value": {
                "error": refusal.when,
                "code": refusal.code,
                "requestId": _REQUEST_ID,
                **refusal.members,
            },
        }
        for refusal in group
    }
    headers = {503: ["retry-after"], 405: ["allow"], 401: ["www-authenticate"]}.get(group[0].status, [])
    return {
        "description": " ".join(f"`{refusal.code}`: {refusal.when}" for refusal in group),
        "headers": {name: {"schema": {"type": "string"}} for name in ["x-request-id", *headers]},
        "content": {"application/json": {"schema": {"$ref": REF.format(model="Error")}, "examples": examples}},
    }


def main() -> None:
    from functions._shared import registry  # noqa: PLC0415 (the registry serves this document)

    print(json.dumps(document(registry.endpoints()), indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
