"""What the demo shows of each family: how it is started, watched, cancelled and brought to its end.

Each is a few calls of the published API; whoever reads one knows how to use the family.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from functions._local.source import FIRST_DATE, LAST_DATE, RESOURCES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._local.client import Client


@dataclass(frozen=True)
class Look:
    """An execution as its API shows it: its status, and how many records are stored."""

    status: str
    records: int

    @property
    def has_ended(self) -> bool:
        return self.status in {"completed", "failed", "cancelled", "canceled", "stopped"}


class Scenario:
    """`total`: the records of a whole run. `id` in the answers of `start` and `go_on` is the execution's."""

    what: ClassVar[str]
    total: ClassVar[int]

    def __init__(self, client: Client, user: Mapping[str, Any]) -> None:
        self.client = client
        self.source = str(user["connection_id"])
        self.records = str(user["records_connection_id"])

    @property
    def destination(self) -> str:
        """The connection whose records these are."""
        return self.records

    def start(self) -> str:
        raise NotImplementedError

    def source_check(self, execution: str) -> Look:
        raise NotImplementedError

    def cancel(self, execution: str) -> tuple[str, dict[str, Any]]:
        """The call as one writes it, and its answer."""
        raise NotImplementedError

    def go_on(self, execution: str) -> tuple[str, str]:
        """The new execution's id, and a sentence about it."""
        raise NotImplementedError


class HistoricalSync(Scenario):
    what = "the flights of 2013, day by day"
    total = RESOURCES["flights"].count

    @property
    def destination(self) -> str:
        return self.source

    def start(self) -> str:
        dates = {"date_from": FIRST_DATE.isoformat(), "date_to": LAST_DATE.isoformat()}
        body = {"connection_id": self.source, "resources": ["flights"], **dates}
        return str(self.client.post("/start-historical-sync", body)["job_id"])

    def source_check(self, execution: str) -> Look:
        job = self.client.get("/get-historical-sync", job_id=execution)
        return Look(job["status"], job["progress"]["records"])

    def cancel(self, execution: str) -> tuple[str, dict[str, Any]]:
        body = {"job_id": execution, "reason": "The demo has seen enough"}
        return "cancel-historical-sync", self.client.post("/cancel-historical-sync", body)

    def go_on(self, execution: str) -> tuple[str, str]:
        position = self.client.get("/get-historical-sync", job_id=execution)["position"]["date"]
        rest = str(self.client.post("/retry-historical-sync", {"job_id": execution})["job_id"])
        return rest, f"retry-historical-sync → 201: a new job goes on at the checkpoint, {position}."


class _Defined(Scenario):
    """A sync that is defined once and started again and again."""

    path: ClassVar[str]

    def __init__(self, client: Client, user: Mapping[str, Any]) -> None:
        super().__init__(client, user)
        self.sync = self.define()

    def define(self) -> str:
        raise NotImplementedError

    def start(self) -> str:
        return str(self.client.post(f"{self.path}/{self.sync}/executions", {})["data"]["id"])

    def execution(self, execution: str) -> dict[str, Any]:
        return dict(self.client.get(f"{self.path}/{self.sync}/executions/{execution}")["data"])

    def cancel(self, execution: str) -> tuple[str, dict[str, Any]]:
        return f"{self.path[1:]}/{{id}}/cancel", self.client.post(f"{self.path}/{self.sync}/cancel")


class BulkSync(_Defined):
    what = "five resources of the source, whole, to a connection of type records"
    total = sum(resource.count for resource in RESOURCES.values())
    path = "/api/bulk/syncs"

    def define(self) -> str:
        body = {
            "name": "Everything about 2013",
            "source_connection_id": self.source,
            "destination_connection_id": self.records,
            "destination_configuration": {},
            "default_schedule": {"frequency": "manual"},
        }
        return str(self.client.post(self.path, body)["data"]["id"])

    def source_check(self, execution: str) -> Look:
        now = self.execution(execution)
        return Look(now["status"], now["record_count"])

    def go_on(self, execution: str) -> tuple[str, str]:
        schemas = self.execution(execution)["schemas"]
        done = [one["schema"] for one in schemas if one["status"] == "completed"]
        return self.start(), f"It was cancelled with {', '.join(done) or 'no schema'} complete; started again, it ends."


class ModelSync(_Defined):
    what = "three fields of each flight, as new rows of the object departures"
    total = RESOURCES["flights"].count
    path = "/api/syncs"

    def define(self) -> str:
        fields = {"carrier": "airline", "dest": "to", "dep_delay": "minutes_late"}
        return self._sync("flights", fields, {"mode": "append"}, "departures")

    def _sync(self, resource: str, fields: Mapping[str, str], members: Mapping[str, Any], target: str) -> str:
        query = {"name": resource, "connection_id": self.source, "configuration": {"resource": resource}}
        model = self.client.post("/api/models", query)["data"]["id"]
        mappings = [{"source": {"model_id": model, "field": one}, "target": to} for one, to in fields.items()]
        body: dict[str, Any] = {
            "name": f"{resource} → {target}",
            "fields": mappings,
            "target": {"connection_id": self.records, "object": target},
            "schedule": {"frequency": "manual"},
            **members,
        }
        if "identity" in members:
            body["identity"] = {**members["identity"], "source": {"model_id": model, **members["identity"]["source"]}}
        return str(self.client.post(self.path, body)["data"]["id"])

    def source_check(self, execution: str) -> Look:
        now = self.execution(execution)
        return Look(now["status"], now["counts"]["total"])

    def go_on(self, execution: str) -> tuple[str, str]:
        """Another sync, twice: what is there is found again by its identity."""
        stopped = self.execution(execution)["counts"]
        identity = {"source": {"field": "tailnum"}, "target": "tail_number", "function": "Equality"}
        members = {"mode": "updateOrCreate", "identity": identity}
        self.sync = self._sync("planes", {"model": "type", "year": "built"}, members, "aircraft")
        first = self.execution(self._ended(self.start()))["counts"]
        sentence = (
            f"It had inserted {stopped['insert']:,} rows. Another, of the planes, matched by tail number: "
            f"{first['insert']:,} inserted, {first['update']:,} updated; and once more:"
        )
        return self.start(), sentence

    def _ended(self, execution: str) -> str:
        while not self.source_check(execution).has_ended:
            time.sleep(0.05)
        return execution


class SyncJobRun(Scenario):
    what = "the airlines, and for each as it arrives its flights"
    total = RESOURCES["flights"].count

    def __init__(self, client: Client, user: Mapping[str, Any]) -> None:
        super().__init__(client, user)
        flights = {
            "resource": "flights",
            "method": "list",
            "query": {"carrier": "{{resources.airlines.carrier}}", "date_from": "{{args.from}}"},
            "depends_on": "airlines",
            "persist": True,
        }
        job = {
            "label": "Flights by airline",
            "args_schema": {"from": {"type": "string", "format": "date", "required": True}},
            "resources": [{"resource": "airlines", "method": "list"}, flights],
        }
        self.job = str(client.post("/sync-job", job)["id"])

    @property
    def destination(self) -> str:
        return self.source

    def start(self) -> str:
        body = {
            "sync_job_id": self.job,
            "integrated_account_id": self.source,
            "daemon_group_key": "default",
            "args": {"from": FIRST_DATE.isoformat()},
        }
        return str(self.client.post("/sync-job-run", body)["id"])

    def source_check(self, execution: str) -> Look:
        run = self.client.get(f"/sync-job-run/{execution}")
        return Look(run["status"], run["resource_stats"].get("flights", {}).get("list", {}).get("persisted", 0))

    def cancel(self, execution: str) -> tuple[str, dict[str, Any]]:
        run = self.client.delete(f"/sync-job-run/{execution}")
        return "DELETE sync-job-run/{id}", {name: run[name] for name in ("id", "status", "resource_stats")}

    def go_on(self, execution: str) -> tuple[str, str]:
        stats = self.client.get(f"/sync-job-run/{execution}")["resource_stats"]
        return self.start(), f"It had read {stats}. Another run begins anew and ends."


SCENARIOS: Mapping[str, type[Scenario]] = {
    "historical-sync": HistoricalSync,
    "bulk-sync": BulkSync,
    "model-sync": ModelSync,
    "sync-job-run": SyncJobRun,
}
