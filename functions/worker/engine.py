"""Runs one execution: the runner's batches are committed under the lease_token while a watch keeps it alive.

Whichever ends first decides. The watch ends when the database says `cancel` or `lost`, when the time budget is spent or
when the worker shuts down; then the runner is stopped where it stands, also in the middle of a slow fetch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from functions._connections.errors import SecretRotated, SourceError, SourceUnavailable
from functions._shared.errors import ApiError
from functions.worker.client import Step
from functions.worker.connectors.webhook import WebhookMessage, WebhookRejected, WebhookUnavailable
from functions.worker.tasks import end, wait_any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from functions.worker.client import Batch, Delivery, Execution, LeaseResult, Protocol, Runner
    from functions.worker.connectors.webhook import Post

log = logging.getLogger(__name__)

# Between attempts to deliver a batch; after the last the execution waits as after any failure.
DELIVERY_WAITS_SECONDS = (1.0, 4.0)
# Of `heartbeat_seconds` it waits so much: that is the bound for the call and its answer, too.
HEARTBEAT_FRACTION = 0.9

StopReason = Literal["done", "cancel", "lost", "out_of_time", "shutdown"]


@dataclass
class Signals:
    """What may interrupt an execution: `hint`, ask the database now; `stop`, the worker shuts down. It calls `leave`
    when its work is done, before it says so: the next may be claimed in its place.
    """

    hint: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    leave: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Engine:
    """`heartbeat_seconds` bounds how late a cancel is heard without a hint; `time_budget_seconds` None: no end."""

    protocol: Protocol
    heartbeat_seconds: float
    time_budget_seconds: float | None = None
    post: Post | None = None  # for executions that deliver

    async def run(self, execution: Execution, runner: Runner, signals: Signals) -> str:
        """Answers how it ended: completed, failed, queued, cancelled, or lost."""
        work = asyncio.create_task(self._work(execution, runner(execution)))
        watch = asyncio.create_task(self._watch(execution, signals))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            first = work if work.done() else watch
        finally:
            await end(work, watch)
        try:
            reason = first.result()
        except Exception as error:  # whatever a runner raises ends in the database, not here
            return await self._failed(execution, error)
        return await self._end(execution, reason, signals)

    async def _work(self, execution: Execution, batches: AsyncGenerator[Batch | Step, None]) -> StopReason:
        seq = execution.seq
        async with contextlib.aclosing(batches):
            upcoming = asyncio.ensure_future(anext(batches, None))
            try:
                while (batch := await upcoming) is not None:
                    # The next page is fetched while this one is committed.
                    upcoming = asyncio.ensure_future(anext(batches, None))
                    seq += 1
                    response = await self._commit(execution, seq, batch)
                    if response != "continue":
                        return response
            finally:
                await end(upcoming)
        return "done"

    async def _commit(self, execution: Execution, seq: int, batch: Batch | Step) -> LeaseResult:
        if isinstance(batch, Step):
            return await self.protocol.step(execution, batch)
        if batch.delivery:
            response = await self._deliver(execution, seq, batch.delivery)
            if response != "continue":
                return response
        return await self.protocol.commit_batch(execution, seq, batch)

    async def _deliver(self, execution: Execution, seq: int, delivery: Delivery) -> LeaseResult:
        """Hands a batch to the receiver; every attempt is announced first, so that none begins after the end."""
        assert self.post is not None
        for wait in (*DELIVERY_WAITS_SECONDS, None):
            begun = await self.protocol.begin_delivery(execution, seq, delivery)
            if begun["result"] != "continue" or not begun["wanted"]:
                return cast("LeaseResult", begun["result"])
            letter = WebhookMessage.of(execution, delivery, begun)
            try:
                await self.post(letter)
            except WebhookRejected:
                if delivery.event.endswith(":started"):
                    await self.protocol.stop(execution, "refused by the receiver")
                    return "lost"
            except WebhookUnavailable:
                pass
            else:
                return "continue"
            if wait is not None:
                await asyncio.sleep(wait)
        raise SourceUnavailable("receiver_unavailable", "The webhook's receiver does not answer 200. Check it.")

    async def _watch(self, execution: Execution, signals: Signals) -> StopReason:
        loop = asyncio.get_running_loop()
        ends = loop.time() + self.time_budget_seconds if self.time_budget_seconds is not None else float("inf")
        while True:
            wait = min(HEARTBEAT_FRACTION * self.heartbeat_seconds, ends - loop.time())
            await wait_any(signals.hint, signals.stop, seconds=max(wait, 0))
            if signals.stop.is_set():
                return "shutdown"
            if loop.time() >= ends:
                return "out_of_time"
            signals.hint.clear()
            response = await self.protocol.heartbeat(execution)
            if response != "continue":
                return response

    async def _end(self, execution: Execution, reason: StopReason, signals: Signals) -> str:
        if reason == "lost":
            return reason
        if reason == "done":
            signals.leave()
            return await self.protocol.finish(execution)
        # The database knows whether this is a pause or the acknowledgement of a cancel.
        return await self.protocol.release(execution, reason)

    async def _failed(self, execution: Execution, error: Exception) -> str:
        if isinstance(error, SourceError):
            retry = isinstance(error, SourceUnavailable)
            return await self.protocol.fail(execution, error.code, error.message, retry=retry)
        if isinstance(error, SecretRotated):
            message = "The source's secret was replaced meanwhile; the worker goes on with the new one."
            return await self.protocol.fail(execution, "secret_rotated", message, retry=True)
        if isinstance(error, ApiError) and error.status < 500:
            return await self.protocol.fail(execution, error.code, error.message, retry=False)
        log.error("a runner failed", exc_info=error, extra={"execution_id": execution.id})
        return await self.protocol.fail(execution, "internal_error", "The worker failed; it tries again.", retry=True)
