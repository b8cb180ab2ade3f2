"""Every refusal is one `Problem`; what the database raises becomes one here, through either door.

SQLSTATE                                  status
PTnnn (app.raise_error)                        nnn: message = code, detail = sentence, hint = further members as JSON
PGRST301, 302, 303                        401: the token, as PostgREST sees it
PGRST000-003, 08, 53, 57014, 57P, 40001,
40P01, 55P03, 25006, no answer            503 with Retry-After: not now (25006: a fail-over left it read-only)
22, 23502, 23514                          400: a value that the tables refuse
23503, 23505                              409
42501                                     403
anything else                             500: logged, and nothing of it shown
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
    """What the caller is told: HTTP status, a stable code, a sentence, further members, further headers."""

    status: int
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ErrorSpec:
    """A problem as it is documented: `members` are those beyond error, code and requestId, with examples."""

    status: int
    code: str
    when: str
    members: Mapping[str, Any] = field(default_factory=dict)


def unavailable(code: str, what: str) -> ApiError:
    sentence = f"{what} cannot be reached. Try again in a moment."
    return ApiError(503, code, sentence, headers={"retry-after": str(RETRY_AFTER_SECONDS)})


def database_unavailable() -> ApiError:
    return unavailable("database_unavailable", "The database")


def internal_error() -> ApiError:
    return ApiError(500, "internal_error", "Something went wrong here. Tell us the requestId if it persists.")


_NOT_NOW = (
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
_NATIVE = {
    "22": ApiError(400, "invalid_value", "The database refused a value of this request."),
    "23502": ApiError(400, "invalid_value", "The database refused a value of this request."),
    "23514": ApiError(400, "invalid_value", "The database refused a value of this request."),
    "23503": ApiError(409, "conflict", "This conflicts with what the database holds."),
    "23505": ApiError(409, "conflict", "This conflicts with what the database holds."),
    "42501": ApiError(403, "forbidden", "You may not do this."),
}


def from_database(code: str | None, message: str, detail: str | None, hint: str | None) -> ApiError | None:
    """The problem that an error of the database stands for; None for one that is ours, and so a 500."""
    code = code or ""
    if code.startswith("PT") and code[2:].isdigit():
        headers = {"retry-after": str(RETRY_AFTER_SECONDS)} if code == "PT503" else {}
        return ApiError(int(code[2:]), message, detail or message, _members(hint), headers)
    if code in {"PGRST301", "PGRST302", "PGRST303"}:
        return ApiError(401, "invalid_token", "This token is not valid any more. Sign in again.")
    if code.startswith(_NOT_NOW):
        return database_unavailable()
    native = _NATIVE.get(code) or _NATIVE.get(code[:2])
    return ApiError(native.status, native.code, native.message) if native else None


def _members(hint: str | None) -> dict[str, Any]:
    try:
        members = json.loads(hint or "{}")
    except ValueError:  # a hint in words: the refusal stands without it
        members = {}
    return members if isinstance(members, dict) else {}
