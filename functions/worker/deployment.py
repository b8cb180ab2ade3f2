"""What a worker is made of, from its environment: the same for a process of its own and for one that the cloud calls.

With DATABASE_URL it calls Postgres directly and is notified of cancels at once. Without, it calls PostgREST at
SUPABASE_URL with SUPABASE_SECRET_KEY (or SUPABASE_SERVICE_ROLE_KEY) and sees a cancel at the next commit or heartbeat.
"""

from __future__ import annotations

import os
import socket
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from functions._shared.services import make_secret_store
from functions._shared.settings import SECRET_KEYS, first_set, secrets_from
from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import Protocol, service_caller
from functions.worker.connectors import open_source
from functions.worker.connectors.http.network import make_client
from functions.worker.connectors.webhook import post
from functions.worker.loop import Options, Worker
from functions.worker.outbox import Outbox
from functions.worker.runners import CHECKS, RUNNERS, given
from functions.worker.secret_cleanup import SecretCleanup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from functions._shared.dispatch import Queue
    from functions._shared.secret_store import SecretStore
    from functions.worker.connectors import OpenSource
    from functions.worker.connectors.webhook import Post
    from functions.worker.runners import Reader

FAMILIES: Mapping[Queue, Mapping[str, Reader]] = {"runs": RUNNERS, "checks": CHECKS}


@dataclass(frozen=True)
class WorkerContext:
    """Workers and an outbox over one way to the database."""

    protocol: Protocol
    options: Options
    open_source: OpenSource
    post: Post
    secrets: SecretStore | None

    def worker(self, queue: Queue, concurrency: int) -> Worker:
        runners = given(self.open_source, FAMILIES[queue])
        return Worker(self.protocol, runners, replace(self.options, concurrency=concurrency), self.post)

    def outbox(self) -> Outbox:
        return Outbox(self.protocol, self.post, self.options.tick_seconds)

    def secret_cleanup(self) -> SecretCleanup:
        return SecretCleanup(self.protocol, self.secrets)


@asynccontextmanager
async def crew(environment: Mapping[str, str]) -> AsyncIterator[WorkerContext]:
    """Raises KeyError naming a missing setting."""
    private = environment.get("WORKER_ALLOW_PRIVATE_ADDRESSES", "false") == "true"
    protocol = await make_protocol(environment)
    secrets = make_secret_store(*secrets_from(environment))
    opening = partial(open_source, allow_private_addresses=private, secrets=secrets)
    async with aclosing(protocol), make_client(allow_private_addresses=private) as client:
        yield WorkerContext(protocol, make_options(environment), opening, partial(post, client=client), secrets)


async def make_protocol(environment: Mapping[str, str]) -> Protocol:
    """Raises KeyError naming a missing setting."""
    if environment.get("DATABASE_URL"):
        return Protocol(PostgresTransport(environment["DATABASE_URL"]), service_caller(""))
    from functions.worker.supabase_transport import connect  # noqa: PLC0415 (its import takes 0.3 s)

    url, key = environment["SUPABASE_URL"], first_set(environment, SECRET_KEYS)
    if key is None:
        raise KeyError(SECRET_KEYS[0])
    return Protocol(await connect(url.rstrip("/"), key), service_caller(key))


def make_options(environment: Mapping[str, str]) -> Options:
    return Options(
        name=f"{socket.gethostname()}:{os.getpid()}",
        lease_seconds=int(number(environment, "WORKER_LEASE_SECONDS", "30")),
        heartbeat_seconds=number(environment, "WORKER_HEARTBEAT_SECONDS", "5"),
        tick_seconds=number(environment, "WORKER_TICK_SECONDS", "1"),
        shutdown_seconds=number(environment, "WORKER_SHUTDOWN_SECONDS", "8"),
        time_budget_seconds=number(environment, "WORKER_TIME_BUDGET_SECONDS", "0") or None,
        listen_url=environment.get("DATABASE_URL") or None,
    )


def number(environment: Mapping[str, str], name: str, default: str) -> float:
    return float(environment.get(name) or default)
