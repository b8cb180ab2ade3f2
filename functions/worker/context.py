"""Everything a worker needs, made from its environment: for a process of its own and for the Lambda handler.

With DATABASE_URL the worker connects to Postgres and is notified of starts and cancels. Without it, it calls PostgREST
at SUPABASE_URL with SUPABASE_SECRET_KEY (or SUPABASE_SERVICE_ROLE_KEY), and notices a cancel at the next commit or
heartbeat.
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
from functions.worker import secret_cleanup
from functions.worker.client import WorkerClient, service_caller
from functions.worker.connectors import open_source, webhook
from functions.worker.connectors.http.network import make_client
from functions.worker.loop import Options, Worker
from functions.worker.outbox import Outbox
from functions.worker.periodic_task import PeriodicTask
from functions.worker.runners import CHECKS, RUNNERS, bind_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from functions._shared.dispatch import Queue
    from functions._shared.secret_store import SecretStore
    from functions.worker.connectors import OpenSource
    from functions.worker.connectors.webhook import Send
    from functions.worker.runners import RunnerFactory

# Checks have a queue of their own, because a caller waits for them whatever else is running.
FAMILIES: Mapping[Queue, Mapping[str, RunnerFactory]] = {"runs": RUNNERS, "checks": CHECKS}


@dataclass(frozen=True)
class WorkerContext:
    """Makes workers and periodic tasks that share one client."""

    client: WorkerClient
    options: Options
    open_source: OpenSource
    send: Send
    secrets: SecretStore | None

    def worker(self, queue: Queue, concurrency: int) -> Worker:
        """A worker of one queue that runs at most `concurrency` executions at once."""
        runners = bind_source(self.open_source, FAMILIES[queue])
        return Worker(self.client, runners, replace(self.options, concurrency=concurrency), self.send)

    def outbox(self) -> PeriodicTask:
        """Sends events about ended executions."""
        return PeriodicTask("outbox", Outbox(self.client, self.send).send_due, self.options.tick_seconds)

    def secret_cleanup(self) -> PeriodicTask:
        """Deletes secrets that no connection uses from the external store."""
        step = secret_cleanup.SecretCleanup(self.client, self.secrets).delete_due
        return PeriodicTask("secret cleanup", step, secret_cleanup.INTERVAL_SECONDS)


@asynccontextmanager
async def worker_context(environment: Mapping[str, str]) -> AsyncIterator[WorkerContext]:
    """Raises KeyError naming a missing setting."""
    private = environment.get("WORKER_ALLOW_PRIVATE_ADDRESSES", "false") == "true"
    client = await make_worker_client(environment)
    secrets = make_secret_store(*secrets_from(environment))
    opening = partial(open_source, allow_private_addresses=private, secrets=secrets)
    async with aclosing(client), make_client(allow_private_addresses=private) as http:
        yield WorkerContext(client, make_options(environment), opening, partial(webhook.send, client=http), secrets)


async def make_worker_client(environment: Mapping[str, str]) -> WorkerClient:
    """Raises KeyError naming a missing setting."""
    if environment.get("DATABASE_URL"):
        return WorkerClient(PostgresTransport(environment["DATABASE_URL"]), service_caller(""))
    from functions.worker.supabase_transport import connect  # noqa: PLC0415 (its import takes 0.3 s)

    url, key = environment["SUPABASE_URL"], first_set(environment, SECRET_KEYS)
    if key is None:
        raise KeyError(SECRET_KEYS[0])
    return WorkerClient(await connect(url.rstrip("/"), key), service_caller(key))


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
    """An empty setting counts as missing."""
    return float(environment.get(name) or default)
