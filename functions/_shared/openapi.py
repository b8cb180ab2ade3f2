"""The API as OpenAPI 3.1, made from the endpoints' declarations and models.

`python -m functions._build.openapi` prints it. The functions serve it at /functions/v1/openapi.json.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from functions._shared import error_catalog as catalog
from functions._shared import filters
from functions._shared.errors import ApiError
from functions._shared.fields import StrictRequest
from functions._shared.filters import FilteredList
from functions._shared.http import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from functions._shared.endpoint import Endpoint
    from functions._shared.errors import ErrorSpec

VERSION = "0.1.0"
REF = "#/components/schemas/{model}"

COMMON_ERRORS = (
    catalog.MISSING_TOKEN,
    catalog.INVALID_TOKEN,
    catalog.EXPIRED_TOKEN,
    catalog.REVOKED_TOKEN,
    catalog.NO_AGENCY,
    catalog.METHOD_NOT_ALLOWED,
    catalog.BODY_TOO_LARGE,
    catalog.INTERNAL_ERROR,
    catalog.AUTH_UNAVAILABLE,
    catalog.DATABASE_UNAVAILABLE,
)
BODY_ERRORS = (catalog.INVALID_JSON, catalog.INVALID_REQUEST)
IDEMPOTENCY_ERRORS = (
    catalog.INVALID_IDEMPOTENCY_KEY,
    catalog.IDEMPOTENCY_KEY_IN_USE,
    catalog.IDEMPOTENCY_KEY_REUSED,
)


def errors(endpoint: Endpoint) -> Sequence[ErrorSpec]:
    """All errors of an endpoint, by status: its own, and those that follow from its declaration."""
    found = [*COMMON_ERRORS, *endpoint.errors]
    fields = [field for name, field in endpoint.request.model_fields.items() if not is_in_path(endpoint, name)]
    if any(field.annotation is not object for field in fields):  # `object` accepts every value
        found.append(catalog.INVALID_FIELD)
    if any(field.is_required() for field in fields) or (endpoint.has_body and _has_required_subfields(endpoint)):
        found.append(catalog.MISSING_FIELD)
    if "{" in endpoint.path:
        found.append(catalog.NOT_FOUND)
    if issubclass(endpoint.request, StrictRequest):
        found.append(catalog.UNSUPPORTED_FIELD)
    if endpoint.error_format.api_keys:
        found.append(catalog.INVALID_API_KEY)
    if endpoint.has_body:
        found += BODY_ERRORS
    if endpoint.accepts_idempotency_key:
        found += IDEMPOTENCY_ERRORS
    return sorted(found, key=lambda error: error.status)


def _has_required_subfields(endpoint: Endpoint) -> bool:
    nested = endpoint.request.model_json_schema().get("$defs", {}).values()
    return any(model.get("required") for model in nested)


def is_in_path(endpoint: Endpoint, name: str) -> bool:
    return f"{{{name}}}" in endpoint.path


def _in_body(endpoint: Endpoint) -> dict[str, FieldInfo]:
    fields = endpoint.request.model_fields.items() if endpoint.has_body else ()
    return {name: member for name, member in fields if not is_in_path(endpoint, name)}


def document(endpoints: Iterable[Endpoint], server: str = PREFIX) -> dict[str, Any]:
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
                **{e.error_format.name: e.error_format.schema for e in endpoints},
            },
            "securitySchemes": {
                "supabase": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "agency": {"type": "http", "scheme": "bearer", "description": "An API key of your agency."},
                "agencyBasic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The API key as the user name.",
                },
            },
        },
    }


_REQUEST_ID = "5c0f2a3e-6f0b-4f0e-9d6e-0a4b9b1f7c11"
_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Repeating a request with the same key within 24 hours returns the first response again.",
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
    """The request model without the fields in the path."""
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
        if place == "path" or not endpoint.has_body:
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
    """A query has no null: a field that may be null in the model is optional here."""
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
    grouped = groupby(errors(endpoint), key=lambda error: error.status)
    return {str(status): _error(endpoint, [*group]) for status, group in grouped}


def _error(endpoint: Endpoint, group: Sequence[ErrorSpec]) -> dict[str, Any]:
    examples = {error.code: {"summary": error.description, "value": _example(endpoint, error)} for error in group}
    further = {503: ["retry-after"], 405: ["allow"], 401: ["www-authenticate"]}.get(group[0].status, [])
    schema = {"$ref": REF.format(model=endpoint.error_format.name)}
    return {
        "description": " ".join(f"`{error.code}`: {error.description}" for error in group),
        "headers": _headers(endpoint, *further),
        "content": {"application/json": {"schema": schema, "examples": examples}},
    }


def _example(endpoint: Endpoint, error: ErrorSpec) -> dict[str, Any]:
    example = ApiError(error.status, error.code, error.description, dict(error.details))
    return endpoint.error_format.serialize(example, _REQUEST_ID)
