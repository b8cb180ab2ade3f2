"""`make demo`: cancels a real sync half-way over HTTP, shows that nothing is stored afterwards, and resumes it.

FAMILY is historical-sync (the default), bulk-sync, model-sync or sync-job-run.
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
    from functions._local.demo_scenarios import Progress, Scenario
    from functions._local.worker_process import WorkerProcess

BAR = 40
WATCH_SECONDS = 2.0


def main() -> None:
    family = os.environ.get("FAMILY") or "historical-sync"
    if family not in SCENARIOS:
        sys.exit(f"Unknown FAMILY. Use {', '.join(SCENARIOS)}.")
    begun = time.monotonic()
    print("Starting Postgres, a stand-in for Auth, a data API with the flights of 2013, the functions and a worker …")
    with Stack() as stack, stack.worker(log=True) as worker:
        user = stack.users[0]
        with closing(Client(stack.ready()["functions_url"], str(user["access_token"]))) as client:
            scenario = SCENARIOS[family](client, user)
            print(f"Ready in {time.monotonic() - begun:.1f} s.")
            print(f"{user['email']} starts a {family}: {scenario.description}.\n")
            _run(scenario, worker, stack)
        print("\nThe 200 is the truth.")


def _run(scenario: Scenario, worker: WorkerProcess, stack: Stack) -> None:
    with psycopg.connect(stack.database_url, autocommit=True) as database:
        execution = scenario.start()
        _watch(scenario, execution, until_percent=50)
        call, response = scenario.cancel(execution)
        responded_at = time.time()
        print(f"\n{call} → 200 {response}")
        stopped = (worker.wait_for("execution ended", execution)["time"] - responded_at) * 1000
        print(f"The worker stopped {abs(stopped):.1f} ms {'after' if stopped >= 0 else 'before'} the 200 arrived.")
        print(f"The status of the execution is {_wait_for_end(scenario, execution).status}.")
        _show_that_nothing_is_stored(database, execution)

        rest, message = scenario.resume(execution)
        print(f"\n{message}")
        end = _wait_for_end(scenario, rest)
        _require(end.status == "completed", f"The execution completes. Its status is {end.status}.")
        stored = _count(database, "select count(*) from app.records where execution_id = %s", rest)
        total = _count(database, "select count(*) from app.records where connection_id = %s", scenario.destination)
        print(f"Completed. It stored {stored:,} records. The connection now has {total:,}.")
        _require(end.records >= stored > 0, "The execution stored what it counted.")


def _watch(scenario: Scenario, execution: str, until_percent: int) -> None:
    """Draws the progress until `until_percent`: one line in a terminal, else a line for every 10 %."""
    shown = -1
    while True:
        progress = scenario.progress(execution)
        percent = 100 * progress.records // scenario.total
        reached = percent >= until_percent
        if sys.stdout.isatty() or reached or percent >= shown + 10:
            shown = percent
            print(_bar(progress, percent), end="" if sys.stdout.isatty() else "\n", flush=True)
        if reached:
            return
        _require(not progress.has_ended, f"The execution runs. Its status is {progress.status}.")
        time.sleep(0.05)


def _bar(progress: Progress, percent: int) -> str:
    filled = "█" * (BAR * percent // 100)
    start = "\r" if sys.stdout.isatty() else ""
    return f"{start}  {filled:░<{BAR}} {percent:3} %  {progress.records:>9,} records  {progress.status:<12}"


def _wait_for_end(scenario: Scenario, execution: str) -> Progress:
    while not (progress := scenario.progress(execution)).has_ended:
        time.sleep(0.02)
    return progress


def _show_that_nothing_is_stored(database: psycopg.Connection[Any], execution: str) -> None:
    count = "select records from app.executions where id = %s"
    stored = "select count(*) from app.records where execution_id = %s"
    before = _count(database, count, execution), _count(database, stored, execution)
    checks = 0
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        checks += 1
        now = _count(database, count, execution), _count(database, stored, execution)
        _require(now == before, "Nothing changes after the cancel.")
        time.sleep(0.05)
    late = "select count(*) from app.records r join app.executions e on e.id = r.execution_id"
    late += " where e.id = %s and r.stored_at > e.finished_at"
    _require(_count(database, late, execution) == 0, "No record is newer than the cancel.")
    print(f"{before[1]:,} records are stored: the same number in {checks} checks during {WATCH_SECONDS:.0f} s.")
    print("No record is newer than the cancel.")


def _count(database: psycopg.Connection[Any], query: str, value: str) -> int:
    row = database.execute(query, (value,)).fetchone()
    assert row is not None
    return int(row[0])


def _require(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"\nThe demo failed. Expected: {what}")


if __name__ == "__main__":
    main()
