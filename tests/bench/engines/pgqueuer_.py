"""pgqueuer: dequeues a batch and logs a batch."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from uuid import uuid4

import asyncpg
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import EntrypointExecutionParameter, Queries

from tests.bench.engines.driver import run


async def main() -> None:
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    manager = uuid4()
    entrypoints = {"bench": EntrypointExecutionParameter(concurrency_limit=0)}

    async def fill(jobs: int) -> None:
        await queries.enqueue(["bench"] * jobs, [None] * jobs, [0] * jobs)

    async def take(batch: int) -> int:
        jobs = await queries.dequeue(batch, entrypoints, manager, None, timedelta(seconds=30))
        await queries.log_jobs([(job, "successful", None) for job in jobs])
        return len(jobs)

    await run(fill, take)


asyncio.run(main())
