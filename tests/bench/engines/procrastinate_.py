"""procrastinate: fetches one job at a time."""

from __future__ import annotations

import asyncio
import os

from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status

from tests.bench.engines.driver import run

app = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))


@app.task(name="bench")  # type: ignore[untyped-decorator]
async def bench() -> None: ...


async def main() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        manager = app.job_manager
        worker_id = await manager.register_worker()

        async def fill(jobs: int) -> None:
            await bench.batch_defer_async(*[{} for _ in range(jobs)])

        async def take(_batch: int) -> int:
            job = await manager.fetch_job(None, worker_id)
            if job is None:
                return 0
            await manager.finish_job(job, Status.SUCCEEDED, delete_job=False)
            return 1

        await run(fill, take)


asyncio.run(main())
