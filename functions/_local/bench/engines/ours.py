"""Ours: `claim` for a batch, `finish` for each, at once, as the worker calls them."""

from __future__ import annotations

import asyncio
import os

import psycopg

from functions._local.bench.engines.driver import obey
from functions._shared.rpc import PostgresRpc
from functions.worker.protocol import Protocol, service_caller

FAMILY = "historical_sync"


async def main() -> None:
    protocol = Protocol(PostgresRpc(os.environ["DATABASE_URL"]), service_caller(""))
    owner = await psycopg.AsyncConnection.connect(os.environ["OWNER_URL"], autocommit=True)

    async def fill(jobs: int) -> None:
        await owner.execute(
            "insert into app.executions (agency_id, family, run_at)"
            " select (select id from public.agencies), %s, '2000-01-01' from generate_series(1, %s)",
            (FAMILY, jobs),
        )

    async def take(batch: int) -> int:
        executions = await protocol.claim("bench", [FAMILY], batch, 30)
        answers = await asyncio.gather(*(protocol.finish(execution) for execution in executions))
        assert set(answers) <= {"completed"}, answers
        return len(executions)

    await obey(fill, take)


asyncio.run(main())
