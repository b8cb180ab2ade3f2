"""errors.py: each row of its table of database errors."""

from __future__ import annotations

import pytest

from functions._shared.errors import (
    ApiError,
    database_unavailable,
    from_database,
    internal_error,
    unavailable,
)

UNAVAILABLE = database_unavailable()
TEMPORARY_STATES = ["PGRST000", "PGRST001", "PGRST002", "PGRST003", "08000", "08P01", "53000", "53400"]
TEMPORARY_STATES += ["57014", "57P01", "57P05", "40001", "40P01", "55P03"]
INTERNAL_STATES = ["00000", "23000", "23P01", "42883", "42P01", "57000", "55000", "40000", "XX000", "P0001"]
INTERNAL_STATES += ["PGRST202", "PGRST999", "PT", "PTx", "PT-40", "nope"]


@pytest.mark.parametrize("code", ["PGRST301", "PGRST302", "PGRST303"])
def test_from_database__postgrest_refuses_the_token(code: str) -> None:
    error = from_database(code, "JWT expired", "d", "h")
    assert error
    assert (error.status, error.code) == (401, "invalid_token")
    assert "JWT" not in error.message


@pytest.mark.parametrize("code", TEMPORARY_STATES)
def test_from_database__temporary_errors(code: str) -> None:
    assert from_database(code, "m", "d", "h") == UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "status"),
    [("22P02", 400), ("22000", 400), ("23502", 400), ("23514", 400), ("23503", 409), ("23505", 409), ("42501", 403)],
)
def test_from_database__constraint_errors_quote_nothing(code: str, status: int) -> None:
    error = from_database(code, "t0p", "t0p", '{"t0p": 1}')
    assert error
    assert (error.status, error.details, error.headers) == (status, {}, {})
    assert "t0p" not in error.message


@pytest.mark.parametrize("code", [None, "", "PT4 0", *INTERNAL_STATES])
def test_from_database__other_errors_are_ours(code: str | None) -> None:
    assert from_database(code, "m", "d", "h") is None


@pytest.mark.parametrize(
    ("hint", "members"),
    [
        (None, {}),
        ("", {}),
        ("{}", {}),
        ('{"current_status": "failed"}', {"current_status": "failed"}),
        ("[]", {}),
        ("null", {}),
        ("1", {}),
        ("Perhaps you meant another function.", {}),
        ('{"a":', {}),
    ],
)
def test_from_database__hint_holds_details(hint: str | None, members: object) -> None:
    assert from_database("PT400", "a_code", "A sentence.", hint) == ApiError(400, "a_code", "A sentence.", members)  # type: ignore[arg-type]


def test_from_database__code_without_a_message() -> None:
    assert from_database("PT418", "a_code", None, None) == ApiError(418, "a_code", "a_code")


def test_from_database__503_has_retry_after() -> None:
    error = from_database("PT503", "busy", "Busy.", None)
    assert error
    assert error.headers == UNAVAILABLE.headers


def test_api_error__instances_share_no_state() -> None:
    def conflict() -> ApiError:
        error = from_database("23505", "", "", "")
        assert error
        return error

    for make in (database_unavailable, internal_error, conflict):
        one, other = make(), make()
        one.details["x"] = one.headers["x"] = "changed"
        assert "x" not in other.details
        assert "x" not in other.headers


def test_api_error__messages_are_sentences() -> None:
    for error in (UNAVAILABLE, internal_error(), unavailable("x", "The Auth server cannot be reached.")):
        assert error.message[0].isupper()
        assert error.message.endswith(".")
    assert int(UNAVAILABLE.headers["retry-after"]) > 0
