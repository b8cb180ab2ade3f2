"""Many executions: claims as many as there is room for, reaps on every tick, hears of cancels, stops in order."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from functions.worker.engine import Engine, Signals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.worker.protocol import Execution, Protocol, Runner

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 10


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
    listen_url: str | None = None


class Worker:
    """`runners` by family: what it claims."""

    def __init__(self, protocol: Protocol, runners: Mapping[str, Runner], options: Options) -> None:
        self._protocol = protocol
        self._runners = runners
        self._options = options
        self._engine = Engine(protocol, options.heartbeat_seconds, options.time_budget_seconds)
        self._running: dict[str, tuple[asyncio.Task[None], Signals]] = {}
        self._wake = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then running executions are released with their checkpoints."""
        listener = asyncio.create_task(self._listen()) if self._options.listen_url else None
        stopper = asyncio.create_task(stop.wait())
        ticks = asyncio.create_task(self._tick_forever())
        try:
            await asyncio.wait({stopper, ticks}, return_when=asyncio.FIRST_COMPLETED)
            if ticks.done():
                ticks.result()
        finally:
            await self._shut_down(ticks, stopper, *([listener] if listener else []))

    async def _tick_forever(self) -> None:
        while True:
            self._wake.clear()
            free = self._options.concurrency - len(self._running)
            if free:
                claimed = await self._protocol.claim(
                    self._options.name, list(self._runners), free, self._options.lease_seconds
                )
            else:
                claimed = []
                await self._protocol.reap()
            for execution in claimed:
                self._begin(execution)
            if not claimed or len(claimed) == free:
                await self._sleep()

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(self._options.tick_seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _begin(self, execution: Execution) -> None:
        signals = Signals()
        task = asyncio.create_task(self._run(execution, signals))
        self._running[execution.id] = (task, signals)

    async def _run(self, execution: Execution, signals: Signals) -> None:
        about = {"execution_id": execution.id, "lease": execution.lease}
        log.info("begun", extra=about)
        try:
            outcome = await self._engine.run(execution, self._runners[execution.family], signals)
            log.info("ended", extra=about | {"outcome": outcome})
        except Exception:
            # Its lease runs out and the reaper takes it back.
            log.exception("given up", extra=about)
        finally:
            del self._running[execution.id]
            self._wake.set()

    async def _shut_down(self, *tasks: asyncio.Task[Any]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        running = list(self._running.values())
        for _, signals in running:
            signals.stop.set()
        if running:
            # A database that is away cannot be told: then the lease runs out.
            _, late = await asyncio.wait([task for task, _ in running], timeout=SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

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
            except psycopg.OperationalError:
                await asyncio.sleep(self._options.tick_seconds)

    def _heard(self, channel: str, payload: str) -> None:
        if channel == "execution_queued":
            self._wake.set()
        elif payload in self._running:
            self._running[payload][1].hint.set()

    def _hint_all(self) -> None:
        self._wake.set()
        for _, signals in self._running.values():
            signals.hint.set()
