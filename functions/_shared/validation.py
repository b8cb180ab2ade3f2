"""From a request to the arguments of an SQL function, as the request model describes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import from_json

from functions._shared.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from functions._shared.http import Request

MAX_BODY_BYTES = 1024 * 1024
BODILESS_METHODS = ("GET", "DELETE")

_NOT_SUPPORTED = {"unsupported", "extra_forbidden"}
# Messages of this API for Pydantic's error types. {braces} are members of the error's context.
_MESSAGES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "datetime_from_date_parsing": "must be a time like 2026-11-22T13:47:26Z",
    "datetime_object_invalid": "must be a time like 2026-11-22T13:47:26Z",
    "datetime_parsing": "must be a time like 2026-11-22T13:47:26Z",
    "datetime_type": "must be a time like 2026-11-22T13:47:26Z",
    "dict_type": "must be an object",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be an integer",
    "int_type": "must be an integer",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be an array",
    "literal_error": "must be {expected}",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "string_too_long": "must have at most {max_length} characters",
    "string_type": "must be a string",
    "string_unicode": "must be a valid Unicode string",
    "too_long": "must have at most {max_length} {unit}",
    "uuid_parsing": "must be a UUID",
    "uuid_type": "must be a UUID",
}
_EMPTY = {"string_too_short", "too_short"}  # no minimum but 1 is used


def read_arguments(model: type[BaseModel], request: Request, path_parameters: Mapping[str, str]) -> dict[str, Any]:
    """The model's fields from the path and the query or body, without nulls. Raises ApiError."""
    if len(request.body) > MAX_BODY_BYTES:
        raise ApiError(413, "body_too_large", f"The body may have at most {MAX_BODY_BYTES} bytes.")
    try:
        if request.method in BODILESS_METHODS:
            parsed = model.model_validate_strings({**request.query, **path_parameters}, strict=True)
        else:
            body = _with_path_parameters(request.body or b"{}", path_parameters)
            parsed = model.model_validate_json(body, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)  # the input may be long, or secret
        raise _validation_error(details, path_parameters) from None
    return parsed.model_dump(mode="json", by_alias=True, exclude_none=True)


def _with_path_parameters(body: bytes, path_parameters: Mapping[str, str]) -> bytes:
    """The body with the path parameters in it. The model rejects a body that is not a JSON object."""
    if not path_parameters:
        return body
    try:
        value = from_json(body)
    except ValueError:
        return body
    return json.dumps({**value, **path_parameters}).encode() if isinstance(value, dict) else body


def _validation_error(errors: list[ErrorDetails], path_parameters: Mapping[str, str]) -> ApiError:
    """Malformed ids in the path first, then invalid fields (the first one), then unsupported ones (all of them)."""
    for error in errors:
        if error["loc"] and error["loc"][0] in path_parameters:
            return ApiError(404, "not_found", f"Not found. {_sentence(error)}")
    invalid = [error for error in errors if error["type"] not in _NOT_SUPPORTED]
    if invalid:
        return _invalid_field(invalid[0])
    fields = [_field(error) for error in errors]
    message = f"Not supported yet: {', '.join(fields)[:1000]}."
    return ApiError(422, "unsupported_field", message, {"fields": fields[:100]})


def _invalid_field(error: ErrorDetails) -> ApiError:
    field = _field(error)
    if error["type"] == "json_invalid":
        return ApiError(400, "invalid_json", "The body is not valid JSON.")
    if not field:
        message = _message(error) if error["type"] == "value_error" else "The body must be a JSON object."
        return ApiError(400, "invalid_request", message)
    if error["type"] == "missing":
        return ApiError(400, "missing_field", f"{field} is required.", {"field": field})
    return ApiError(400, "invalid_field", _sentence(error), {"field": field})


def _field(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"])[:200]


def _sentence(error: ErrorDetails) -> str:
    return f"{_field(error)} {_message(error)}."


def _message(error: ErrorDetails) -> str:
    if error["type"] in _EMPTY:
        return "must not be empty"
    template = _MESSAGES.get(error["type"])
    if template is None:
        return error["msg"].removeprefix("Value error, ")
    context = error.get("ctx", {})
    unit = "items" if context.get("field_type") == "List" else "characters"
    return template.format(**context, unit=unit)
