"""Conventions that connect an endpoint's files. Each failure says what to add, and where."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import pytest

from functions._local import schema
from functions._shared import registry
from functions._shared.error_format import PLAIN
from tests.matrix import test_openapi, test_query_plans
from tests.support import documented
from tests.support.requests import GOOD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from functions._shared.endpoint import Endpoint

pytestmark = pytest.mark.conventions

ROOT = schema.ROOT
TESTS = ROOT / "tests"
every_endpoint = pytest.mark.parametrize("endpoint", registry.endpoints(), ids=lambda endpoint: endpoint.name)


@cache
def public_functions() -> dict[str, Path]:
    """The file of each function that the API exposes, by the function's name."""
    return {file.stem: file for file in schema.declared() if file.parent.name == "public"}


def require(condition: object, message: str) -> None:
    """Fails with this sentence alone: what is compared is long and does not say what to do."""
    if not condition:
        pytest.fail(message, pytrace=False)


def source_file(endpoint: Endpoint) -> str:
    return f"{endpoint.module.replace('.', '/')}.py"


# An endpoint: declaration, SQL function, request, tests


@every_endpoint
def test_endpoint__sql_function_has_a_file(endpoint: Endpoint) -> None:
    family = endpoint.module.split(".")[1]
    require(
        endpoint.rpc in public_functions(),
        f"Write the function {endpoint.rpc} in sql/schemas/{family}/public/{endpoint.rpc}.sql,"
        f" or set rpc= in {source_file(endpoint)} to the function that it calls.",
    )


@every_endpoint
def test_endpoint__published_path_is_declared(endpoint: Endpoint) -> None:
    by_default = f"/{endpoint.name.replace('_', '-')}"
    require(
        endpoint.error_format is PLAIN or endpoint.path != by_default,
        f"Set path= in {source_file(endpoint)}, because its family has published paths. Its path is now {by_default}.",
    )


@every_endpoint
def test_endpoint__has_a_request_that_succeeds(endpoint: Endpoint) -> None:
    require(
        endpoint.name in GOOD,
        "Add a line to GOOD in tests/support/requests.py, with a function that creates what the request names:"
        f'\n    "{endpoint.name}": a_connection,',
    )


@every_endpoint
def test_endpoint__has_a_test(endpoint: Endpoint) -> None:
    require(
        endpoint.name in TESTED_BY_FAMILY or re.search(rf"(\b|test_){endpoint.name}(\b|__)", api_tests()),
        f"Write tests/api/test_{endpoint.name}.py, or name {endpoint.name} in the family's test module.",
    )


# Endpoints that the family's tests call by their path, through a client of tests/support.
TESTED_BY_FAMILY = {
    "list_bulk_actions", "list_bulk_syncs", "cancel_bulk_sync", "list_bulk_sync_executions", "get_bulk_sync_execution",
    "get_bulk_sync_status", "list_models", "delete_model", "get_model", "list_model_syncs", "delete_model_sync",
    "get_model_sync", "cancel_model_sync", "list_model_sync_executions", "get_model_sync_execution",
    "get_model_sync_status", "update_sync_job", "update_webhook",
}  # fmt: skip


@cache
def api_tests() -> str:
    return "\n".join(file.read_text() for folder in ("api", "sql") for file in (TESTS / folder).glob("test_*.py"))


@pytest.mark.parametrize("name", sorted(public_functions()))
def test_public_function__has_a_query_plan(name: str) -> None:
    require(
        (name in test_query_plans.CALLED) != (name in test_query_plans.NOT_CALLED),
        "Add a line to CALLS in tests/matrix/test_query_plans.py, with a part of the function's result, and remove the"
        f' name from NOT_CALLED if it is there:\n    "…": Call(user, "{name}", given(…), "…"),',
    )


def test_query_plans__call_functions_that_exist() -> None:
    gone = (test_query_plans.CALLED | test_query_plans.NOT_CALLED) - set(public_functions())
    require(not gone, f"Remove these functions from tests/matrix/test_query_plans.py: {sorted(gone)}")


@pytest.mark.parametrize(
    ("status", "code"),
    sorted({error for endpoint in registry.endpoints() for error in documented.errors(endpoint.name)}),
)
def test_error__is_provoked(status: int, code: str) -> None:
    require(
        (status, code) in test_openapi.PROVOKED,
        "Add a line to PROVOKED in tests/matrix/test_openapi.py, with a request that gets this error from each endpoint"
        f' that documents it:\n    ({status}, "{code}"): lambda scenario: scenario.send(request={{…}}),',
    )


def test_provoked_errors__are_documented() -> None:
    gone = set(test_openapi.PROVOKED)
    gone -= {error for endpoint in registry.endpoints() for error in documented.errors(endpoint.name)}
    require(not gone, f"Remove {sorted(gone)} from PROVOKED in tests/matrix/test_openapi.py: no endpoint documents it.")


# Names of tests

FOLDERS = {"unit", "sql", "api", "matrix", "system", "chaos", "bench"}
NOT_RENAMED = {"unit", "sql", "api", "matrix", "system", "chaos", "bench"}


def test_test_modules__stand_in_a_folder_by_what_they_need() -> None:
    elsewhere = [
        str(file.relative_to(ROOT))
        for file in TESTS.rglob("test_*.py")
        if "node_modules" not in file.parts and file.parent.relative_to(TESTS).as_posix() not in FOLDERS
    ]
    require(elsewhere == [], f"Move these to one of the folders {sorted(FOLDERS)} of tests/ (see README, Tests).")


def misnamed_tests() -> Iterator[str]:
    """The place and name of each test that does not name its unit and case."""
    for file in (file for folder in FOLDERS - NOT_RENAMED for file in (TESTS / folder).glob("test_*.py")):
        for line, text in enumerate(file.read_text().splitlines(), 1):
            name = re.match(r" *(?:async )?def (test_\w+)", text)
            if name and not re.fullmatch(r"test_[a-z0-9]+(_[a-z0-9]+)*__[a-z0-9]+(_[a-z0-9]+)*", name[1]):
                yield f"{file.relative_to(ROOT)}:{line} {name[1]}"


def test_tests__are_named_after_unit_and_case() -> None:
    misnamed = [*misnamed_tests()]
    require(misnamed == [], "Rename each to test_<unit>__<case>, as in test_api_key__revoked:\n" + "\n".join(misnamed))
