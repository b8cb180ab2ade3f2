"""Sync job runs: a source whose records and responses a test sets, a receiver of webhook messages, and a user's
calls.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote

from functions._local.web_server import WebServer
from functions.sync_job.get_sync_job import SyncJob
from functions.sync_job_run.get_sync_job_run import SyncJobRun
from functions.webhook.create_webhook import WebhookCreated
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    import httpx
    from pydantic import BaseModel

    from tests.support.database import Database, User
    from tests.support.project import Project

ACCOUNTS, CONTACTS, NOTES = "crm/accounts", "crm/contacts", "crm/notes"
NAMES = (ACCOUNTS, CONTACTS, NOTES, "plain")


class Gate:
    """Callers of `wait` are blocked until the gate is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.waiting = 0

    def wait(self) -> None:
        self.waiting += 1
        self._open.wait()

    def open(self) -> None:
        self._open.set()


@dataclass(frozen=True)
class SourceRequest:
    """A request for a page of a resource, or for one of its records; `query` excludes the paging parameters."""

    resource: str
    page: int
    key: str | None
    query: Mapping[str, list[str]]


class NestedSource:
    """A source that serves `tables` and filters by the query's parameters (`of=1`: records with of = 1).

    `before(request)` is called before each response. It may wait, change the tables, or return another status.
    """

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.before: Callable[[SourceRequest], int | None] = lambda _: None
        self.requests: list[SourceRequest] = []
        self._server = WebServer(self._respond, threads=16)

    def config(self, size: int = 2) -> dict[str, Any]:
        pagination = {"type": "page_number", "param": "page", "size_param": "size", "size": size, "total": "total"}
        return {
            "base_url": self._server.url,
            "auth": {"type": "none"},
            "timeout_seconds": 3600,
            "resources": {
                name: {"path": f"/{name}", "primary_key": ["id"], "records": "data", "pagination": pagination}
                for name in NAMES
            },
        }

    def family(self, accounts: int, contacts: int = 0, notes: int = 0) -> None:
        """Fill the tables: accounts, contacts of each account, notes of each contact; ids a1, a1c1, a1c1n1."""
        self.tables = {ACCOUNTS: [{"id": f"a{a}", "name": f"account {a}"} for a in range(accounts)]}
        self.tables[CONTACTS] = [
            {"id": f"{account['id']}c{c}", "of": account["id"]}
            for account in self.tables[ACCOUNTS]
            for c in range(contacts)
        ]
        self.tables[NOTES] = [
            {"id": f"{contact['id']}n{n}", "of": contact["id"]}
            for contact in self.tables[CONTACTS]
            for n in range(notes)
        ]

    def _respond(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        path = unquote(environ["PATH_INFO"]).strip("/")
        resource = next((name for name in NAMES if path == name or path.startswith(f"{name}/")), "")
        key = path.removeprefix(resource).strip("/") or None
        page, size = int(query.pop("page", ["1"])[0]), int(query.pop("size", ["1000"])[0])
        request = SourceRequest(resource, page, key, query)
        self.requests.append(request)
        status = self.before(request) or 200
        rows = [row for row in self.tables.get(resource, []) if all(str(row.get(n)) in v for n, v in query.items())]
        if key is None:
            body: Any = {"data": rows[(page - 1) * size : page * size], "total": len(rows)}
        else:
            body = next(({"data": row} for row in rows if str(row["id"]) == key), None)
            status = status if body or status != 200 else 404
        content = json.dumps(body or {}).encode()
        start_response(f"{status} x", [("content-type", "application/json"), ("content-length", str(len(content)))])
        return [content]

    def close(self) -> None:
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class WebhookMessage:
    """One request that a receiver got."""

    headers: Mapping[str, str]
    content: bytes
    body: dict[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        return str(self.body["id"])

    @property
    def event(self) -> str:
        return str(self.body["event"]).removeprefix("sync_job_run:")

    @property
    def run(self) -> str:
        payload = self.body["payload"]
        return str(payload.get("sync_job_run_id") or payload["id"])

    @property
    def keys(self) -> list[str]:
        """The keys of the records in the message."""
        return [record["id"] for record in self.body["payload"].get("records", [])]

    def is_signed_with(self, secret: str) -> bool:
        mac = hmac.new(secret.encode(), self.content, hashlib.sha256).hexdigest()
        return self.headers["x-truto-signature"] == f"format=sha256,v={mac}"


class Receiver:
    """Stores each message and responds with the status of `respond(message)`, which may wait, or with 200."""

    def __init__(self) -> None:
        self.messages: list[WebhookMessage] = []
        self.responses: list[tuple[str, int]] = []  # message id and status
        self.respond: Callable[[WebhookMessage], int | None] = lambda _: None
        self.in_progress: Counter[str] = Counter()
        self.max_in_progress = 0
        self._lock = threading.Lock()
        self._server = WebServer(self._receive, threads=16)
        self.url = f"{self._server.url}/events"

    def _receive(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        content = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_") or name == "CONTENT_TYPE"
        }
        message = WebhookMessage(headers, content, json.loads(content))
        with self._lock:
            self.messages.append(message)
            self.in_progress[message.run] += 1
            self.max_in_progress = max(self.max_in_progress, *self.in_progress.values())
        status = self.respond(message) or 200
        with self._lock:
            self.in_progress[message.run] -= 1
            self.responses.append((message.id, status))
        start_response(f"{status} x", [("content-length", "0")])
        return []

    def of(self, run_id: str, *events: str) -> list[WebhookMessage]:
        """The messages about a run (of these events)."""
        about_run = [message for message in [*self.messages] if message.run == run_id]
        return [message for message in about_run if not events or message.event in events]

    def events(self, run_id: str) -> list[str]:
        return [message.event for message in self.of(run_id)]

    def keys(self, run_id: str) -> list[str]:
        """The keys of all records, counting a repeated message once."""
        once = {message.id: message for message in self.of(run_id, "record")}
        return [key for message in once.values() for key in message.keys]

    def close(self) -> None:
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


LIST_ACCOUNTS = {"resource": ACCOUNTS, "method": "list"}
LIST_CONTACTS = {
    "resource": CONTACTS,
    "method": "list",
    "query": {"of": "{{resources.crm.accounts.id}}"},
    "depends_on": ACCOUNTS,
}
LIST_NOTES = {
    "resource": NOTES,
    "method": "list",
    "query": {"of": "{{resources.crm.contacts.id}}"},
    "depends_on": CONTACTS,
}


@dataclass(frozen=True)
class Client:
    """One user's calls."""

    project: Project
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

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.project.request(method, path, self.token, **options)

    def other(self) -> Client:
        """A user of another agency."""
        return Client(self.project, self.database.member())

    def webhook(self, target_url: str = "https://example.com/events", **members: Any) -> dict[str, Any]:
        return accepted(self.request("POST", "/webhook", json={"target_url": target_url, **members}), WebhookCreated)

    def job(self, *resources: Mapping[str, Any], **members: Any) -> dict[str, Any]:
        body = {"resources": [*(resources or [LIST_ACCOUNTS])], **members}
        return accepted(self.request("POST", "/sync-job", json=body), SyncJob)

    def account(self, config: Mapping[str, Any] | None = None) -> str:
        """An integrated account: a connection that can be read."""
        usual = {"base_url": "http://127.0.0.1:9", "resources": {name: {} for name in NAMES}}
        return self.database.connection(self.user.agency_id, config=config or usual)

    def start(self, job_id: str, account_id: str, **members: Any) -> httpx.Response:
        destination = {} if {"daemon_group_key", "webhook_id"} & {*members} else {"daemon_group_key": "default"}
        ids = {"sync_job_id": job_id, "integrated_account_id": account_id}
        return self.request("POST", "/sync-job-run", json={**ids, **destination, **members})

    def run(self, job_id: str, account_id: str, **members: Any) -> dict[str, Any]:
        return accepted(self.start(job_id, account_id, **members), SyncJobRun)

    def get(self, run_id: str) -> dict[str, Any]:
        return accepted(self.request("GET", f"/sync-job-run/{run_id}"), SyncJobRun)

    def stop(self, run_id: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", f"/sync-job-run/{run_id}", **options)

    def ended(self, run_id: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until the run has ended and return it."""
        until(lambda: self.database.execution(run_id)["finished_at"], seconds)
        return self.get(run_id)


def accepted(response: httpx.Response, model: type[BaseModel]) -> dict[str, Any]:
    """Check that the response is a success with exactly the documented members and return its body."""
    assert response.status_code == 200, response.text
    model.model_validate_json(response.content, strict=True, extra="forbid")
    body: dict[str, Any] = response.json()
    return body


def deliveries(database: Database, run_id: str) -> list[dict[str, Any]]:
    """The deliveries of a run in order, the event about its end last."""
    return database.all("select * from app.deliveries where execution_id = %s order by number = -1, number", (run_id,))


def stored(database: Database, run_id: str) -> dict[tuple[str, str], Any]:
    """The records that a run has stored, by resource and key."""
    rows = database.all("select resource, key, data from app.records where execution_id = %s", (run_id,))
    return {(row["resource"], row["key"]): row["data"] for row in rows}
