"""Runs many executions: claims while there is room, reaps, passes hints on, and releases everything on shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from functions.worker.completion_batcher import CompletionBatcher
from functions.worker.engine import Engine, Signals
from functions.worker.tasks import cancel_and_wait, wait_any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.worker.client import Execution, Runner, WorkerClient
    from functions.worker.connectors.webhook import Send

log = logging.getLogger(__name__)

REAP_SECONDS = 60.0  # between two reaps of a worker whose claims find the end of the queue
ALL_EXECUTIONS = "*"  # the payload of a notification about many executions: a bulk action sends one for all


@dataclass(frozen=True)
class Options:
    """Settings of a worker; all durations are seconds.

    `listen_url` is a session connection for notifications (a pooler in transaction mode carries none). Without it a
    cancel is noticed at the next commit or heartbeat, and a start at the next tick.
    """

    name: str
    concurrency: int = 4
    lease_seconds: int = 30
    heartbeat_seconds: float = 5
    tick_seconds: float = 1
    time_budget_seconds: float | None = None
    shutdown_seconds: float = 8
    listen_url: str | None = None


class Worker:
    """Claims and runs executions. `runners` by family: it claims these families only."""

    def __init__(
        self, client: WorkerClient, runners: Mapping[str, Runner], options: Options, send: Send | None = None
    ) -> None:
        self._client = client
        self._completions = CompletionBatcher(client)
        self._runners = runners
        self._options = options
        self._engine = Engine(
            client, options.heartbeat_seconds, options.time_budget_seconds, send, self._completions.complete
        )
        # The key contains the lease token: an execution whose lease has expired may be claimed here again before the
        # task of the old lease has ended.
        self._running: dict[tuple[str, int], tuple[asyncio.Task[None], Signals]] = {}
        # Those of `_running` whose work is done, so that others may be claimed in their place.
        self._work_done: set[tuple[str, int]] = set()
        self._claim_now = asyncio.Event()
        self._idle = asyncio.Event()
        self._next_reap = 0.0
        self.has_claimed = False  # whether a claim ever succeeded

    @property
    def is_idle(self) -> bool:
        """Whether the last claim found nothing and nothing runs."""
        return self._idle.is_set()

    async def run(self, shutdown: asyncio.Event, *, until_idle: bool = False) -> None:
        """Run until `shutdown`, or until idle. Then release what still runs, with its checkpoint."""
        listener = asyncio.create_task(self._listen()) if self._options.listen_url else None
        ticks = asyncio.create_task(self._tick_until(shutdown))
        try:
            await wait_any(shutdown, *([self._idle] if until_idle else []))
        finally:
            shutdown.set()
            await cancel_and_wait(*([listener] if listener else []))
            await self._shut_down(ticks)

    async def _tick_until(self, shutdown: asyncio.Event) -> None:
        while not shutdown.is_set():
            self._claim_now.clear()
            try:
                has_more = await self._tick(shutdown)
            except Exception:  # executions that run go on
                log.exception("claim failed", extra={"worker": self._options.name})
                has_more = False
            if not has_more:
                await self._wait_for_tick()

    async def _wait_for_tick(self) -> None:
        # Not `wait_any`, which takes more turns of the event loop: the claim must be in the turn of the completion.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.tick_seconds):
                await self._claim_now.wait()

    async def _tick(self, shutdown: asyncio.Event) -> bool:
        """Claim as many as there is room for. Return whether more may be claimable now."""
        free = self._options.concurrency - len(self._running) + len(self._work_done)
        # A claim reaps too, but only its own families and only where it finds the end of the queue.
        if not free or self._now >= self._next_reap:
            await self._client.reap()
            self._next_reap = self._now + REAP_SECONDS
        if not free:
            return False
        claimed = await self._completions.claim(
            self._options.name, list(self._runners), free, self._options.lease_seconds
        )
        self.has_claimed = True
        if len(claimed) == free:
            self._next_reap = min(self._next_reap, self._now + self._options.tick_seconds)
        if claimed:
            self._idle.clear()
        elif not self._running:
            self._idle.set()
        for execution in claimed:
            self._start(execution, shutdown)
        return 0 < len(claimed) < free

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _start(self, execution: Execution, shutdown: asyncio.Event) -> None:
        key = (execution.id, execution.lease_token)
        signals = Signals(on_work_done=partial(self._on_work_done, key))
        if shutdown.is_set():
            signals.shutdown.set()
        self._running[key] = (asyncio.create_task(self._run(execution, signals)), signals)

    async def _run(self, execution: Execution, signals: Signals) -> None:
        about = {"execution_id": execution.id, "lease_token": execution.lease_token}
        log.info("execution started", extra=about)
        try:
            outcome = await self._engine.run(execution, self._runners[execution.family], signals)
            log.info("execution ended", extra=about | {"outcome": outcome})
        except Exception:  # its lease expires and the reaper takes it back
            log.exception("execution task crashed", extra=about)
        finally:
            key = (execution.id, execution.lease_token)
            del self._running[key]
            if key not in self._work_done or not self._running:  # else its place was free before
                self._claim_now.set()
            self._work_done.discard(key)

    def _on_work_done(self, key: tuple[str, int]) -> None:
        """Start a claim while the completion still waits for others, so that both travel in one call."""
        self._work_done.add(key)
        self._claim_now.set()

    async def _shut_down(self, ticks: asyncio.Task[None]) -> None:
        for _, signals in self._running.values():
            signals.shutdown.set()
        self._claim_now.set()
        try:
            async with asyncio.timeout(self._options.shutdown_seconds):
                await ticks  # a claim that is under way may return more executions
                await asyncio.gather(*[task for task, _ in self._running.values()], return_exceptions=True)
        except TimeoutError:
            # The database is unavailable, so nothing can be released: the leases expire.
            await cancel_and_wait(ticks, *[task for task, _ in self._running.values()])

    async def _listen(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._options.listen_url or "", autocommit=True
                ) as connection:
                    await connection.execute("listen execution_cancelled; listen execution_queued")
                    self._check_all()  # notifications before this moment are lost
                    async for notify in connection.notifies():
                        self._on_notify(notify.channel, notify.payload)
            except psycopg.Error:
                await asyncio.sleep(self._options.tick_seconds)

    def _on_notify(self, channel: str, payload: str) -> None:
        if channel == "execution_queued":
            self._claim_now.set()
            return
        for (execution_id, _), (_, signals) in self._running.items():
            if payload in (execution_id, ALL_EXECUTIONS):
                signals.check_now.set()

    def _check_all(self) -> None:
        self._claim_now.set()
        for _, signals in self._running.values():
            signals.check_now.set()
