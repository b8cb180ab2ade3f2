"""What is under way while everything breaks: an execution of each kind, and what must be left of it."""

from __future__ import annotations

import json
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from functions._local.source import RESOURCES, table
from functions._local.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    import httpx
    import psycopg

    from functions._local.torture.target import Target

DATES: Final = ("2013-03-02", "2013-03-07")
PAGE: Final = 60  # records: small, so that there is a middle to be hit
FIRST_STEP: Final = ("canceling", "canceled", "cancelled", "stopped")


class Receiver:
    """Of events: keeps the records in them, by run."""

    def __init__(self) -> None:
        self.keys: defaultdict[str, set[str]] = defaultdict(set)
        self._server = WebServer(self._receive, threads=8)
        self.url = f"{self._server.url}/events"
        self.close = self._server.close

    def _receive(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        payload = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))["payload"]
        run = payload.get("sync_job_run_id") or payload.get("id")
        self.keys[run] |= {key(RESOURCES["planes"].primary_key, one) for one in payload.get("records", [])}
        start_response("200 OK", [("content-length", "0")])
        return []


def key(members: Iterable[str], record: Mapping[str, Any]) -> str:
    return json.dumps([record[member] for member in members], separators=(",", ":"))


@dataclass
class Job:
    """`place` is the connection where its records land, None: they are delivered. `cancelled` is the row as it was
    when a cancel had been answered.
    """

    id: str
    cancel: tuple[str, str, Any]  # method, path, body
    place: str | None
    resources: tuple[str, ...]
    cancelled: dict[str, Any] | None = field(default=None, repr=False)


class Jobs:
    """Defined once, while all is well; `start` starts one of each kind."""

    def __init__(self, target: Target, ask: Callable[..., httpx.Response]) -> None:
        self._target = target
        self._ask = ask
        self._agency = target.agency()
        self.person = target.person(self._agency)
        self.receiver = Receiver()
        self._syncs = [self._define(), self._define()]
        self._run = self._sync_job()
        self._webhook = self._created("/webhook", target_url=self.receiver.url)["id"]

    def _created(self, path: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
        """Asks again as long as it is not now; the key makes that safe. Raises httpx.HTTPStatusError otherwise."""
        key = {"idempotency-key": str(uuid.uuid4())}
        while True:
            response = self._ask("POST", path, self.person.token, json=body, headers=key)
            if response.status_code != 503:
                break
            time.sleep(0.2)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def _connection(self, *resources: str) -> str:
        config, secret = self._target.source.connection(resources, page_size=PAGE)
        return self._target.connection(self._agency, "http", config, secret)

    def _define(self) -> tuple[str, str]:
        """A bulk sync and where its records land."""
        destination = self._target.connection(self._agency, "records")
        body = {"destination_configuration": {}, "default_schedule": {"frequency": "manual"}}
        source = self._connection("airports", "airlines")
        ids = {"source_connection_id": source, "destination_connection_id": destination}
        return self._created("/api/bulk/syncs", name="B", **ids, **body)["data"]["id"], destination

    def _sync_job(self) -> str:
        resource = {"resource": "planes", "method": "list", "persist": True}
        return str(self._created("/sync-job", resources=[resource])["id"])

    def start(self) -> list[Job]:
        jobs = [self._historical_sync(), self._historical_sync()]
        for sync, destination in self._syncs:
            started = self._created(f"/api/bulk/syncs/{sync}/executions")["data"]["id"]
            cancel = ("POST", f"/api/bulk/syncs/{sync}/cancel", None)
            jobs.append(Job(started, cancel, destination, ("airports", "airlines")))
        return [*jobs, self._started_run(daemon_group_key="default"), self._started_run(webhook_id=self._webhook)]

    def _historical_sync(self) -> Job:
        connection = self._connection("weather")
        dates = dict(zip(("date_from", "date_to"), DATES, strict=True))
        job_id = self._created("/start-historical-sync", connection_id=connection, **dates)["job_id"]
        return Job(job_id, ("POST", "/cancel-historical-sync", {"job_id": job_id}), connection, ("weather",))

    def _started_run(self, **to: str) -> Job:
        account = self._connection("planes")
        run = self._created("/sync-job-run", sync_job_id=self._run, integrated_account_id=account, **to)["id"]
        place = None if "webhook_id" in to else account
        return Job(run, ("DELETE", f"/sync-job-run/{run}", None), place, ("planes",))

    def verdict(self, job: Job, admin: psycopg.Connection[dict[str, Any]]) -> list[str]:
        """What is wrong with a job that has ended, given the records that there are."""
        row = row_of(job.id, admin)
        wrong = []
        if job.cancelled and job.cancelled["finished_at"] and row != job.cancelled:
            wrong.append("it changed after the cancel's 200")
        if job.cancelled and row["status"] not in ("cancelled", *(("completed", "failed") * self._has_two_steps(row))):
            wrong.append(f"its cancel was answered 200, and it is {row['status']}")
        if row["status"] == "completed":
            wrong += self._compared(job, row, admin)
        if row["status"] == "failed" and not row["error"]["code"].startswith(("source_", "worker_lost")):
            wrong.append(f"it failed: {row['error']}")
        return [f"{one} ({row['family']} {job.id})" for one in wrong]

    def _has_two_steps(self, row: Mapping[str, Any]) -> bool:
        return bool(row["family"] == "bulk_sync")

    def _compared(self, job: Job, row: Mapping[str, Any], admin: psycopg.Connection[dict[str, Any]]) -> list[str]:
        """Its records are the source's: none missing, none twice, none else."""
        expected: dict[tuple[str, str], Any] = {}
        for name in job.resources:
            held = table(name)
            start, stop = held.between(*DATES) if RESOURCES[name].dated else (0, len(held))
            rows = json.loads(b"[" + held.rows(start, stop) + b"]")
            expected |= {(name, key(RESOURCES[name].primary_key, one)): one for one in rows}
        if job.place is None:
            missing = {k for _, k in expected} - self.receiver.keys[job.id]
            return [f"{len(missing)} records were not delivered"] if missing else []
        query = "select resource, key, data from app.records where connection_id = %s"
        stored = {(one["resource"], one["key"]): one["data"] for one in admin.execute(query, (job.place,))}
        wrong = [] if stored == expected else [f"{len(stored)} records are stored of {len(expected)}, or others"]
        if row["records"] != len(expected):
            wrong.append(f"{row['records']} records are counted, of {len(expected)}")
        return wrong


def row_of(job_id: str, admin: psycopg.Connection[dict[str, Any]]) -> dict[str, Any]:
    """All that the database says of it, its records' number included."""
    row = admin.execute(
        "select x.*, (select count(*) from app.records r where r.execution_id = x.id) as stored"
        " from app.executions x where id = %s",
        (job_id,),
    ).fetchone()
    assert row
    return row
