"""Conventions that connect an endpoint's files. Each failure says what to add, and where."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from functions._local import schema
from functions._shared import registry
from tests.matrix import test_openapi, test_query_plans
from tests.support import documented

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.conventions

ROOT = schema.ROOT
TESTS = ROOT / "tests"


def require(condition: bool, messages: list[str]) -> None:
    """Fails with these messages only, because the compared values are long and name no remedy."""
    if not condition:
        pytest.fail("\n".join(sorted(messages)), pytrace=False)


# An endpoint: its request, tests, query plan and errors. tests/unit/test_declarations.py holds its declaration.


def test_endpoint__has_a_test() -> None:
    tests = "\n".join(file.read_text() for folder in ("api", "sql") for file in (TESTS / folder).glob("test_*.py"))
    not_named = {
        endpoint.name for endpoint in registry.endpoints() if not re.search(rf"(\b|test_){endpoint.name}(\b|__)", tests)
    }
    untested, stale = not_named - TESTED_BY_FAMILY, TESTED_BY_FAMILY - not_named
    require(
        not untested, [f"Write tests/api/test_{name}.py, or name {name} in a test of its family." for name in untested]
    )
    require(not stale, [f"Remove {name} from TESTED_BY_FAMILY in tests/unit/test_conventions.py." for name in stale])


# Endpoints that the family's tests call by their path, through a client of tests/support.
TESTED_BY_FAMILY = {
    "cancel_bulk_sync", "list_bulk_sync_executions", "get_bulk_sync_execution", "get_bulk_sync_status", "list_models",
    "get_model", "delete_model_sync", "get_model_sync", "cancel_model_sync", "list_model_sync_executions",
    "get_model_sync_execution", "get_model_sync_status",
}  # fmt: skip


def test_public_function__has_a_query_plan() -> None:
    functions = {file.stem for file in schema.declared() if file.parent.name == "public"}
    called, not_called = test_query_plans.CALLED, test_query_plans.NOT_CALLED
    require(
        functions <= called | not_called,
        [
            "Add a line to CALLS in tests/matrix/test_query_plans.py, with a part of the function's result:"
            f'\n    "…": Call(user, "{name}", given(…), "…"),'
            for name in functions - called - not_called
        ],
    )
    require(not called & not_called, [f"Remove {name} from NOT_CALLED: it is called." for name in called & not_called])
    gone = (called | not_called) - functions
    require(not gone, [f"Remove {name} from tests/matrix/test_query_plans.py: it is not declared." for name in gone])


def test_error__is_provoked() -> None:
    documented_errors = {error for endpoint in registry.endpoints() for error in documented.errors(endpoint.name)}
    missing, gone = documented_errors - set(test_openapi.PROVOKED), set(test_openapi.PROVOKED) - documented_errors
    require(
        not missing,
        [
            "Add a line to PROVOKED in tests/matrix/test_openapi.py, with a request that gets this error from each"
            f' endpoint that documents it:\n    ({status}, "{code}"): lambda scenario: scenario.send(request={{…}}),'
            for status, code in missing
        ],
    )
    require(
        not gone,
        [f"Remove {error} from PROVOKED in tests/matrix/test_openapi.py: no endpoint documents it." for error in gone],
    )


# Names of tests

FOLDERS = {"unit", "sql", "api", "matrix", "system", "chaos", "bench"}


def test_test_modules__stand_in_a_folder_by_what_they_need() -> None:
    elsewhere = [
        str(file.relative_to(ROOT))
        for file in TESTS.rglob("test_*.py")
        if "node_modules" not in file.parts and file.parent.relative_to(TESTS).as_posix() not in FOLDERS
    ]
    require(not elsewhere, [f"Move {file} to one of the folders {sorted(FOLDERS)} of tests/." for file in elsewhere])


def misnamed_tests(file: Path) -> list[str]:
    """The place and name of each test that does not name its unit and case."""
    lines = enumerate(file.read_text().splitlines(), 1)
    names = [(line, found[1]) for line, text in lines if (found := re.match(r" *(?:async )?def (test_\w+)", text))]
    return [
        f"{file.relative_to(ROOT)}:{line} {name}" for line, name in names if not re.match(r"test_[a-z0-9_]+?__", name)
    ]


def test_tests__are_named_after_unit_and_case() -> None:
    modules = [file for folder in FOLDERS for file in (TESTS / folder).glob("test_*.py")]
    misnamed = [test for file in modules for test in misnamed_tests(file)]
    require(
        not misnamed, [f"{test}: rename it to test_<unit>__<case>, such as test_api_key__revoked." for test in misnamed]
    )
