"""Runs one execution: commits the runner's batches under the lease while a watch keeps the lease alive.

Whichever ends first decides. The watch ends when the database returns `cancel` or `lost`, when the time budget is spent
or when the worker shuts down. Then the runner is stopped wherever it is, also in the middle of a slow fetch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from functions._connections.errors import SecretRotated, SourceError, SourceUnavailable
from functions._shared.errors import ApiError
from functions.worker.client import DatabaseStep
from functions.worker.connectors.webhook import WebhookMessage, WebhookRejected, WebhookUnavailable
from functions.worker.tasks import cancel_and_wait, wait_any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from functions.worker.client import Batch, Delivery, Execution, LeaseResult, Runner, WorkerClient
    from functions.worker.connectors.webhook import Send

log = logging.getLogger(__name__)

# Waits between attempts to deliver a batch. After the last attempt the execution fails and is retried later.
DELIVERY_WAITS_SECONDS = (1.0, 4.0)
# Fraction of the heartbeat interval to wait. The rest is for the call itself.
HEARTBEAT_FRACTION = 0.9

StopReason = Literal["done", "cancel", "lost", "out_of_time", "shutdown"]


@dataclass
class Signals:
    """Events from outside, and one to the outside.

    `check_now`: call the database at once, because a cancel may have come. `shutdown`: stop and release the execution.
    `on_work_done` is called when the runner has ended and before the execution is completed: another may be claimed.
    """

    check_now: asyncio.Event = field(default_factory=asyncio.Event)
    shutdown: asyncio.Event = field(default_factory=asyncio.Event)
    on_work_done: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Engine:
    """Runs executions, each on its own.

    `heartbeat_seconds` bounds how late a cancel is noticed without `check_now`. `time_budget_seconds` None: no budget.
    `send` is needed for executions that deliver. `complete` replaces the client's (see CompletionBatcher).
    """

    client: WorkerClient
    heartbeat_seconds: float
    time_budget_seconds: float | None = None
    send: Send | None = None
    complete: Callable[[Execution], Awaitable[str]] | None = None

    async def run(self, execution: Execution, runner: Runner, signals: Signals) -> str:
        """Run a claimed execution. Return how it ended: completed, failed, queued, cancelled or lost."""
        work = asyncio.create_task(self._work(execution, runner(execution)))
        watch = asyncio.create_task(self._watch(execution, signals))
        try:
            await wait_any(work, watch)
            first = work if work.done() else watch
        finally:
            await cancel_and_wait(work, watch)
        try:
            reason = first.result()
        except Exception as error:  # every error of a runner is recorded in the database
            return await self._fail(execution, error)
        return await self._end(execution, reason, signals)

    async def _work(self, execution: Execution, batches: AsyncGenerator[Batch | DatabaseStep, None]) -> StopReason:
        seq = execution.seq
        async with contextlib.aclosing(batches):
            upcoming = asyncio.ensure_future(anext(batches, None))
            try:
                while (batch := await upcoming) is not None:
                    # The next batch is fetched while this one is committed.
                    upcoming = asyncio.ensure_future(anext(batches, None))
                    seq += 1
                    result = await self._commit(execution, seq, batch)
                    if result != "continue":
                        return result
            finally:
                await cancel_and_wait(upcoming)
        return "done"

    async def _commit(self, execution: Execution, seq: int, batch: Batch | DatabaseStep) -> LeaseResult:
        if isinstance(batch, DatabaseStep):
            return await self.client.run_step(execution, batch)
        if batch.delivery:
            result = await self._deliver(execution, seq, batch.delivery)
            if result != "continue":
                return result
        return await self.client.commit_batch(execution, seq, batch)

    async def _deliver(self, execution: Execution, seq: int, delivery: Delivery) -> LeaseResult:
        """Send the event of a batch. Each attempt is recorded first, so that none begins after the end."""
        assert self.send is not None
        for wait in (*DELIVERY_WAITS_SECONDS, None):
            begun = await self.client.begin_delivery(execution, seq, delivery)
            if begun["result"] != "continue" or not begun["wanted"]:
                return cast("LeaseResult", begun["result"])
            message = WebhookMessage.of(execution, delivery, begun)
            try:
                await self.send(message)
            except WebhookRejected:
                if delivery.event.endswith(":started"):
                    await self.client.stop(execution, "rejected by the receiver")
                    return "lost"
            except WebhookUnavailable:
                pass
            else:
                return "continue"
            if wait is not None:
                await asyncio.sleep(wait)
        raise SourceUnavailable("receiver_unavailable", "The webhook's receiver does not return 200. Check it.")

    async def _watch(self, execution: Execution, signals: Signals) -> StopReason:
        """Return why the runner has to stop: at once on shutdown and when the time budget is spent, because neither
        waits for a heartbeat that waits for the database.
        """
        heartbeats = asyncio.create_task(self._keep_lease(execution, signals))
        try:
            await wait_any(heartbeats, signals.shutdown, seconds=self.time_budget_seconds)
            if signals.shutdown.is_set():
                return "shutdown"
            return heartbeats.result() if heartbeats.done() else "out_of_time"
        finally:
            await cancel_and_wait(heartbeats)

    async def _keep_lease(self, execution: Execution, signals: Signals) -> StopReason:
        """Extend the lease until the database rejects that."""
        while True:
            await wait_any(signals.check_now, seconds=HEARTBEAT_FRACTION * self.heartbeat_seconds)
            signals.check_now.clear()
            result = await self.client.heartbeat(execution)
            if result != "continue":
                return result

    async def _end(self, execution: Execution, reason: StopReason, signals: Signals) -> str:
        if reason == "lost":
            return reason
        if reason == "done":
            signals.on_work_done()
            return await (self.complete or self.client.complete)(execution)
        # In the database a release acknowledges a cancel, or else queues the execution again.
        return await self.client.release(execution, reason)

    async def _fail(self, execution: Execution, error: Exception) -> str:
        if isinstance(error, SourceError):
            retry = isinstance(error, SourceUnavailable)
            return await self.client.fail(execution, error.code, error.message, retry=retry)
        if isinstance(error, SecretRotated):
            message = "The secret was replaced during the run. The worker retries with the new one."
            return await self.client.fail(execution, "secret_rotated", message, retry=True)
        if isinstance(error, ApiError) and error.status < 500:
            return await self.client.fail(execution, error.code, error.message, retry=False)
        log.error("runner failed", exc_info=error, extra={"execution_id": execution.id})
        return await self.client.fail(execution, "internal_error", "The worker failed and will retry.", retry=True)
