"""The order in which row locks are taken, read from the files of sql/schemas: no two transactions can deadlock.

Code that locks several rows of a table locks them in id order, and tables are locked in the order connections,
definitions, executions, then what belongs to an execution. Statements that skip locked rows never wait.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from functions._local import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.sql, pytest.mark.conventions]

ORDER = ["connections", "definitions", "executions"]
OF_EXECUTION = len(ORDER)  # the rank of the tables that belong to an execution
OTHERS = {"secrets", "api_keys", "idempotency_keys"}  # locked alone, or after their connection by a trigger

# Locks in another order that cannot deadlock, because nothing locks both rows in the usual order.
EXCEPTIONS = {
    "create_sync_job_run": "a sync job refers to no connection, so deleting a connection never locks it",
    "create_model_sync": "a destination is of type records, and a model's source never is",
}
# Updates of several executions whose rows are locked already.
LOCKED_BEFORE = {
    "act_on_items": "worker_run_bulk_action_step locks the items in id order",
    "complete_and_claim": "its subqueries skip locked rows",
}
SINGLE = r"\.id = (?!any)|\.concurrency_key = "  # at most one execution is active per concurrency key

LOCK = re.compile(
    r"from app\.(?P<locked>\w+) as \w+\b[^;]*?\bfor (?:no key )?(?:update|share)\b(?! (?:of \w+ )?skip locked)"
    r"|update app\.(?P<updated>\w+) as"
    r"|(?:app|public)\.(?P<called>\w+)\((?P<arguments>[^()]*)"
)


@cache
def bodies() -> dict[str, str]:
    """The functions' code without comments, by name."""
    text = "".join(re.sub(r"--[^\n]*", "", file.read_text()) for file in schema.declared())
    return dict(re.findall(r"create or replace function \w+\.(\w+)\(.*?as \$\$(.*?)\$\$;", text, re.DOTALL))


def locking_statements() -> Iterator[tuple[str, str, str]]:
    """(function, table, statement) of each statement that waits for row locks."""
    for name, body in bodies().items():
        for statement in body.split(";"):
            for match in LOCK.finditer(statement + ";"):
                if match["locked"]:
                    yield name, match["locked"], match[0]


def rank(table: str) -> int:
    return ORDER.index(table) if table in ORDER else OF_EXECUTION


@cache
def ranks(function: str) -> tuple[int, ...]:
    """The ranks of the tables that a function locks, in order; of a table only the first lock."""
    found: list[int] = []
    for match in LOCK.finditer(bodies()[function]):
        if table := match["locked"] or match["updated"]:
            found += [rank(table)] if table not in OTHERS else []
        elif (
            match["called"] in bodies() and match["called"] != function and _locks(match["called"], match["arguments"])
        ):
            found += ranks(match["called"])
    return tuple(dict.fromkeys(found))


def _locks(function: str, arguments: str) -> bool:
    """find_definition and find_webhook lock with `for_share => true`; find_connection without `for_share => false`."""
    if function == "find_connection":
        return "for_share => false" not in arguments
    return function not in {"find_definition", "find_webhook"} or "for_share => true" in arguments


def test_lock_order__check_reads_the_files() -> None:
    """The check finds known locking statements."""
    found = {(name, table) for name, table, _ in locking_statements()}
    expected = {
        ("cancel_each", "executions"),
        ("cancel_execution", "executions"),
        ("delete_connection", "definitions"),
        ("delete_connection", "executions"),
        ("lock_referenced_rows", "connections"),
        ("worker_run_bulk_action_step", "executions"),
    }
    remedy = (
        "Change this test if the function locks other tables now. Else correct LOCK in tests/sql/test_lock_order.py"
    )
    assert expected <= found, f"LOCK no longer finds {sorted(expected - found)}. {remedy}"
    assert (ranks("delete_connection"), ranks("worker_commit_batch")) == ((0, 1, 2), (2, 3)), remedy


def test_lock_order__several_rows_in_id_order() -> None:
    for name, table, statement in locking_statements():
        if table in ORDER and not re.search(SINGLE, statement):
            assert re.search(r"order by \w+\.id\s+for ", statement), (
                f"{name} locks several {table}: write `order by id` before `for update`, or two calls may deadlock"
            )


def test_lock_order__several_executions_are_locked_before_they_are_updated() -> None:
    for name, body in bodies().items():
        for statement in body.split(";"):
            if re.search(r"update app\.executions as", statement) and not re.search(
                r"where \w+\.id = (?!any)", statement
            ):
                assert name in LOCKED_BEFORE, (
                    f"{name} updates several executions. Lock them in id order first, and add a line to LOCKED_BEFORE"
                    " in tests/sql/test_lock_order.py with the place of that lock"
                )


def in_order(function: str) -> bool:
    return all(before < after for before, after in pairwise(ranks(function)))


def test_lock_order__exceptions_are_needed() -> None:
    assert [function for function in EXCEPTIONS if in_order(function)] == [], (
        "Remove these from EXCEPTIONS in tests/sql/test_lock_order.py: they lock in the usual order"
    )


def test_lock_order__tables_in_order() -> None:
    for function in bodies().keys() - EXCEPTIONS:
        assert in_order(function), (
            f"{function} locks {[[*ORDER, 'rows of an execution'][n] for n in ranks(function)]}. Lock connections, then"
            " definitions, then executions, or add a line to EXCEPTIONS in tests/sql/test_lock_order.py with the reason"
            " it cannot deadlock"
        )
