"""How an API speaks: who may call it, how its errors are spelled, which header names its version. Rules are in SQL."""

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
    """`spell` makes an error's members of a problem and the request's id; `schema` describes them (JSON Schema), and
    `error` is what the document calls it.

    `api_keys`: an agency's own servers may call with a key. `versions`: what `version_header` says, the current first.
    """

    error: str
    serialize: Callable[[ApiError, str], dict[str, Any]]
    schema: dict[str, Any]
    api_keys: bool = False
    version_header: str | None = None
    versions: tuple[str, ...] = ()

    def version(self, asked: str | None) -> str:
        """The version that serves: the one asked for, or the current one."""
        return asked if asked in self.versions else self.versions[0]


def _object(**members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(members), "properties": members, "additionalProperties": True}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


_SENTENCE = _text("A sentence that says what to do next.")
_STABLE = _text("Stable; branch on this.")
_REQUEST_ID = _text("Also the header x-request-id.")


def _spell_plain(problem: ApiError, request_id: str) -> dict[str, Any]:
    return {"error": problem.message, "code": problem.code, "requestId": request_id, **problem.details}


def _spell_polytomic(problem: ApiError, request_id: str) -> dict[str, Any]:
    """Both of the error objects that the published clients know, in one: ApiError (key, message, metadata, status) and
    RestErrResponse (code, error). A 401 has no `status`: the old clients read a text there and the new ones a number.
    """
    spelled = {
        "key": problem.code,
        "message": problem.message,
        "error": problem.message,
        "code": problem.status,
        "metadata": problem.details,
        "requestId": request_id,
    }
    return spelled if problem.status == HTTPStatus.UNAUTHORIZED else {**spelled, "status": problem.status}


def _spell_truto(problem: ApiError, request_id: str) -> dict[str, Any]:
    return {
        "statusCode": problem.status,
        "error": HTTPStatus(problem.status).phrase,
        "message": problem.message,
        "code": problem.code,
        "requestId": request_id,
        **problem.details,
    }


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _spell_problem(problem: ApiError, request_id: str) -> dict[str, Any]:
    """RFC 9457, with the members that its predecessors in this API had. Sent as plain JSON, which clients parse."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.message,
        "instance": f"urn:request:{request_id}",
        "error": problem.message,
        "details": {name: _as_text(value) for name, value in problem.details.items()},
        "code": problem.code,
        "requestId": request_id,
        **problem.details,
    }


PLAIN = ErrorFormat("Error", _spell_plain, _object(error=_SENTENCE, code=_STABLE, requestId=_REQUEST_ID))

# Source: the published API and its clients (PyPI and npm `polytomic`).
POLYTOMIC = ErrorFormat(
    "ApiError",
    _spell_polytomic,
    _object(
        key=_STABLE,
        message=_SENTENCE,
        error=_SENTENCE,
        code={"type": "integer", "description": "The HTTP status."},
        metadata={"type": "object", "description": "What else there is to know.", "additionalProperties": True},
        requestId=_REQUEST_ID,
    ),
    api_keys=True,
    version_header="x-polytomic-version",
    versions=("2025-09-18", "2024-02-08", "2023-04-25", "2022-12-12", "2021-05-23"),
)

# Source: the published API of sync jobs.
TRUTO = ErrorFormat(
    "StatusError",
    _spell_truto,
    _object(
        statusCode={"type": "integer"},
        error=_text("The status's reason phrase."),
        message=_SENTENCE,
        code=_STABLE,
        requestId=_REQUEST_ID,
    ),
    api_keys=True,
)

# Source: the published API of bulk actions.
PROBLEM = ErrorFormat(
    "Problem",
    _spell_problem,
    _object(
        type=_text("A URI reference that names the kind of problem."),
        title=_text("The status's reason phrase."),
        status={"type": "integer"},
        detail=_SENTENCE,
        instance=_text("Which occurrence: the request's id as a URN."),
        error=_text("As `detail`, for older clients."),
        details={"type": "object", "additionalProperties": {"type": "string"}},
        code=_STABLE,
        requestId=_REQUEST_ID,
    ),
    api_keys=True,
)
