"""The demo's scenario for each family: how an execution is started, watched, cancelled and resumed.

Each scenario is a few calls of the published API, and an example of how to use the family.
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
class Progress:
    """An execution's status and its number of stored records, as its API shows them."""

    status: str
    records: int

    @property
    def has_ended(self) -> bool:
        return self.status in {"completed", "failed", "cancelled", "canceled", "stopped"}


class Scenario:
    """`total`: the number of records of a complete run. `start` and `resume` return an execution's id."""

    description: ClassVar[str]
    total: ClassVar[int]

    def __init__(self, client: Client, user: Mapping[str, Any]) -> None:
        self.client = client
        self.source = str(user["connection_id"])
        self.records = str(user["records_connection_id"])

    @property
    def destination(self) -> str:
        """The connection that receives the records."""
        return self.records

    def start(self) -> str:
        raise NotImplementedError

    def progress(self, execution: str) -> Progress:
        raise NotImplementedError

    def cancel(self, execution: str) -> tuple[str, dict[str, Any]]:
        """The call, as it is written, and its response."""
        raise NotImplementedError

    def resume(self, execution: str) -> tuple[str, str]:
        """The id of the new execution, and a message about it."""
        raise NotImplementedError


class HistoricalSync(Scenario):
    description = "the flights of 2013, day by day"
    total = RESOURCES["flights"].count

    @property
    def destination(self) -> str:
        return self.source

    def start(self) -> str:
        dates = {"date_from": FIRST_DATE.isoformat(), "date_to": LAST_DATE.isoformat()}
        body = {"connection_id": self.source, "resources": ["flights"], **dates}
        return str(self.client.post("/start-historical-sync", body)["job_id"])

    def progress(self, execution: str) -> Progress:
        job = self.client.get("/get-historical-sync", job_id=execution)
        return Progress(job["status"], job["progress"]["records"])

    def cancel(self, execution: str) -> tuple[str, dict[str, Any]]:
        body = {"job_id": execution, "reason": "Cancelled by the demo"}
        return "cancel-historical-sync", self.client.post("/cancel-historical-sync", body)

    def resume(self, execution: str) -> tuple[str, str]:
        position = self.client.get("/get-historical-sync", job_id=execution)["position"]["date"]
        rest = str(self.client.post("/retry-historical-sync", {"job_id": execution})["job_id"])
        return rest, f"retry-historical-sync → 201. A new job continues at the checkpoint, {position}."


class _Defined(Scenario):
    """A sync with a definition that is started again and again."""

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
    description = "five whole streams of the source, to a connection of type records"
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

    def progress(self, execution: str) -> Progress:
        now = self.execution(execution)
        return Progress(now["status"], now["record_count"])

    def resume(self, execution: str) -> tuple[str, str]:
        schemas = self.execution(execution)["schemas"]
        done = [schema["schema"] for schema in schemas if schema["status"] == "completed"]
        return (
            self.start(),
            f"When it was cancelled, these streams were complete: {', '.join(done) or 'none'}. It starts again.",
        )


class ModelSync(_Defined):
    description = "three fields of each flight, as new rows of the object departures"
    total = RESOURCES["flights"].count
    path = "/api/syncs"

    def define(self) -> str:
        fields = {"carrier": "airline", "dest": "to", "dep_delay": "minutes_late"}
        return self._sync("flights", fields, {"mode": "append"}, "departures")

    def _sync(self, resource: str, fields: Mapping[str, str], options: Mapping[str, Any], target: str) -> str:
        query = {"name": resource, "connection_id": self.source, "configuration": {"resource": resource}}
        model = self.client.post("/api/models", query)["data"]["id"]
        mappings = [{"source": {"model_id": model, "field": one}, "target": to} for one, to in fields.items()]
        body: dict[str, Any] = {
            "name": f"{resource} → {target}",
            "fields": mappings,
            "target": {"connection_id": self.records, "object": target},
            "schedule": {"frequency": "manual"},
            **options,
        }
        if "identity" in options:
            body["identity"] = {**options["identity"], "source": {"model_id": model, **options["identity"]["source"]}}
        return str(self.client.post(self.path, body)["data"]["id"])

    def progress(self, execution: str) -> Progress:
        now = self.execution(execution)
        return Progress(now["status"], now["counts"]["total"])

    def resume(self, execution: str) -> tuple[str, str]:
        """Starts another sync twice: the second run finds the rows of the first by their identity."""
        stopped = self.execution(execution)["counts"]
        identity = {"source": {"field": "tailnum"}, "target": "tail_number", "function": "Equality"}
        options = {"mode": "updateOrCreate", "identity": identity}
        self.sync = self._sync("planes", {"model": "type", "year": "built"}, options, "aircraft")
        first = self.execution(self._wait_for(self.start()))["counts"]
        message = (
            f"It had inserted {stopped['insert']:,} rows. Another sync matches planes by tail number: it inserted "
            f"{first['insert']:,} and updated {first['update']:,}. It runs once more."
        )
        return self.start(), message

    def _wait_for(self, execution: str) -> str:
        while not self.progress(execution).has_ended:
            time.sleep(0.05)
        return execution


class SyncJobRun(Scenario):
    description = "the airlines, and the flights of each airline"
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

    def progress(self, execution: str) -> Progress:
        run = self.client.get(f"/sync-job-run/{execution}")
        return Progress(run["status"], run["resource_stats"].get("flights", {}).get("list", {}).get("persisted", 0))

    def cancel(self, execution: str) -> tuple[str, dict[str, Any]]:
        run = self.client.delete(f"/sync-job-run/{execution}")
        return "DELETE sync-job-run/{id}", {name: run[name] for name in ("id", "status", "resource_stats")}

    def resume(self, execution: str) -> tuple[str, str]:
        stats = self.client.get(f"/sync-job-run/{execution}")["resource_stats"]
        return self.start(), f"Its counts were {stats}. Another run starts from the beginning."


SCENARIOS: Mapping[str, type[Scenario]] = {
    "historical-sync": HistoricalSync,
    "bulk-sync": BulkSync,
    "model-sync": ModelSync,
    "sync-job-run": SyncJobRun,
}
