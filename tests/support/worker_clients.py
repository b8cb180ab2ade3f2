"""Worker clients for tests: one that counts its calls, and one behind a proxy that loses responses."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import Batch, WorkerClient, service_caller
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from functions._shared.caller import Caller
    from functions.worker.client import Execution
    from tests.support.database import Database

FAMILIES = ["historical_sync"]


class CountingTransport:
    """The direct transport; `calls` is how many calls were sent."""

    def __init__(self, url: str) -> None:
        self._transport = PostgresTransport(url)
        self.calls = 0

    async def call_async(self, name: str, arguments: Mapping[str, Any], caller: Caller, *rest: Any) -> bytes:
        self.calls += 1
        return await self._transport.call_async(name, arguments, caller, *rest)

    async def aclose(self) -> None:
        await self._transport.aclose()


@contextlib.contextmanager
def worker_client(url: str) -> Iterator[tuple[WorkerClient, CountingTransport]]:
    transport = CountingTransport(url)
    client = WorkerClient(transport, service_caller(""))
    try:
        yield client, transport
    finally:
        asyncio.run(client.aclose())


@contextlib.contextmanager
def client_behind_proxy(database: Database) -> Iterator[tuple[WorkerClient, CountingTransport, Proxy]]:
    with Proxy(database.server.port) as proxy, worker_client(proxied_url(database, proxy)) as (client, transport):
        yield client, transport, proxy


def proxied_url(database: Database, proxy: Proxy) -> str:
    """The worker's DATABASE_URL, through the proxy."""
    return database.login("authenticator").replace(f":{database.server.port}/", f":{proxy.port}/")


def claim_started(database: Database, client: WorkerClient, count: int = 1) -> list[Execution]:
    """Start `count` executions of a new agency and claim them."""
    user = database.member()
    for _ in range(count):
        database.start(user, database.connection(user.agency_id))
    return asyncio.run(client.claim("w", FAMILIES, count, 30))


def make_batch(number: int, *keys: str) -> Batch:
    records = [{"key": key, "data": {}} for key in keys]
    return Batch("flights", records, {"at": number}, {"windows_done": number})
