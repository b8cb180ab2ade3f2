"""What the database raises, as the one problem that callers see: the table in errors.py, row by row."""

from __future__ import annotations

import pytest

from functions._shared.errors import (
    ApiError,
    database_unavailable,
    from_database,
    internal_error,
    unavailable,
)

NOT_NOW = database_unavailable()
NOT_NOW_STATES = ["PGRST000", "PGRST001", "PGRST002", "PGRST003", "08000", "08P01", "53000", "53400"]
NOT_NOW_STATES += ["57014", "57P01", "57P05", "40001", "40P01", "55P03"]
OUR_STATES = ["00000", "23000", "23P01", "42883", "42P01", "57000", "55000", "40000", "XX000", "P0001"]
OUR_STATES += ["PGRST202", "PGRST999", "PT", "PTx", "PT-40", "nope"]


@pytest.mark.parametrize("code", ["PGRST301", "PGRST302", "PGRST303"])
def test_a_token_that_postgrest_refuses(code: str) -> None:
    problem = from_database(code, "JWT expired", "d", "h")
    assert problem
    assert (problem.status, problem.code) == (401, "invalid_token")
    assert "JWT" not in problem.message


@pytest.mark.parametrize("code", NOT_NOW_STATES)
def test_what_may_succeed_in_a_moment(code: str) -> None:
    assert from_database(code, "m", "d", "h") == NOT_NOW


@pytest.mark.parametrize(
    ("code", "status"),
    [("22P02", 400), ("22000", 400), ("23502", 400), ("23514", 400), ("23503", 409), ("23505", 409), ("42501", 403)],
)
def test_native_refusals_are_spelled_by_us(code: str, status: int) -> None:
    problem = from_database(code, "t0p", "t0p", '{"t0p": 1}')
    assert problem
    assert (problem.status, problem.details, problem.headers) == (status, {}, {})
    assert "t0p" not in problem.message


@pytest.mark.parametrize("code", [None, "", "PT4 0", *OUR_STATES])
def test_anything_else_is_no_problem_of_the_caller(code: str | None) -> None:
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
def test_the_hint_of_a_refusal_is_its_further_members(hint: str | None, members: object) -> None:
    assert from_database("PT400", "a_code", "A sentence.", hint) == ApiError(400, "a_code", "A sentence.", members)  # type: ignore[arg-type]


def test_a_refusal_without_a_sentence_has_its_code() -> None:
    assert from_database("PT418", "a_code", None, None) == ApiError(418, "a_code", "a_code")


def test_a_503_of_the_database_says_when_to_return() -> None:
    problem = from_database("PT503", "busy", "Busy.", None)
    assert problem
    assert problem.headers == NOT_NOW.headers


def test_problems_share_nothing() -> None:
    def conflict() -> ApiError:
        problem = from_database("23505", "", "", "")
        assert problem
        return problem

    for make in (database_unavailable, internal_error, conflict):
        one, other = make(), make()
        one.details["x"] = one.headers["x"] = "changed"
        assert "x" not in other.details
        assert "x" not in other.headers


def test_sentences_are_sentences() -> None:
    for problem in (NOT_NOW, internal_error(), unavailable("x", "The Auth server cannot be reached.")):
        assert problem.message[0].isupper()
        assert problem.message.endswith(".")
    assert int(NOT_NOW.headers["retry-after"]) > 0
