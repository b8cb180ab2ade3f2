"""Ours: `worker_commit_batch` for each page, as the worker calls it, with checkpoint, counts and fencing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import psycopg

from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import Batch, WorkerClient, service_caller
from functions.worker.runners.pages import BATCH_RECORDS
from tests.bench.loads.rows import KEY, read

FAMILY = "historical_sync"


def _queue() -> None:
    """Queues an execution of a new connection, which has no records yet."""
    with psycopg.connect(os.environ["OWNER_URL"], autocommit=True) as owner:
        owner.execute(
            "with connected as (insert into app.connections (agency_id, kind, name, config)"
            " select id, 'http', 'Bench', '{}' from public.agencies returning agency_id, id)"
            " insert into app.executions (agency_id, family, connection_id, run_at)"
            " select agency_id, %s, id, '2000-01-01' from connected",
            (FAMILY,),
        )


async def main() -> None:
    rows = read(sys.argv[1])
    _queue()
    client = WorkerClient(PostgresTransport(os.environ["DATABASE_URL"]), service_caller(""))
    [execution] = await client.claim("bench", [FAMILY], 1, 60)
    begun = time.perf_counter()
    for seq, start in enumerate(range(0, len(rows), BATCH_RECORDS), execution.seq + 1):
        page = rows[start : start + BATCH_RECORDS]
        records = [{"key": "|".join(str(row[name]) for name in KEY), "data": row} for row in page]
        response = await client.commit_batch(execution, seq, Batch("flights", records, {"at": start}, {"rows": start}))
        assert response == "continue", response
    seconds = time.perf_counter() - begun
    await client.complete(execution)
    await client.aclose()
    print(json.dumps({"seconds": seconds}))


asyncio.run(main())
