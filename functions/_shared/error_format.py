"""The error format of each published API: its JSON, whether it accepts API keys, and its version header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions._shared.errors import ApiError


@dataclass(frozen=True)
class ErrorFormat:
    """`serialize` makes the JSON of an error and a request id. `schema` is its JSON Schema, `name` the schema's name.

    `api_keys`: whether an agency's servers may call with an API key. `versions`: the values of `version_header`, the
    current one first.
    """

    name: str
    serialize: Callable[[ApiError, str], dict[str, Any]]
    schema: dict[str, Any]
    api_keys: bool = False
    version_header: str | None = None
    versions: tuple[str, ...] = ()

    def version(self, requested: str | None) -> str:
        """The version of a response: the requested one if it exists, else the current one."""
        return requested if requested in self.versions else self.versions[0]


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": True,
    }


def _string(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


_MESSAGE = _string("What went wrong and what to do, for people.")
_CODE = _string("A stable code, for programs.")
_REQUEST_ID = _string("Also in the header x-request-id.")


def _plain(error: ApiError, request_id: str) -> dict[str, Any]:
    return {"error": error.message, "code": error.code, "requestId": request_id, **error.details}


def _polytomic(error: ApiError, request_id: str) -> dict[str, Any]:
    """Both error objects of the published clients in one: ApiError (key, message, metadata, status) and
    RestErrResponse (code, error). A 401 has no `status`, because old clients expect a string and new ones a number.
    """
    body = {
        "key": error.code,
        "message": error.message,
        "error": error.message,
        "code": error.status,
        "metadata": error.details,
        "requestId": request_id,
    }
    return body if error.status == HTTPStatus.UNAUTHORIZED else {**body, "status": error.status}


def _truto(error: ApiError, request_id: str) -> dict[str, Any]:
    return {
        "statusCode": error.status,
        "error": HTTPStatus(error.status).phrase,
        "message": error.message,
        "code": error.code,
        "requestId": request_id,
        **error.details,
    }


def _problem(error: ApiError, request_id: str) -> dict[str, Any]:
    """RFC 9457, with the members of its predecessors in this API. Sent as application/json, which old clients parse."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.message,
        "instance": f"urn:request:{request_id}",
        "error": error.message,
        "details": {name: _as_string(value) for name, value in error.details.items()},
        "code": error.code,
        "requestId": request_id,
        **error.details,
    }


def _as_string(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


PLAIN = ErrorFormat("Error", _plain, _object(error=_MESSAGE, code=_CODE, requestId=_REQUEST_ID))

# Source: the published API and its clients (PyPI and npm `polytomic`).
POLYTOMIC = ErrorFormat(
    "ApiError",
    _polytomic,
    _object(
        key=_CODE,
        message=_MESSAGE,
        error=_MESSAGE,
        code={"type": "integer", "description": "The HTTP status."},
        metadata={"type": "object", "description": "Further details.", "additionalProperties": True},
        requestId=_REQUEST_ID,
    ),
    api_keys=True,
    version_header="x-polytomic-version",
    versions=("2025-09-18", "2024-02-08", "2023-04-25", "2022-12-12", "2021-05-23"),
)

# Source: the published API of sync jobs.
TRUTO = ErrorFormat(
    "StatusError",
    _truto,
    _object(
        statusCode={"type": "integer"},
        error=_string("The reason phrase of the status."),
        message=_MESSAGE,
        code=_CODE,
        requestId=_REQUEST_ID,
    ),
    api_keys=True,
)

# Source: the published API of bulk actions.
PROBLEM = ErrorFormat(
    "Problem",
    _problem,
    _object(
        type=_string("A URI reference that names the kind of problem."),
        title=_string("The reason phrase of the status."),
        status={"type": "integer"},
        detail=_MESSAGE,
        instance=_string("The request id as a URN."),
        error=_string("The same as `detail`, for older clients."),
        details={"type": "object", "additionalProperties": {"type": "string"}},
        code=_CODE,
        requestId=_REQUEST_ID,
    ),
    api_keys=True,
)
