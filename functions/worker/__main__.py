"""`python -m functions.worker`: claims and runs executions until SIGTERM or Ctrl-C.

With DATABASE_URL it speaks to Postgres directly and hears of cancels at once; without, through PostgREST at
SUPABASE_URL with SUPABASE_SERVICE_ROLE_KEY, and asks with every commit and heartbeat.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import replace
from functools import partial

from functions._shared import logs, secret_store
from functions._shared.rpc import PostgresRpc, PostgrestRpc
from functions._shared.settings import secrets_from
from functions.worker.connectors import open_source
from functions.worker.connectors.http.network import make_client
from functions.worker.connectors.webhook import post
from functions.worker.forgetting import Forgetting
from functions.worker.loop import Options, Worker
from functions.worker.outbox import Outbox
from functions.worker.protocol import Protocol, service_caller
from functions.worker.runners import LOOKS, RUNNERS, given


def make_protocol(database_url: str | None, *, threads: int) -> Protocol:
    if database_url:
        return Protocol(PostgresRpc(database_url), service_caller(""), threads=threads)
    url, key = os.environ["SUPABASE_URL"], os.environ["SUPABASE_SERVICE_ROLE_KEY"]
    return Protocol(PostgrestRpc(url.rstrip("/"), key), service_caller(key), threads=threads)


def _seconds(name: str) -> float | None:
    return float(os.environ[name]) if os.environ.get(name) else None


async def main() -> None:
    logs.to_stderr()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    options = Options(
        name=f"{socket.gethostname()}:{os.getpid()}",
        concurrency=int(os.environ.get("WORKER_CONCURRENCY", "4")),
        lease_seconds=int(os.environ.get("WORKER_LEASE_SECONDS", "30")),
        heartbeat_seconds=float(os.environ.get("WORKER_HEARTBEAT_SECONDS", "5")),
        tick_seconds=float(os.environ.get("WORKER_TICK_SECONDS", "1")),
        shutdown_seconds=float(os.environ.get("WORKER_SHUTDOWN_SECONDS", "8")),
        time_budget_seconds=_seconds("WORKER_TIME_BUDGET_SECONDS"),
        listen_url=os.environ.get("DATABASE_URL"),
    )
    protocol = make_protocol(options.listen_url, threads=2 * options.concurrency + 2)
    private = os.environ.get("WORKER_ALLOW_PRIVATE_ADDRESSES", "false") == "true"
    secrets = secret_store.make(*secrets_from())
    opening = partial(open_source, allow_private_addresses=private, secrets=secrets)
    async with make_client(allow_private_addresses=private) as client:
        posting = partial(post, client=client)
        await asyncio.gather(
            Worker(protocol, given(opening, RUNNERS), options, posting).run(stop),
            Worker(protocol, given(opening, LOOKS), replace(options, concurrency=2)).run(stop),
            Outbox(protocol, posting, options.tick_seconds).run(stop),
            *([Forgetting(protocol, secrets).run(stop)] if secrets else []),
        )


if __name__ == "__main__":
    asyncio.run(main())
    # An orderly exit would wait for a call that a frozen database never answers; nothing is left to be said.
    os._exit(0)
