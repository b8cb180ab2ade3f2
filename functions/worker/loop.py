"""Many executions: claims as many as there is room for, reaps with every tick, hears of cancels, stops in order."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from functions.worker.engine import Engine, Signals
from functions.worker.tasks import end, wait_any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.worker.client import Execution, Protocol, Runner
    from functions.worker.connectors.webhook import Post

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
ALL_EXECUTIONS = "*"  # a bulk action cancels many and says so once


@dataclass(frozen=True)
class Options:
    """`listen_url`: a session connection for hints (a pooler in transaction mode carries none). Without hints a cancel
    is heard at the next commit or heartbeat, and a start at the next tick.
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
    """`runners` by family: what it claims."""

    def __init__(
        self, protocol: Protocol, runners: Mapping[str, Runner], options: Options, post: Post | None = None
    ) -> None:
        self._protocol = protocol
        self._runners = runners
        self._options = options
        self._engine = Engine(protocol, options.heartbeat_seconds, options.time_budget_seconds, post)
        # By execution and lease: one whose lease ran out unnoticed may be claimed here again before its task has ended.
        self._running: dict[tuple[str, int], tuple[asyncio.Task[None], Signals]] = {}
        # Of those, whose work is done and whose place is free already.
        self._leaving: set[tuple[str, int]] = set()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._next_reap = 0.0
        self.has_claimed = False  # whether the database ever answered a claim

    @property
    def is_idle(self) -> bool:
        """Whether there was nothing to claim and nothing runs."""
        return self._idle.is_set()

    async def run(self, stop: asyncio.Event, *, until_idle: bool = False) -> None:
        """Until `stop`, or idle; then what runs is released with its checkpoint."""
        listener = asyncio.create_task(self._listen()) if self._options.listen_url else None
        ticks = asyncio.create_task(self._tick_until(stop))
        try:
            await wait_any(stop, *([self._idle] if until_idle else []))
        finally:
            stop.set()
            await end(*([listener] if listener else []))
            await self._shut_down(ticks)

    async def _tick_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._wake.clear()
            try:
                more = await self._tick(stop)
            except Exception:
                # What runs goes on; whoever is on call reads this once a tick.
                log.exception("no claim")
                more = False
            if not more:
                await self._sleep()

    async def _tick(self, stop: asyncio.Event) -> bool:
        """Whether there may be more to claim now."""
        free = self._options.concurrency - len(self._running) + len(self._leaving)
        # A claim reaps too where the queue ends; what nobody claims for and what is kept for a day only, this does.
        if not free or self._now >= self._next_reap:
            await self._protocol.reap()
            self._next_reap = self._now + SWEEP_SECONDS
        if not free:
            return False
        claimed = await self._protocol.claim(self._options.name, list(self._runners), free, self._options.lease_seconds)
        self.has_claimed = True
        if len(claimed) == free:
            self._next_reap = min(self._next_reap, self._now + self._options.tick_seconds)
        if claimed:
            self._idle.clear()
        elif not self._running:
            self._idle.set()
        for execution in claimed:
            key = (execution.id, execution.lease_token)
            signals = Signals(leave=partial(self._leave, key))
            if stop.is_set():
                signals.stop.set()
            task = asyncio.create_task(self._run(execution, signals))
            self._running[key] = (task, signals)
        return 0 < len(claimed) < free

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(self._options.tick_seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _run(self, execution: Execution, signals: Signals) -> None:
        about = {"execution_id": execution.id, "lease_token": execution.lease_token}
        log.info("begun", extra=about)
        try:
            outcome = await self._engine.run(execution, self._runners[execution.family], signals)
            log.info("ended", extra=about | {"outcome": outcome})
        except Exception:
            # Its lease runs out and the reaper takes it back.
            log.exception("given up", extra=about)
        finally:
            key = (execution.id, execution.lease_token)
            del self._running[key]
            if key not in self._leaving or not self._running:  # else its place was taken long ago
                self._wake.set()
            self._leaving.discard(key)

    def _leave(self, key: tuple[str, int]) -> None:
        """Wakes the claim while the finish still waits for others, so that both travel together."""
        self._leaving.add(key)
        self._wake.set()

    async def _shut_down(self, ticks: asyncio.Task[None]) -> None:
        for _, signals in self._running.values():
            signals.stop.set()
        self._wake.set()
        try:
            async with asyncio.timeout(self._options.shutdown_seconds):
                await ticks  # a claim under way may hand out more
                await asyncio.gather(*[task for task, _ in self._running.values()], return_exceptions=True)
        except TimeoutError:
            # A database that is away cannot be told: then the leases run out.
            await end(ticks, *[task for task, _ in self._running.values()])

    async def _listen(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._options.listen_url or "", autocommit=True
                ) as connection:
                    await connection.execute("listen execution_cancelled; listen execution_queued")
                    self._hint_all()  # whatever was said while nobody listened
                    async for notify in connection.notifies():
                        self._heard(notify.channel, notify.payload)
            except psycopg.Error:
                await asyncio.sleep(self._options.tick_seconds)

    def _heard(self, channel: str, payload: str) -> None:
        if channel == "execution_queued":
            self._wake.set()
            return
        for (execution_id, _), (_, signals) in self._running.items():
            if payload in (execution_id, ALL_EXECUTIONS):
                signals.hint.set()

    def _hint_all(self) -> None:
        self._wake.set()
        for _, signals in self._running.values():
            signals.hint.set()
