"""`make bulk`: one bulk action cancels EXECUTIONS (100,000) queued executions. Measures its pace, the latency of single
cancels meanwhile, and the latency of cancelling a bulk action itself.

The worker, Postgres, the functions and their callers share the cores of one machine.
"""

from __future__ import annotations

import os
import random
import re
import statistics
import threading
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import psycopg

from functions._local.client import Client
from functions._local.stack import DATABASE, Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from functions._local.worker_process import WorkerProcess

CALLERS = 2
SINGLE_EXECUTIONS = 10_000  # cancelled one by one
SELF_CANCELS = 20
EXECUTIONS_EACH = 5000  # of each bulk action that is cancelled
PAUSE_SECONDS = 0.01
STEP = re.compile(r"duration: ([\d.]+) ms .*worker_run_bulk_action_step")


class BulkBench:
    """One agency with executions that are never claimed: those of one connection for bulk actions, and `singles`."""

    def __init__(self, stack: Stack, worker: WorkerProcess, executions: int) -> None:
        self.worker = worker
        self.user = stack.users[0]
        self._url = str(stack.ready()["functions_url"])
        self._log = stack.postgres.log
        self.client = self.new_client()
        with psycopg.connect(stack.postgres.url(DATABASE), autocommit=True) as admin:
            admin.execute("alter role authenticator set log_min_duration_statement = '1ms'")
            self.singles = self._insert(admin, SINGLE_EXECUTIONS, None)
            self._insert(admin, executions + SELF_CANCELS * EXECUTIONS_EACH, self.user["connection_id"])
            admin.execute("vacuum analyze app.executions")
        self._lock = threading.Lock()

    def _insert(self, admin: psycopg.Connection[Any], number: int, connection_id: str | None) -> list[str]:
        with admin.transaction():
            admin.execute("set local role postgres")
            rows = admin.execute(
                "insert into app.executions (agency_id, family, connection_id, run_at)"
                " select %s, 'historical_sync', %s, '2999-01-01' from generate_series(1, %s) returning id::text",
                (self.user["agency_id"], connection_id, number),
            )
            return [str(row[0]) for row in rows]

    def new_client(self) -> Client:
        return Client(self._url, str(self.user["access_token"]))

    def create(self, max_limit: int) -> str:
        criteria = {
            "family": "historical_sync",
            "status": "pending",
            "connection_id": self.user["connection_id"],
        }
        body = {"action_type": "cancel", "criteria": criteria, "max_limit": max_limit}
        return str(self.client.post("/api/actions/bulk/jobs", body)["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return self.client.get(f"/api/actions/bulk/jobs/{job_id}")

    def cancel(self, job_id: str) -> float:
        """Seconds until the response."""
        asked = time.monotonic()
        self.client.post(f"/api/actions/bulk/jobs/{job_id}/cancel")
        return time.monotonic() - asked

    def cancel_singles_while(self, is_running: Callable[[], bool]) -> list[float]:
        """Each of CALLERS cancels one execution after the other. Returns the seconds until each response."""
        waits: list[float] = []

        def call() -> None:
            with closing(self.new_client()) as client:
                while is_running():
                    with self._lock:
                        execution_id = self.singles.pop()
                    asked = time.monotonic()
                    client.post("/cancel-historical-sync", {"job_id": execution_id})
                    waits.append(time.monotonic() - asked)
                    time.sleep(PAUSE_SECONDS)

        threads = [threading.Thread(target=call) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return waits

    def steps(self) -> list[float]:
        """Seconds of each step so far, measured by Postgres."""
        return [float(found) / 1000 for found in STEP.findall(self._log.read_text(errors="replace"))]


def main() -> None:
    executions = int(os.environ.get("EXECUTIONS", "100000"))
    with ExitStack() as exit_stack:
        stack = exit_stack.enter_context(Stack())
        worker = exit_stack.enter_context(stack.worker(log=True))
        bench = BulkBench(stack, worker, executions)
        exit_stack.callback(bench.client.close)

        until = time.monotonic() + 5
        _print("a single cancel, without the bulk action", bench.cancel_singles_while(lambda: time.monotonic() < until))

        before = len(bench.steps())
        job_id = bench.create(executions)
        worker.wait_for("execution started", job_id)
        begun = time.time()
        ended: list[float] = []
        waiter = threading.Thread(target=lambda: ended.append(worker.wait_for("execution ended", job_id, 3600)["time"]))
        waiter.start()
        waits = bench.cancel_singles_while(lambda: not ended)
        waiter.join()
        job = bench.job(job_id)
        seconds = ended[0] - begun
        print(
            f"{job['counts']['done']:,} cancelled in {seconds:.1f} s: {job['counts']['done'] / seconds:,.0f} a second"
        )
        _print("a step", bench.steps()[before:])
        _print("a single cancel meanwhile", waits)

        cancels: list[float] = []
        for _ in range(SELF_CANCELS):
            job_id = bench.create(EXECUTIONS_EACH)
            while bench.job(job_id)["counts"]["done"] == 0:
                time.sleep(PAUSE_SECONDS)
            time.sleep(random.uniform(0, 0.1))
            cancels.append(bench.cancel(job_id))
            worker.wait_for("execution ended", job_id)
        _print("a cancel of the bulk action itself", cancels)


def _print(what: str, seconds: Sequence[float]) -> None:
    ordered = sorted(1000 * one for one in seconds)
    p99 = ordered[max(int(len(ordered) * 0.99) - 1, 0)]
    print(
        f"{what}: median {statistics.median(ordered):.1f} ms, p99 {p99:.1f} ms, longest {ordered[-1]:.1f} ms,"
        f" n={len(ordered)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
