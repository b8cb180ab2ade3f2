"""The executions that run while everything breaks, and the records that they must leave."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from functions._local.source import RESOURCES, table
from tests.chaos.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import httpx
    import psycopg

    from tests.chaos.target import Target

DATES: Final = ("2013-03-02", "2013-04-01")
PAGE: Final = 30  # records; small, so that faults happen in the middle of a run
ITEMS: Final = 1200  # executions that a bulk action cancels
MANUAL: Final = {"frequency": "manual"}
TWO_STEPS: Final = ("bulk_sync", "model_sync")
FAULTS: Final = ("source_", "receiver_", "worker_lost")  # prefixes of error codes that injected faults cause

Records = dict[tuple[str, str], Any]  # data by resource and key

_ITEMS = """
insert into app.executions (agency_id, family, connection_id, run_at)
select %s, 'historical_sync', %s, '2999-01-01' from generate_series(1, %s)
"""


@dataclass
class Job:
    """`expected`: its records once it is completed, in the connection `destination` (None: delivered, or no records).
    `cancelled`: its row when the cancel had returned.
    """

    id: str
    cancel: tuple[str, str, Any]  # method, path, body
    destination: str | None
    expected: Records = field(repr=False)
    cancelled: dict[str, Any] | None = field(default=None, repr=False)


class Jobs:
    """Definitions, created once while everything works. `start` starts executions of each family."""

    def __init__(self, target: Target, send: Callable[..., httpx.Response]) -> None:
        self._target = target
        self._send = send
        self._agency = target.agency()
        self.person = target.person(self._agency)
        self.receiver = Receiver()
        self._bulk_syncs = [self._bulk_sync(), self._bulk_sync()]
        self._model_sync, self._planes = self._define_model_sync()
        self._sync_job = self._created(
            "/sync-job", resources=[{"resource": "planes", "method": "list", "persist": True}]
        )
        self._webhook = self._created("/webhook", target_url=self.receiver.url)["id"]

    def _created(self, path: str, **body: Any) -> dict[str, Any]:
        """Repeats the request after each 503, safely because of the Idempotency-Key. Raises httpx.HTTPStatusError."""
        headers = {"idempotency-key": str(uuid.uuid4())}
        while True:
            response = self._send("POST", path, self.person.token, json=body, headers=headers)
            if response.status_code != 503:
                break
            time.sleep(0.2)
        response.raise_for_status()
        created: dict[str, Any] = response.json()
        return dict(created.get("data", created))

    def _connection(self, *resources: str) -> str:
        config, secret = self._target.source.connection(resources, page_size=PAGE)
        return self._target.connection(self._agency, "http", config, secret)

    def _bulk_sync(self) -> tuple[str, str]:
        """Its id, and the connection that receives its records."""
        source, destination = self._connection("airports", "airlines"), self._target.connection(self._agency, "records")
        ids = {"source_connection_id": source, "destination_connection_id": destination}
        made = self._created("/api/bulk/syncs", name="B", destination_configuration={}, default_schedule=MANUAL, **ids)
        return made["id"], destination

    def _define_model_sync(self) -> tuple[str, str]:
        query = {"connection_id": self._connection("planes"), "configuration": {"resource": "planes"}}
        number = {"model_id": self._created("/api/models", name="M", **query)["id"], "field": "tailnum"}
        destination = self._target.connection(self._agency, "records")
        made = self._created(
            "/api/syncs",
            name="M",
            mode="updateOrCreate",
            target={"connection_id": destination, "object": "aircraft"},
            identity={"source": number, "target": "number", "function": "Equality"},
            fields=[{"source": number | {"field": "year"}, "target": "built"}],
            schedule=MANUAL,
        )
        return made["id"], destination

    def start(self) -> list[Job]:
        jobs = [self._historical_sync(), self._historical_sync(), self._bulk_action()]
        for sync, destination in self._bulk_syncs:
            jobs.append(self._execution(f"/api/bulk/syncs/{sync}", destination, _records("airports", "airlines")))
        jobs.append(self._execution(f"/api/syncs/{self._model_sync}", self._planes, _aircraft()))
        return [*jobs, self._run(daemon_group_key="default"), self._run(webhook_id=self._webhook)]

    def _historical_sync(self) -> Job:
        destination = self._connection("weather")
        dates = dict(zip(("date_from", "date_to"), DATES, strict=True))
        job_id = self._created("/start-historical-sync", connection_id=destination, **dates)["job_id"]
        return Job(job_id, ("POST", "/cancel-historical-sync", {"job_id": job_id}), destination, _records("weather"))

    def _execution(self, sync: str, destination: str, expected: Records) -> Job:
        return Job(self._created(f"{sync}/executions")["id"], ("POST", f"{sync}/cancel", None), destination, expected)

    def _run(self, **to: str) -> Job:
        account = self._connection("planes")
        ids = {"sync_job_id": self._sync_job["id"], "integrated_account_id": account}
        run = self._created("/sync-job-run", **ids, **to)["id"]
        return Job(
            run, ("DELETE", f"/sync-job-run/{run}", None), None if "webhook_id" in to else account, _records("planes")
        )

    def _bulk_action(self) -> Job:
        """It cancels executions that no worker claims."""
        connection = self._connection("weather")
        with self._target.admin() as admin, admin.transaction():
            admin.execute("set local role postgres")
            admin.execute(_ITEMS, (self._agency, connection, ITEMS))
        criteria = {"family": "historical_sync", "status": "pending", "connection_id": connection}
        job_id = self._created("/api/actions/bulk/jobs", action_type="cancel", criteria=criteria)["job_id"]
        return Job(job_id, ("POST", f"/api/actions/bulk/jobs/{job_id}/cancel", {}), None, {})

    def violations(self, job: Job, admin: psycopg.Connection[dict[str, Any]]) -> list[str]:
        """The violations of a job that has ended, by its row and its records."""
        row = row_of(job.id, admin)
        wrong = []
        ends = ("cancelled", "completed", "failed") if row["family"] in TWO_STEPS else ("cancelled",)
        if job.cancelled and row["status"] not in ends:
            wrong.append(f"its cancel returned 200, and its status is {row['status']}")
        if job.cancelled and job.cancelled["finished_at"] and row != job.cancelled:
            wrong.append("it changed after the cancel's 200")
        if row["status"] == "completed":
            wrong += self._compared(job, row, admin)
        if row["status"] == "failed" and not row["error"]["code"].startswith(FAULTS):
            wrong.append(f"it failed: {row['error']}")
        return [f"{violation} ({row['family']} {job.id})" for violation in wrong]

    def _compared(self, job: Job, row: Mapping[str, Any], admin: psycopg.Connection[dict[str, Any]]) -> list[str]:
        """Checks that its records are exactly those of the source."""
        if row["family"] == "bulk_action":
            done = _fetch_row(admin, "select done from app.bulk_actions where execution_id = %s", job.id)["done"]
            return [] if done == ITEMS else [f"it is completed, but {done} of {ITEMS} are cancelled"]
        wrong = []
        if row["records"] != len(job.expected):
            wrong.append(f"{row['records']} of {len(job.expected)} records are counted")
        if job.destination is None:
            missing = {data["tailnum"] for data in job.expected.values()} - self.receiver.numbers[job.id]
            return wrong + [f"{len(missing)} records were not delivered"] * bool(missing)
        query = "select resource, key, data from app.records where connection_id = %s"
        stored = {
            (record["resource"], record["key"]): record["data"] for record in admin.execute(query, (job.destination,))
        }
        if stored != job.expected:
            wrong.append(f"{len(stored)} records are stored, and they are not the {len(job.expected)} of the source")
        return wrong


def row_of(job_id: str, admin: psycopg.Connection[dict[str, Any]]) -> dict[str, Any]:
    """Its row in app.executions, with the number of its stored records."""
    stored = "(select count(*) from app.records r where r.execution_id = x.id) as stored"
    return _fetch_row(admin, f"select x.*, {stored} from app.executions x where id = %s", job_id)


def _fetch_row(admin: psycopg.Connection[dict[str, Any]], query: str, job_id: str) -> dict[str, Any]:
    row = admin.execute(query, (job_id,)).fetchone()
    assert row
    return row


@cache
def _records(*resources: str) -> Records:
    found: Records = {}
    for name in resources:
        held = table(name)
        start, stop = held.between(*DATES) if RESOURCES[name].dated else (0, len(held))
        for row in json.loads(b"[" + held.rows(start, stop) + b"]"):
            found[name, _key(row[field] for field in RESOURCES[name].primary_key)] = row
    return found


@cache
def _aircraft() -> Records:
    """The planes, mapped as the model sync maps them."""
    planes = _records("planes").values()
    return {("aircraft", _key([p["tailnum"]])): {"number": p["tailnum"], "built": p["year"]} for p in planes}


def _key(values: Iterable[Any]) -> str:
    return json.dumps([*values], separators=(",", ":"))
