"""Every error of a request is one ApiError. `from_database` translates what the database raises, for both transports.

SQLSTATE                                  status
PTnnn (app.raise_error)                   nnn: message = code, detail = sentence, hint = further details as JSON
PGRST301, 302, 303                        401: PostgREST rejects the token
PGRST000-003, 08, 53, 57014, 57P, 40001,
40P01, 55P03, 25006, no response          503 with Retry-After: not now (25006: read-only after a failover)
22, 23502, 23514                          400: a value that a table rejects
23503, 23505                              409
42501                                     403
anything else                             500: logged, never shown
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

RETRY_AFTER_SECONDS = 2


@dataclass
class ApiError(Exception):
    """An error response: HTTP status, stable code, message, further details, further headers."""

    status: int
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ErrorSpec:
    """An error as it is documented. `details` are examples of the details that it always has."""

    status: int
    code: str
    description: str
    details: Mapping[str, Any] = field(default_factory=dict)


def unavailable(code: str, problem: str) -> ApiError:
    """`problem` is a sentence."""
    return ApiError(503, code, f"{problem} Try again in a moment.", headers={"retry-after": str(RETRY_AFTER_SECONDS)})


def database_unavailable() -> ApiError:
    return unavailable("database_unavailable", "The database cannot be reached.")


def internal_error() -> ApiError:
    return ApiError(500, "internal_error", "Internal error. Report the requestId.")


_TEMPORARY = (
    "PGRST000",
    "PGRST001",
    "PGRST002",
    "PGRST003",
    "08",
    "53",
    "57014",
    "57P",
    "25006",
    "40001",
    "40P01",
    "55P03",
)
_INVALID_VALUE = (400, "invalid_value", "The database rejected a value of this request.")
_CONFLICT = (409, "conflict", "This conflicts with what the database holds.")
_BY_SQLSTATE = {
    "22": _INVALID_VALUE,
    "23502": _INVALID_VALUE,
    "23514": _INVALID_VALUE,
    "23503": _CONFLICT,
    "23505": _CONFLICT,
    "42501": (403, "forbidden", "You are not allowed to do this."),
}


def from_database(code: str | None, message: str, detail: str | None, hint: str | None) -> ApiError | None:
    """The ApiError for an error of the database. None if the caller did not cause it, which makes it a 500."""
    code = code or ""
    if code.startswith("PT") and code[2:].isdigit():
        headers = {"retry-after": str(RETRY_AFTER_SECONDS)} if code == "PT503" else {}
        return ApiError(int(code[2:]), message, detail or message, _details(hint), headers)
    if code in {"PGRST301", "PGRST302", "PGRST303"}:
        return ApiError(401, "invalid_token", "This token is not valid any more. Sign in again.")
    if code.startswith(_TEMPORARY):
        return database_unavailable()
    known = _BY_SQLSTATE.get(code) or _BY_SQLSTATE.get(code[:2])
    return ApiError(*known) if known else None


def _details(hint: str | None) -> dict[str, Any]:
    try:
        details = json.loads(hint or "{}")
    except ValueError:  # a hint for people, which no caller needs
        details = {}
    return details if isinstance(details, dict) else {}
