"""`make demo`: a real sync is cancelled half-way over HTTP; nothing lands after it; then it is brought to its end.

FAMILY says which: historical-sync (the default), bulk-sync, model-sync, sync-job-run.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg

from functions._local.client import Client
from functions._local.demo_scenarios import SCENARIOS
from functions._local.stack import Stack

if TYPE_CHECKING:
    from functions._local.demo_scenarios import Look, Scenario
    from functions._local.worker_process import WorkerProcess

BAR = 40
WATCH_SECONDS = 2.0


def main() -> None:
    family = os.environ.get("FAMILY") or "historical-sync"
    if family not in SCENARIOS:
        sys.exit(f"FAMILY is one of {', '.join(SCENARIOS)}.")
    begun = time.monotonic()
    print("Starting Postgres, the Auth stand-in, a data API with the flights of 2013, the functions and a worker …")
    with Stack() as stack, stack.worker(log=True) as worker:
        user = stack.users[0]
        with closing(Client(stack.ready()["functions_url"], str(user["access_token"]))) as client:
            scene = SCENARIOS[family](client, user)
            print(f"Ready in {time.monotonic() - begun:.1f} s. {user['email']} starts a {family}: {scene.what}.\n")
            _run(scene, worker, stack)
        print("\nIt kept its word: the 200 is the truth.")


def _run(scene: Scenario, worker: WorkerProcess, stack: Stack) -> None:
    with psycopg.connect(stack.database_url, autocommit=True) as database:
        execution = scene.start()
        _watch(scene, execution, until_percent=50)
        call, response = scene.cancel(execution)
        answered = time.time()
        print(f"\n{call} → 200 {response}")
        stopped = (worker.wait_for("execution ended", execution)["time"] - answered) * 1000
        print(f"The worker stopped {abs(stopped):.1f} ms {'after' if stopped >= 0 else 'before'} the 200 arrived.")
        print(f"The execution is {_end(scene, execution).status}.")
        _prove(database, execution)

        rest, sentence = scene.go_on(execution)
        print(f"\n{sentence}")
        end = _end(scene, rest)
        _require(end.status == "completed", f"it completes (it is {end.status})")
        stored = _one(database, "select count(*) from app.records where execution_id = %s", rest)
        everything = _one(database, "select count(*) from app.records where connection_id = %s", scene.destination)
        print(f"Completed: {stored:,} rows are its own, {everything:,} are there in all.")
        _require(end.records >= stored > 0, "it has stored what it counted")


def _watch(scene: Scenario, execution: str, until_percent: int) -> None:
    """Draws the execution's progress until it is there; a line now and then where nobody watches a terminal."""
    shown = -1
    while True:
        source_check = scene.source_check(execution)
        percent = 100 * source_check.records // scene.total
        there = percent >= until_percent
        if sys.stdout.isatty() or there or percent >= shown + 10:
            shown = percent
            print(_bar(source_check, percent), end="" if sys.stdout.isatty() else "\n", flush=True)
        if there:
            return
        _require(not source_check.has_ended, f"it runs (it is {source_check.status})")
        time.sleep(0.05)


def _bar(source_check: Look, percent: int) -> str:
    filled = "█" * (BAR * percent // 100)
    start = "\r" if sys.stdout.isatty() else ""
    return f"{start}  {filled:░<{BAR}} {percent:3} %  {source_check.records:>9,} records  {source_check.status:<12}"


def _end(scene: Scenario, execution: str) -> Look:
    while not (source_check := scene.source_check(execution)).has_ended:
        time.sleep(0.02)
    return source_check


def _prove(database: psycopg.Connection[Any], execution: str) -> None:
    count = "select records from app.executions where id = %s"
    stored = "select count(*) from app.records where execution_id = %s"
    before = _one(database, count, execution), _one(database, stored, execution)
    checks = 0
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        checks += 1
        now = _one(database, count, execution), _one(database, stored, execution)
        _require(now == before, "nothing moves any more")
        time.sleep(0.05)
    late = "select count(*) from app.records r join app.executions e on e.id = r.execution_id"
    late += " where e.id = %s and r.stored_at > e.finished_at"
    _require(_one(database, late, execution) == 0, "no record is younger than the cancel")
    print(f"Records then: {before[1]:,}. Looked at {checks} times in {WATCH_SECONDS:.0f} s: {before[1]:,} each time,")
    print("and none is younger than the cancel.")


def _one(database: psycopg.Connection[Any], query: str, value: str) -> int:
    row = database.execute(query, (value,)).fetchone()
    assert row is not None
    return int(row[0])


def _require(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"\nThe demo failed: expected that {what}.")


if __name__ == "__main__":
    main()
