"""The worker where the cloud calls it: by messages when there is something to claim, and by a tick every minute.

A message names no execution. Whoever gets one claims and runs what there is until nothing is left, or until shortly
before the process is stopped: then what runs is released with its checkpoint, and another worker is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, cast

from functions._shared.services import make_dispatcher, with_secrets
from functions.worker.deployment import FAMILIES, crew

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.dispatch import Dispatcher, Queue

log = logging.getLogger(__name__)

# Kept back of the time that there is: to release what runs (8 s, WORKER_SHUTDOWN_SECONDS), send letters, and say so.
RESERVE_SECONDS = 15.0


def work(count: int, seconds: float) -> bool:
    """Runs at most `count` executions at once, for less than so many seconds. False: the database was out of reach."""
    environment = with_secrets(os.environ)
    return asyncio.run(_work(environment, cast("Queue", environment.get("WORKER_QUEUE", "runs")), count, seconds))


async def _work(environment: Mapping[str, str], queue: Queue, count: int, seconds: float) -> bool:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(max(seconds - RESERVE_SECONDS, 0), stop.set)
    async with crew(environment) as workers:
        worker = workers.worker(queue, count)
        await worker.run(stop, until_idle=True)
        if worker.is_idle:
            await workers.outbox().drain()
    if worker.has_claimed and not worker.is_idle:
        _dispatcher(environment).notify(queue, count)
    return worker.has_claimed


def tick(seconds: float) -> None:
    """Takes back what dead workers left, sends letters that are due, and asks for workers where something waits."""
    asyncio.run(_tick(with_secrets(os.environ), seconds))


async def _tick(environment: Mapping[str, str], seconds: float) -> None:
    async with asyncio.timeout(max(seconds - 5, 1)), crew(environment) as workers:
        await workers.protocol.reap()
        for queue, families in FAMILIES.items():
            waiting = await workers.protocol.waiting(list(families))
            log.info("waiting", extra={"queue": queue, **waiting})
            if waiting["executions"]:
                _dispatcher(environment).notify(queue, waiting["executions"])
        await workers.outbox().drain()
        await workers.secret_cleanup().drain()


def _dispatcher(environment: Mapping[str, str]) -> Dispatcher:
    return make_dispatcher(environment.get("QUEUE_URL"), environment.get("CHECK_QUEUE_URL"))
