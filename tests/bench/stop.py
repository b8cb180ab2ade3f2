"""The time from a cancel's 200 to the worker's stop, during a fetch that would never end.

It is negative if the worker stopped before the 200 arrived.
"""

from __future__ import annotations

import json
import random
import socketserver
import threading
import time
from typing import TYPE_CHECKING

from functions._local.worker_process import WorkerProcess
from tests.bench import load
from tests.bench.figures import Goal, Table, median, milliseconds, percentile
from tests.bench.transports import DIRECT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.stack import BenchStack, Contender

HINTED, UNHINTED = "with NOTIFY (direct)", "without (PostgREST)"
HEARTBEAT_SECONDS = 1.0
INTO_THE_FETCH_SECONDS = 0.03
RESOURCES = {
    "flights": {"path": "/flights", "primary_key": ["id"], "records": "data", "pagination": {"type": "none"}},
}


class _Silent(socketserver.BaseRequestHandler):
    """Reads requests and never responds."""

    def handle(self) -> None:
        while self.request.recv(65536):
            pass


class _SilentServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


def run(stack: BenchStack, cancels: int, unhinted: int) -> dict[str, list[float]]:
    """Seconds of each stop."""
    source = _SilentServer(("127.0.0.1", 0), _Silent)
    threading.Thread(target=source.serve_forever, daemon=True).start()
    transport = stack.ours(DIRECT, transport="postgres")
    hinted = {"DATABASE_URL": stack.url("authenticator")}
    through_rest = {
        "DATABASE_URL": "",
        "SUPABASE_URL": stack.supabase_url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.service_role_key,
        "WORKER_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
    }
    try:
        _queue(stack, source.server_address[1], cancels + unhinted)
        return {
            HINTED: _stops(transport, hinted, cancels),
            # At a random time between two heartbeats.
            UNHINTED: _stops(transport, through_rest, unhinted, HEARTBEAT_SECONDS),
        }
    finally:
        source.shutdown()
        source.server_close()


def _stops(transport: Contender, environment: Mapping[str, str], cancels: int, spread: float = 0) -> list[float]:
    taken: list[float] = []
    options = {"WORKER_ALLOW_PRIVATE_ADDRESSES": "true", "WORKER_CONCURRENCY": "1", **environment}
    with WorkerProcess(log=True, **options) as worker:
        for _ in range(cancels):
            job_id = worker.wait_for("execution started")["execution_id"]
            time.sleep(INTO_THE_FETCH_SECONDS + random.uniform(0, spread))
            load.run(transport.port, 1, transport.requests([job_id]))
            responded_at = time.time()
            taken.append(worker.wait_for("execution ended", job_id)["time"] - responded_at)
    return taken


def _queue(stack: BenchStack, port: int, number: int) -> None:
    """Queues jobs that read from the silent source."""
    config = {"base_url": f"http://127.0.0.1:{port}", "auth": {"type": "none"}, "resources": RESOURCES}
    spec = {"date_from": "2013-01-01", "date_to": "2013-01-31", "resources": [*RESOURCES]}
    with stack.admin.transaction():
        stack.admin.execute("set local role postgres")
        stack.admin.execute(
            "with connected as (insert into app.connections (agency_id, kind, name, config)"
            " values (%s, 'http', 'Silent', %s) returning agency_id, id)"
            " insert into app.executions (agency_id, family, connection_id, spec, run_at)"
            " select agency_id, 'historical_sync', id, %s, '2000-01-01' from connected, generate_series(1, %s)",
            (stack.agency_id, json.dumps(config), json.dumps(spec), number),
        )


def table(taken: Mapping[str, list[float]]) -> Table:
    made = Table(("from a cancel's 200 to the worker's stop", "p50 ms", "p99 ms", "cancels"))
    for name, seconds in taken.items():
        made.add(name, milliseconds(median(seconds)), milliseconds(percentile(seconds, 0.99)), f"{len(seconds):,}")
    return made


def goals(taken: Mapping[str, list[float]]) -> list[Goal]:
    return [
        Goal("stop with NOTIFY: p50 beside 5 ms", median(taken[HINTED]) / 0.005, at_most=1),
        Goal("stop without: the longest beside a heartbeat", max(taken[UNHINTED]) / HEARTBEAT_SECONDS, at_most=1),
    ]
