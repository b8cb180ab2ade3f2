"""`make latency`: how long after a cancel's 200 the worker has stopped, over CANCELS (100) running syncs.

The source answers each page after 200 ms, so that a cancel arrives in the middle of a fetch. Below zero: the worker had
stopped before the 200 arrived.
"""

from __future__ import annotations

import os
import statistics
import time
from contextlib import closing

from functions._local.client import Client
from functions._local.scenes import HistoricalSync
from functions._local.stack import Stack

PAGE_SECONDS = 0.2


def main() -> None:
    cancels = int(os.environ.get("CANCELS", "100"))
    with Stack(source_delay_seconds=PAGE_SECONDS) as stack, stack.worker(log=True) as worker:
        user = stack.users[0]
        answers: list[float] = []
        stops: list[float] = []
        with closing(Client(stack.ready()["functions_url"], str(user["access_token"]))) as client:
            scene = HistoricalSync(client, user)
            for _ in range(cancels):
                job_id = scene.start()
                worker.wait_for("begun", job_id)
                time.sleep(PAGE_SECONDS / 2)  # into the middle of a fetch
                asked = time.time()
                scene.cancel(job_id)
                answered = time.time()
                answers.append((answered - asked) * 1000)
                stops.append((worker.wait_for("ended", job_id)["time"] - answered) * 1000)
    _print("the cancel's answer", answers)
    _print("from the 200 to the worker's stop", stops)


def _print(what: str, milliseconds: list[float]) -> None:
    ordered = sorted(milliseconds)
    p99 = ordered[int(len(ordered) * 0.99) - 1]
    print(f"{what}: median {statistics.median(ordered):.1f} ms, p99 {p99:.1f} ms, n={len(ordered)}")


if __name__ == "__main__":
    main()
