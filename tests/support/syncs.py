"""Bulk and model syncs: calls of their APIs, a source whose tables a test sets, and a worker that makes one batch at a
time and may be killed between any two.
"""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs

from functions._local.web_server import WebServer
from functions.bulk_sync.get_bulk_sync import OneBulkSync
from functions.bulk_sync.get_bulk_sync_execution import OneBulkSyncExecution
from functions.model.get_model import OneModel
from functions.model_sync.get_model_sync import OneModelSync
from functions.model_sync.get_model_sync_execution import OneModelSyncExecution
from functions.worker.client import DatabaseStep, Execution
from functions.worker.connectors import open_source
from functions.worker.runners import RUNNERS, bind_source
from tests.support.project import BOTH_TRANSPORTS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
    from wsgiref.types import StartResponse, WSGIEnvironment

    import httpx
    from pydantic import BaseModel

    from functions.worker.client import Batch
    from tests.support.database import Database, User
    from tests.support.project import Project

UNKNOWN = "00000000-0000-4000-8000-000000000000"
BY_HAND = {"frequency": "manual"}
DIRECT = BOTH_TRANSPORTS[:1]
OPEN_LOCAL = partial(open_source, allow_private_addresses=True)  # for a TableSource
LOCAL = bind_source(OPEN_LOCAL, RUNNERS)


@dataclass(frozen=True)
class Family:
    """`one` and `execution` are the models of responses. `only_ended` is the parameter of a list of these."""

    kind: str
    path: str
    one: type[BaseModel]
    execution: type[BaseModel] | None = None
    only_ended: str = ""

    def __str__(self) -> str:
        return self.kind


BULK = Family("bulk_sync", "/api/bulk/syncs", OneBulkSync, OneBulkSyncExecution, "only_terminal")
MODEL = Family("model", "/api/models", OneModel)
MODEL_SYNC = Family("model_sync", "/api/syncs", OneModelSync, OneModelSyncExecution, "only_completed")
FAMILIES = [BULK, MODEL, MODEL_SYNC]
STARTED = [BULK, MODEL_SYNC]


def config(
    *resources: str, base_url: str = "http://127.0.0.1:9", size: int = 2, key: Sequence[str] = ("id",)
) -> dict[str, Any]:
    """The configuration of a connection to a TableSource with these resources."""
    pagination = {"type": "page_number", "param": "page", "size_param": "size", "size": size, "total": "total"}
    return {
        "base_url": base_url,
        "auth": {"type": "none"},
        "resources": {
            name: {"path": f"/{name}", "primary_key": [*key], "records": "data", "pagination": pagination}
            for name in resources
        },
    }


class TableSource:
    """A source that serves `tables`. `before(resource, page)` is called before each response. It may wait, change the
    tables, or return a status to respond with.
    """

    def __init__(self) -> None:
        self.tables: dict[str, list[Any]] = {}
        self.before: Callable[[str, int], int | None] = lambda _resource, _page: None
        self.requests: list[tuple[str, int]] = []
        self._server = WebServer(self._respond, threads=8)
        self.url = self._server.url

    def put(self, resource: str, *records: Mapping[str, Any]) -> None:
        self.tables[resource] = [*records]

    def config(self, *resources: str, **options: Any) -> dict[str, Any]:
        return config(*(resources or self.tables), base_url=self.url, **options)

    def _respond(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        query = parse_qs(environ.get("QUERY_STRING", ""))
        resource = environ["PATH_INFO"].strip("/").encode("latin-1").decode()
        page, size = int(query["page"][0]), int(query["size"][0])
        self.requests.append((resource, page))
        status = self.before(resource, page) or 200
        records = self.tables.get(resource, [])
        body = json.dumps({"data": records[(page - 1) * size : page * size], "total": len(records)}).encode()
        start_response(f"{status} x", [("content-type", "application/json"), ("content-length", str(len(body)))])
        return [body]

    def close(self) -> None:
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Client:
    """One user's calls of one family."""

    project: Project
    family: Family
    user: User
    _token: list[str] = field(default_factory=list)

    @property
    def token(self) -> str:
        if not self._token:
            self._token.append(self.project.token(self.user))
        return self._token[0]

    @property
    def database(self) -> Database:
        return self.project.database

    def request(self, method: str, path: str = "", **options: Any) -> httpx.Response:
        return self.project.request(method, self.family.path + path, self.token, **options)

    def of(self, family: Family) -> Client:
        return Client(self.project, family, self.user, self._token)

    def colleague(self) -> Client:
        return Client(self.project, self.family, self.database.user(self.user.agency_id))

    def create(self, body: object, **options: Any) -> httpx.Response:
        return self.request("POST", json=body, **options)

    def made(self, **members: Any) -> str:
        """Create a definition, by default with its own connections (and model), and return its id."""
        return str(accepted(self.create(self.body(**members)), self.family.one)["id"])

    def body(self, **members: Any) -> dict[str, Any]:
        """The body that creates a definition, with these members replaced."""
        return {**BODIES[self.family.kind](self, members), **members}

    def start(self, sync_id: str, body: object = None, **options: Any) -> httpx.Response:
        return self.request("POST", f"/{sync_id}/executions", **({"json": body} if body is not None else {}), **options)

    def started(self, sync_id: str, body: object = None, **options: Any) -> str:
        """Start an execution and return its id."""
        return str(accepted(self.start(sync_id, body, **options), self.family.execution)["id"])

    def execution(self, sync_id: str, execution_id: str) -> dict[str, Any]:
        return accepted(self.request("GET", f"/{sync_id}/executions/{execution_id}"), self.family.execution)

    def status(self, sync_id: str) -> dict[str, Any]:
        response = self.request("GET", f"/{sync_id}/status")
        assert response.status_code == 200, response.text
        status: dict[str, Any] = response.json()["data"]
        return status

    def http_connection(self, *resources: str, **options: Any) -> str:
        shown = config(*(resources or ("flights", "weather")), **options)
        return self.database.connection(self.user.agency_id, config=shown)

    def records_connection(self) -> str:
        return self.database.connection(self.user.agency_id, "records", {})


def _bulk_sync(client: Client, members: Mapping[str, Any]) -> dict[str, Any]:
    body = {"name": "Flights", "destination_configuration": {}, "default_schedule": BY_HAND}
    if "source_connection_id" not in members:
        body["source_connection_id"] = client.http_connection()
    if "destination_connection_id" not in members:
        body["destination_connection_id"] = client.records_connection()
    return body


def _model_sync(client: Client, members: Mapping[str, Any]) -> dict[str, Any]:
    if {"fields", "identity"} <= set(members):
        model_id = None
    else:
        model_id = make_model(client, client.http_connection("airlines"), "airlines", ["code", "name"])
    body = {
        "name": "Airlines to CRM",
        "mode": "updateOrCreate",
        "fields": [{"source": {"model_id": model_id, "field": "name"}, "target": "title"}],
        "identity": {"source": {"model_id": model_id, "field": "code"}, "target": "code", "function": "Equality"},
        "schedule": BY_HAND,
    }
    if "target" not in members:
        body["target"] = {"connection_id": client.records_connection(), "object": "accounts"}
    return body


def _model(client: Client, members: Mapping[str, Any]) -> dict[str, Any]:
    connection_id = members.get("connection_id") or client.http_connection("airlines")
    return {"name": "Airlines", "connection_id": connection_id, "configuration": {"resource": "airlines"}}


BODIES: Mapping[str, Callable[[Client, Mapping[str, Any]], dict[str, Any]]] = {
    "bulk_sync": _bulk_sync,
    "model": _model,
    "model_sync": _model_sync,
}


def make_model(client: Client, connection_id: str, resource: str, fields: Sequence[str], name: str = "A model") -> str:
    """Create a model as if a source check had found these fields, without a worker."""
    found = [{"name": name, "type": "string"} for name in fields]
    check_id = client.database.put(
        "completed",
        client.user.agency_id,
        "source_check",
        connection_id=connection_id,
        spec=json.dumps({"resource": resource}),
        progress=json.dumps({"fields": found}),
    )
    with client.database.session(client.user.claims) as session:
        response = session.call(
            "create_model",
            name=name,
            connection_id=connection_id,
            configuration={"resource": resource},
            check_id=check_id,
        )
    return str(response["data"]["id"])


def accepted(response: httpx.Response, model: type[BaseModel] | None, status: int = 200) -> dict[str, Any]:
    """Check that the response is a success with exactly the documented members and return its `data`."""
    assert response.status_code == status, response.text
    assert model is not None
    model.model_validate_json(response.content, strict=True, extra="forbid")
    data: dict[str, Any] = response.json()["data"]
    return data


def walk(client: Client, path: str = "", **query: Any) -> list[list[str]]:
    """The ids of each page, until the last."""
    pages: list[list[str]] = []
    token: str | None = None
    while token != "":
        response = client.request("GET", path, params={**query, **({"page_token": token} if token else {})})
        assert response.status_code == 200, response.text
        page = response.json()
        pages.append([entry["id"] for entry in page["data"]])
        token = page["pagination"]["next_page_token"]
    return pages


class StepWorker:
    """A worker of one execution that makes a batch only when the test calls `batch`."""

    def __init__(self, database: Database, execution_id: str) -> None:
        self.database = database
        self.id = execution_id
        self._worker = database.worker()
        try:
            self.claimed = self._claim(str(database.execution(execution_id)["family"]))
        except BaseException:
            self._worker.close()
            raise
        self._runner = asyncio.Runner()
        self.seq: int = self.claimed["seq"]
        execution = Execution(**self.claimed)
        self._batches: AsyncGenerator[Batch | DatabaseStep, None] = LOCAL[execution.family](execution)

    def _claim(self, family: str) -> dict[str, Any]:
        """Claim the execution and everything that earlier tests left in the queue."""
        mine = None
        while mine is None:
            claimed = self._worker.call(
                "worker_claim", worker="w", families=[family], max_executions=100, lease_seconds=3600
            )
            assert claimed, "the execution is not in the queue"
            for execution in claimed:
                if execution["id"] == self.id:
                    mine = dict(execution)
                # An execution of the same test
                elif execution["agency_id"] == str(self.database.execution(self.id)["agency_id"]):
                    lease = {"execution_id": execution["id"], "lease_token": execution["lease_token"]}
                    self._worker.call("worker_release", **lease)
        return mine

    def batch(self) -> Batch | None:
        """Make the next batch without committing it."""
        return self._runner.run(self._next())

    async def _next(self) -> Batch | None:
        batch = await anext(self._batches, None)
        assert not isinstance(batch, DatabaseStep)
        return batch

    def commit(self, batch: Batch, seq: int | None = None) -> str:
        self.seq = self.seq + 1 if seq is None else seq
        response = self._worker.call(
            "worker_commit_batch",
            execution_id=self.id,
            lease_token=self.claimed["lease_token"],
            seq=self.seq,
            resource=batch.resource,
            records=list(batch.records),
            checkpoint=batch.checkpoint,
            progress=batch.progress,
            errors=list(batch.errors),
            done=batch.done,
        )
        return str(response["result"])

    def steps(self, count: int) -> str:
        result = "continue"
        for _ in range(count):
            batch = self.batch()
            assert batch is not None
            result = self.commit(batch)
        return result

    def rest(self) -> int:
        """Commit the remaining batches, complete the execution, and return the number of batches."""
        count = 0
        while (batch := self.batch()) is not None:
            self.commit(batch)
            count += 1
        assert self.call("worker_complete") == "completed"
        return count

    def call(self, name: str, **arguments: Any) -> str:
        response = self._worker.call(name, execution_id=self.id, lease_token=self.claimed["lease_token"], **arguments)
        return str(response["result"])

    def fails(self, *, retry: bool = False) -> str:
        return self.call("worker_fail", error={"code": "source_gone", "message": "The source is gone."}, retry=retry)

    def dies(self) -> None:
        """Close the worker without a call and let its lease expire at once."""
        self.close()
        self.database.expire_lease(self.id)

    def close(self) -> None:
        self._runner.run(self._batches.aclose())
        self._runner.close()
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run(database: Database, execution_id: str) -> None:
    """Run the execution to its end."""
    with StepWorker(database, execution_id) as step_worker:
        step_worker.rest()


def rows(database: Database, connection_id: str, resource: str | None = None) -> dict[str, Any]:
    """The records stored in a connection (of this resource), by key."""
    found = database.all(
        "select resource, key, data from app.records where connection_id = %s and resource = coalesce(%s, resource)"
        " order by resource, key",
        (connection_id, resource),
    )
    if resource is None:
        return {f"{row['resource']} {row['key']}": row["data"] for row in found}
    return {row["key"]: row["data"] for row in found}


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of the calls, which start at the same time in a thread each."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run_call(number: int) -> None:
        barrier.wait()
        results[number] = calls[number]()

    threads = [threading.Thread(target=run_call, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
