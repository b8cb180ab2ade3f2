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
from functions._local.scenes import SCENES
from functions._local.stack import Stack

if TYPE_CHECKING:
    from functions._local.scenes import Look, Scene
    from functions._local.worker_process import WorkerProcess

BAR = 40
WATCH_SECONDS = 2.0


def main() -> None:
    family = os.environ.get("FAMILY") or "historical-sync"
    if family not in SCENES:
        sys.exit(f"FAMILY is one of {', '.join(SCENES)}.")
    begun = time.monotonic()
    print("Starting Postgres, the Auth stand-in, a data API with the flights of 2013, the functions and a worker …")
    with Stack() as stack, stack.worker(log=True) as worker:
        user = stack.users[0]
        with closing(Client(stack.ready()["functions_url"], str(user["access_token"]))) as client:
            scene = SCENES[family](client, user)
            print(f"Ready in {time.monotonic() - begun:.1f} s. {user['email']} starts a {family}: {scene.what}.\n")
            _run(scene, worker, stack)
        print("\nIt kept its word: the 200 is the truth.")


def _run(scene: Scene, worker: WorkerProcess, stack: Stack) -> None:
    with psycopg.connect(stack.database_url, autocommit=True) as database:
        execution = scene.start()
        _watch(scene, execution, until_percent=50)
        call, answer = scene.cancel(execution)
        answered = time.time()
        print(f"\n{call} → 200 {answer}")
        stopped = (worker.wait_for("ended", execution)["time"] - answered) * 1000
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


def _watch(scene: Scene, execution: str, until_percent: int) -> None:
    """Draws the execution's progress until it is there; a line now and then where nobody watches a terminal."""
    shown = -1
    while True:
        look = scene.look(execution)
        percent = 100 * look.records // scene.total
        there = percent >= until_percent
        if sys.stdout.isatty() or there or percent >= shown + 10:
            shown = percent
            print(_bar(look, percent), end="" if sys.stdout.isatty() else "\n", flush=True)
        if there:
            return
        _require(not look.has_ended, f"it runs (it is {look.status})")
        time.sleep(0.05)


def _bar(look: Look, percent: int) -> str:
    filled = "█" * (BAR * percent // 100)
    start = "\r" if sys.stdout.isatty() else ""
    return f"{start}  {filled:░<{BAR}} {percent:3} %  {look.records:>9,} records  {look.status:<12}"


def _end(scene: Scene, execution: str) -> Look:
    while not (look := scene.look(execution)).has_ended:
        time.sleep(0.02)
    return look


def _prove(database: psycopg.Connection[Any], execution: str) -> None:
    count = "select records from app.executions where id = %s"
    stored = "select count(*) from app.records where execution_id = %s"
    before = _one(database, count, execution), _one(database, stored, execution)
    looks = 0
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        looks += 1
        now = _one(database, count, execution), _one(database, stored, execution)
        _require(now == before, "nothing moves any more")
        time.sleep(0.05)
    late = "select count(*) from app.records r join app.executions e on e.id = r.execution_id"
    late += " where e.id = %s and r.stored_at > e.finished_at"
    _require(_one(database, late, execution) == 0, "no record is younger than the cancel")
    print(f"Records then: {before[1]:,}. Looked at {looks} times in {WATCH_SECONDS:.0f} s: {before[1]:,} each time,")
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
