"""`make demo`: a real sync is cancelled half-way over HTTP; nothing lands after the 200; a retry syncs the rest."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg

from functions._local.client import Client
from functions._local.stack import Stack

if TYPE_CHECKING:
    from functions._local.worker_process import WorkerProcess

FIRST, LAST = "2013-01-01", "2014-01-01"
BAR = 40
WATCH_SECONDS = 2.0


def main() -> None:
    begun = time.monotonic()
    print("Starting Postgres, the Auth stand-in, a data API with the flights of 2013, the functions and a worker …")
    with Stack() as stack, stack.worker(log=True) as worker:
        user = stack.users[0]
        with closing(Client(stack.ready()["functions_url"], str(user["access_token"]))) as client:
            print(
                f"Ready in {time.monotonic() - begun:.1f} s. {user['email']} syncs the flights of {FIRST} to {LAST}.\n"
            )
            _run(client, str(user["connection_id"]), worker, stack)
        print("\nIt kept its word: the 200 is the truth.")


def _run(client: Client, connection_id: str, worker: WorkerProcess, stack: Stack) -> None:
    with psycopg.connect(stack.database_url, autocommit=True) as database:
        job_id = client.start(connection_id, FIRST, LAST, ["flights"])
        _watch(client, job_id, until_percent=50)
        print(f"\ncancel-historical-sync → 200 {client.cancel(job_id, 'The demo has seen enough')}")
        answered = time.time()
        stopped = (worker.wait_for("ended", job_id)["time"] - answered) * 1000
        print(f"The worker stopped {abs(stopped):.1f} ms {'after' if stopped >= 0 else 'before'} the 200 arrived.")
        _prove(database, job_id)

        position = client.get(job_id)["position"]["date"]
        rest = client.retry(job_id)
        print(f"\nretry-historical-sync → 201: a new job goes on at the checkpoint, {position}.")
        _watch(client, rest, until_percent=100)
        stored = _one(database, "select count(*) from app.records where connection_id = %s", connection_id)
        print(f"\nAll {stored:,} flights are there.")
        _require(stored == 336_776, "the source has 336,776 flights")


def _watch(client: Client, job_id: str, until_percent: int) -> None:
    """Draws the job's progress until it is there; a line now and then where nobody watches a terminal."""
    shown = -1
    while True:
        job = client.get(job_id)
        progress = job["progress"]
        there = progress["percent"] >= until_percent and (until_percent < 100 or job["status"] == "completed")
        if sys.stdout.isatty() or there or progress["percent"] >= shown + 10:
            shown = progress["percent"]
            print(_bar(job, progress), end="" if sys.stdout.isatty() else "\n", flush=True)
        if there:
            return
        _require(job["status"] in {"pending", "in_progress"}, f"the job runs (it is {job['status']}: {job['error']})")
        time.sleep(0.05)


def _bar(job: dict[str, Any], progress: dict[str, Any]) -> str:
    filled = "█" * (BAR * progress["percent"] // 100)
    eta = progress["eta_seconds"]
    left = f"{eta} s left" if eta is not None else ""
    start = "\r" if sys.stdout.isatty() else ""
    return (
        f"{start}  {filled:░<{BAR}} {progress['percent']:3} %  {progress['records']:>9,} records  "
        f"{job['status']:<12} {left:<12}"
    )


def _prove(database: psycopg.Connection[Any], job_id: str) -> None:
    count = "select records from app.executions where id = %s"
    stored = "select count(*) from app.records where execution_id = %s"
    before = _one(database, count, job_id), _one(database, stored, job_id)
    looks = 0
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        looks += 1
        _require((_one(database, count, job_id), _one(database, stored, job_id)) == before, "nothing moves any more")
        time.sleep(0.05)
    late = "select count(*) from app.records r join app.executions e on e.id = r.execution_id"
    late += " where e.id = %s and r.stored_at > e.finished_at"
    _require(_one(database, late, job_id) == 0, "no record is younger than the cancel")
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
