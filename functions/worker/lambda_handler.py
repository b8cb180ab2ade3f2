"""The worker as a Lambda function: SQS messages request work, a schedule sends a tick every minute.

A message names no execution. The worker claims and runs what is queued until nothing is left, or until shortly before
the process is stopped: then it releases what still runs, with its checkpoint, and requests another worker.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import TYPE_CHECKING, Any, cast

from functions._shared.dispatch import QUEUES
from functions._shared.lambda_adapter import start_process
from functions._shared.services import make_dispatcher, with_secrets
from functions.worker.context import FAMILIES, worker_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.dispatch import Dispatcher, Queue

log = logging.getLogger(__name__)

# Kept back of an invocation's time: to release what runs (WORKER_SHUTDOWN_SECONDS, 8 by default) and to send events.
RESERVE_SECONDS = 15.0


def handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:  # noqa: ANN401
    """Serve the messages of a queue, or a tick (any other event).

    Messages of other senders go back to the queue, and all of them if no work could be done.
    """
    seconds = context.get_remaining_time_in_millis() / 1000
    if "Records" not in event:
        tick(seconds)
        return {}
    known = [record for record in event["Records"] if _names_a_queue(record)]
    done = not known or work(len(known), seconds)
    failed = [record for record in event["Records"] if not done or record not in known]
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in failed]}


def _names_a_queue(record: Mapping[str, Any]) -> bool:
    try:
        return json.loads(record["body"])["queue"] in QUEUES
    except (ValueError, KeyError, TypeError):
        return False


def work(count: int, seconds: float) -> bool:
    """Run at most `count` executions at once, for at most `seconds`. Return False if no claim succeeded."""
    environment = with_secrets(os.environ)
    return asyncio.run(_work(environment, cast("Queue", environment.get("WORKER_QUEUE", "runs")), count, seconds))


async def _work(environment: Mapping[str, str], queue: Queue, count: int, seconds: float) -> bool:
    shutdown = asyncio.Event()
    asyncio.get_running_loop().call_later(max(seconds - RESERVE_SECONDS, 0), shutdown.set)
    async with worker_context(environment) as context:
        worker = context.worker(queue, count)
        await worker.run(shutdown, until_idle=True)
        if worker.is_idle:
            await context.outbox().drain()
    if worker.has_claimed and not worker.is_idle:
        _dispatcher(environment).notify(queue, count)
    return worker.has_claimed


def tick(seconds: float) -> None:
    """Reap, send events that are due, delete secrets, and request workers where executions are queued.

    Raises TimeoutError shortly before `seconds` have passed.
    """
    asyncio.run(_tick(with_secrets(os.environ), seconds))


async def _tick(environment: Mapping[str, str], seconds: float) -> None:
    async with asyncio.timeout(max(seconds - 5, 1)), worker_context(environment) as context:
        await context.client.reap()
        for queue, families in FAMILIES.items():
            stats = await context.client.queue_stats(list(families))
            log.info("queue stats", extra={"queue": queue, **stats})  # the template makes a metric of these lines
            if stats["executions"]:
                _dispatcher(environment).notify(queue, stats["executions"])
        await context.outbox().drain()
        await context.secret_cleanup().drain()


def _dispatcher(environment: Mapping[str, str]) -> Dispatcher:
    return make_dispatcher(environment.get("QUEUE_URL"), environment.get("CHECK_QUEUE_URL"))


start_process()
