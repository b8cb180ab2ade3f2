"""Ours: completes each execution of a batch and claims the next batch at the same time, as the worker does."""

from __future__ import annotations

import asyncio
import os

import psycopg

from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import Execution, WorkerClient, service_caller
from functions.worker.completion_batcher import CompletionBatcher
from tests.bench.engines.driver import run

FAMILY = "historical_sync"


async def main() -> None:
    batcher = CompletionBatcher(WorkerClient(PostgresTransport(os.environ["DATABASE_URL"]), service_caller("")))
    owner = await psycopg.AsyncConnection.connect(os.environ["OWNER_URL"], autocommit=True)

    async def fill(jobs: int) -> None:
        await owner.execute(
            "insert into app.executions (agency_id, family, run_at)"
            " select (select id from public.agencies), %s, '2000-01-01' from generate_series(1, %s)",
            (FAMILY, jobs),
        )

    running: list[Execution] = []

    async def take(batch: int) -> int:
        nonlocal running
        running = running or await batcher.claim("bench", [FAMILY], batch, 30)
        ending = asyncio.gather(*map(batcher.complete, running))
        claiming = asyncio.create_task(batcher.claim("bench", [FAMILY], batch, 30))
        results = await ending
        running = await claiming
        assert set(results) <= {"completed"}, results
        return len(results)

    await run(fill, take)


asyncio.run(main())
