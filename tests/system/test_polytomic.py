"""The vendor's published clients, unmodified, against `make serve`. Only the base URL differs."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import httpx
import psycopg
import pytest

from functions._local.gateway import forward
from functions._local.web_server import WebServer
from functions._shared.http import PREFIX
from tests.support.clients.polytomic import (
    CURRENT,
    CURRENT_ASYNC,
    NPM,
    PYTHON_1,
    RELEASES,
    Client,
    ClientError,
    Published,
)
from tests.support.serve import Serve, bearer, serving
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

FLIGHTS, AIRPORTS, AIRLINES = 336_776, 1458, 16
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def served() -> Iterator[Serve]:
    # Slow enough for a sync of flights to be cancelled in the middle.
    with serving({"SOURCE_DELAY_MS": "100"}) as running:
        yield running


@pytest.fixture(scope="module", params=RELEASES, ids=str)
def published(request: pytest.FixtureRequest) -> Iterator[Published]:
    with Published(request.param) as running:
        yield running


@pytest.fixture(scope="module")
def user(served: Serve) -> dict[str, Any]:
    mine: dict[str, Any] = served.ready["users"][0]
    return mine


@pytest.fixture(scope="module")
def key(served: Serve, user: dict[str, Any]) -> str:
    url = f"{served.ready['functions_url']}/create-api-key"
    made: str = httpx.post(url, json={"name": "published clients"}, headers=bearer(user)).json()["key"]
    return made


@pytest.fixture(params=["user", "agency"])
def client(
    request: pytest.FixtureRequest, published: Published, served: Serve, key: str, user: dict[str, Any]
) -> Client:
    """With a user's access token, and with an API key of the agency."""
    token = user["access_token"] if request.param == "user" else key
    return published.connected(served.ready["functions_url"], token)


# The wire format


@dataclass(frozen=True)
class Exchange:
    request: str
    sent_headers: dict[str, str]
    status: int
    received_headers: dict[str, str]


class Wire:
    """A proxy between a client and the functions. It records each exchange, and can make the next one fail."""

    def __init__(self, ready: dict[str, Any]) -> None:
        self.exchanges: list[Exchange] = []
        self._http = httpx.Client(timeout=60)
        self._forward = forward("", ready["url"], self._http)
        self._server = WebServer(self._pass_on, threads=4)
        self._database_url = ready["database_url"]
        self._next: Callable[..., Iterable[bytes]] = self._forward
        self.url = f"{self._server.url}{PREFIX}"

    def without_database_once(self) -> None:
        """The functions cannot reach the database during the next request."""
        self._next = self._without_database

    def lose_response_once(self) -> None:
        """The functions handle the next request, but the caller gets the error of a gateway."""
        self._next = self._without_response

    def statuses(self, method: str) -> list[int]:
        return [one.status for one in self.exchanges if one.request.startswith(f"{method} ")]

    def _pass_on(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        sent_headers = {
            name[5:].replace("_", "-").lower(): v for name, v in environ.items() if name.startswith("HTTP_")
        }
        sent_headers["content-type"] = environ.get("CONTENT_TYPE", "")
        sent_headers["content-length"] = environ.get("CONTENT_LENGTH", "")

        def noted(status: str, headers: list[tuple[str, str]]) -> object:
            self.exchanges.append(Exchange(request, sent_headers, int(status[:3]), dict(headers)))
            return start_response(status, headers)

        how, self._next = self._next, self._forward
        return how(environ, noted)

    def _without_database(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with no_database(self._database_url):
            return self._forward(environ, start_response)

    def _without_response(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._forward(environ, lambda *_: lambda _: None)
        start_response("503 Service Unavailable", [("content-length", "0"), ("retry-after", "1")])
        return [b""]

    def close(self) -> None:
        self._server.close()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def no_database(database_url: str) -> Iterator[None]:
    """Ends the connections of functions and worker, and rejects new ones."""
    others = (
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where usename = current_user and pid <> pg_backend_pid()"
    )
    with (
        psycopg.connect(database_url, autocommit=True) as owner,
        psycopg.connect(database_url, user="authenticator", autocommit=True) as theirs,
    ):
        owner.execute("alter database postgres connection limit 0")
        try:
            until(lambda: not theirs.execute(others).fetchall())
            yield
        finally:
            owner.execute("alter database postgres connection limit -1")


@pytest.fixture
def wire(served: Serve) -> Iterator[Wire]:
    with Wire(served.ready) as one:
        yield one


@pytest.fixture
def on_the_wire(published: Published, wire: Wire, user: dict[str, Any]) -> Client:
    return published.connected(wire.url, user["access_token"])


# Helpers, as in scripts of the client's users


def new_bulk_sync(client: Client, user: dict[str, Any], schemas: list[Any], **more: Any) -> dict[str, Any]:
    member, kind = client.release.schedule
    made: dict[str, Any] = client(
        "bulk_sync.create",
        name=f"{client.release}: {schemas}",
        source_connection_id=user["connection_id"],
        destination_connection_id=user["records_connection_id"],
        destination_configuration={},
        schemas=schemas,
        **{member: client.typed(kind, frequency="manual"), **more},
    )["data"]
    return made


def start(client: Client, sync_id: str, **named: Any) -> dict[str, Any]:
    execution: dict[str, Any] = client(client.release.start_bulk_sync, sync_id, **named)["data"]
    return execution


def cancel(client: Client, api: str, sync_id: str) -> dict[str, Any]:
    if client.release.cancels:
        response = client(f"{api}.cancel", sync_id)
    else:
        response = client(
            {"bulk_sync": "POST /api/bulk/syncs/", "model_sync": "POST /api/syncs/"}[api] + f"{sync_id}/cancel"
        )
    cancelled: dict[str, Any] = response["data"]
    return cancelled


def current(client: Client, api: str, sync_id: str, *statuses: str) -> dict[str, Any]:
    """The current execution, polled until it has one of these statuses."""

    def reached() -> dict[str, Any] | None:
        execution: dict[str, Any] = client(f"{api}.get_status", sync_id)["data"]["current_execution"]
        assert execution["status"] in {*statuses, "created", "scheduled", "running", "canceling"}, execution
        return execution if execution["status"] in statuses else None

    return until(reached) or {}


def delete(client: Client, what: str, id_: str) -> None:
    """The first delete succeeds, the second returns 404."""
    assert client(f"{what}.{client.release.delete}", id_) is None
    returns_error(client, 404, "NotFoundError", lambda: client(f"{what}.get", id_))


def returns_error(client: Client, status: int, error: str, call: Callable[[], object]) -> Any:
    """The error's body. `error` is its type, if the release has one for it."""
    typed = client.release.typed_unauthorized if status == 401 else client.release.typed_errors
    with pytest.raises(ClientError) as raised:
        call()
    expected = error if typed else client.release.untyped_error
    assert (raised.value.status, raised.value.error) == (status, expected), raised.value
    return raised.value.body


def timeless(value: dict[str, Any]) -> dict[str, Any]:
    """Without times, because some clients do not parse them in the response of a create."""
    return {name: member for name, member in value.items() if not name.endswith("_at")}


def ids(listed: dict[str, Any]) -> list[str]:
    return [one["id"] for one in listed["data"]]


# Connections


def test_connections__lifecycle(client: Client, user: dict[str, Any]) -> None:
    source = client("connections.get", user["connection_id"])["data"]
    assert source["type"]["id"] == "http"
    assert "secret" not in source["configuration"]
    made = client("connections.create", name="CRM", type="records", configuration={})["data"]
    secret = {"secret": {"token": "guessed"}}
    other = client("connections.create", name="API", type="http", configuration={**source["configuration"], **secret})[
        "data"
    ]
    assert other["configuration"] == source["configuration"]
    assert timeless(client("connections.get", made["id"])["data"]) == timeless(made)
    assert {made["id"], other["id"], user["connection_id"]} <= set(ids(client("connections.list")))
    if client.release.tests_connections:
        stored = {"type": "http", "connection_id": user["connection_id"]}
        client("connections.test_connection", **stored, configuration={})
        with pytest.raises(ClientError) as error:
            client("connections.test_connection", **stored, configuration=secret)
        assert (error.value.status, error.value.body["key"]) == (400, "source_not_readable")
    delete(client, "connections", made["id"])
    delete(client, "connections", other["id"])


# Bulk syncs


def test_bulk_sync__completes(client: Client, user: dict[str, Any]) -> None:
    airports = client.typed(client.release.schema, id="airports") if client.release.schema else "airports"
    sync = new_bulk_sync(client, user, ["airlines", airports])
    sync_id = sync["id"]
    assert sync[client.release.schedule[0]]["frequency"] == "manual"
    assert client("bulk_sync.get", sync_id)["data"] == sync
    assert sync_id in ids(client("bulk_sync.list"))
    assert client("bulk_sync.get_status", sync_id)["data"]["current_execution"] is None

    started = start(client, sync_id)
    execution = current(client, "bulk_sync", sync_id, "completed")
    assert execution["id"] == started["id"]
    assert {one["schema"]: one["record_count"] for one in execution["schemas"]} == {
        "airlines": AIRLINES,
        "airports": AIRPORTS,
    }
    assert {one["status"] for one in execution["schemas"]} == {"completed"}
    part = start(client, sync_id, schemas=["airlines"])
    assert [one["schema"] for one in part["schemas"]] == ["airlines"]
    partial = current(client, "bulk_sync", sync_id, "completed")
    assert (partial["id"], partial["schemas"][0]["record_count"]) == (part["id"], AIRLINES)

    assert client("bulk_sync.get_status", sync_id)["data"]["last_execution"] == partial
    assert client("bulk_sync.executions.list", sync_id)["data"] == [partial, execution]
    assert client("bulk_sync.executions.get", sync_id, execution["id"])["data"] == execution
    delete(client, "bulk_sync", sync_id)


def test_bulk_sync__cancelled(client: Client, user: dict[str, Any]) -> None:
    sync_id = new_bulk_sync(client, user, ["flights"])["id"]
    started = start(client, sync_id)

    def stored() -> int:
        [flights] = client("bulk_sync.executions.get", sync_id, started["id"])["data"]["schemas"]
        return int(flights["record_count"])

    until(stored)
    assert cancel(client, "bulk_sync", sync_id)["message"] == "Cancellation requested"
    execution = current(client, "bulk_sync", sync_id, "canceled")
    assert execution["id"] == started["id"]
    [flights] = execution["schemas"]
    assert (flights["schema"], flights["status"]) == ("flights", "canceled")
    assert 0 < flights["record_count"] < FLIGHTS
    assert client("bulk_sync.executions.get", sync_id, started["id"])["data"] == execution
    delete(client, "bulk_sync", sync_id)


def test_bulk_sync__second_start_conflicts(on_the_wire: Client, wire: Wire, user: dict[str, Any]) -> None:
    client = on_the_wire
    sync_id = new_bulk_sync(client, user, ["flights"])["id"]
    started = start(client, sync_id)
    wire.exchanges.clear()
    body = returns_error(client, 409, "ConflictError", lambda: start(client, sync_id))
    assert (body["key"], body["status"], body["metadata"]) == ("already_active", 409, {"job_id": started["id"]})
    assert wire.statuses("POST") == [409] * (3 if client.release.retries else 1)
    if client.release is PYTHON_1:  # JSON, and none of it
        sent_headers = wire.exchanges[0].sent_headers
        assert (sent_headers["content-type"], sent_headers["content-length"] or "0") == ("application/json", "0")
    assert ids(client("bulk_sync.executions.list", sync_id)) == [started["id"]]
    delete(client, "bulk_sync", sync_id)  # which cancels


# Model syncs


def new_model(client: Client, user: dict[str, Any], resource: str, **more: Any) -> dict[str, Any]:
    model = {
        "name": f"{client.release}: {resource}",
        "connection_id": user["connection_id"],
        "configuration": {"resource": resource},
        **more,
    }
    made: dict[str, Any] = client("models.create", **({"body": model} if client.release.model_is_body else model))[
        "data"
    ]
    return made


def new_model_sync(
    client: Client,
    user: dict[str, Any],
    model_id: str,
    mode: str,
    fields: dict[str, str],
    *,
    identity: dict[str, str],
    schedule: dict[str, str],
) -> dict[str, Any]:
    """`fields` and `identity`: targets by field of the model."""

    def source(field: str) -> dict[str, Any]:
        return client.typed("Source", model_id=model_id, field=field)

    target = {"connection_id": user["records_connection_id"], "object": f"accounts-{uuid.uuid4()}"}
    matched = [
        client.typed("Identity", source=source(field), target=to, function="Equality") for field, to in identity.items()
    ]
    made: dict[str, Any] = client(
        "model_sync.create",
        name=f"{client.release}: {mode}",
        mode=mode,
        fields=[client.typed(client.release.mapping, source=source(field), target=to) for field, to in fields.items()],
        target=client.typed(client.release.target, **target),
        schedule=client.typed("Schedule", **schedule),
        **({"identity": matched[0]} if matched else {}),
    )["data"]
    assert made["target"].items() >= target.items()
    return made


def test_model_sync__completes(client: Client, user: dict[str, Any]) -> None:
    model = new_model(client, user, "airlines", identifier="carrier")
    assert [field["name"] for field in model["fields"]] == ["carrier", "name"]
    assert timeless(client("models.get", model["id"])["data"]) == timeless(model)
    assert model["id"] in ids(client("models.list"))

    sync = new_model_sync(
        client,
        user,
        model["id"],
        "updateOrCreate",
        {"name": "title"},
        identity={"carrier": "code"},
        schedule={"frequency": "manual"},
    )
    sync_id = sync["id"]
    assert timeless(client("model_sync.get", sync_id)["data"]) == timeless(sync)
    assert sync_id in ids(client("model_sync.list"))
    assert client("model_sync.get_status", sync_id)["data"]["current_execution"] is None

    executions: list[dict[str, Any]] = []
    for inserted, updated in [(AIRLINES, 0), (0, AIRLINES)]:
        started = client("model_sync.start", sync_id)["data"]
        execution = current(client, "model_sync", sync_id, "completed")
        assert execution["id"] == started["id"]
        counts = execution["counts"]
        assert (counts["total"], counts["error"]) == (AIRLINES, 0)
        assert (counts["insert"], counts["update"]) == (inserted, updated)
        executions.insert(0, execution)

    assert client("model_sync.get_status", sync_id)["data"]["last_execution"] == executions[0]
    assert client("model_sync.executions.list", sync_id)["data"] == executions
    assert client("model_sync.executions.get", sync_id, executions[1]["id"])["data"] == executions[1]
    with pytest.raises(ClientError) as error:
        client(f"models.{client.release.delete}", model["id"])
    assert (error.value.status, error.value.body["key"]) == (422, "model_in_use")
    delete(client, "model_sync", sync_id)
    delete(client, "models", model["id"])


def test_model_sync__cancelled(client: Client, user: dict[str, Any]) -> None:
    model = new_model(client, user, "flights", fields=["carrier", "flight"])
    fields = {"carrier": "carrier", "flight": "number"}
    # No frequency, as in the clients' own example.
    sync = new_model_sync(client, user, model["id"], "append", fields, identity={}, schedule={})
    assert sync["schedule"]["frequency"] == "manual"
    sync_id = sync["id"]
    started = client("model_sync.start", sync_id)["data"]

    def counts() -> dict[str, int]:
        counted: dict[str, int] = client("model_sync.executions.get", sync_id, started["id"])["data"]["counts"]
        return counted

    until(lambda: counts()["insert"])
    once = {} if client.release is NPM else {"request_options": {"max_retries": 0}}
    body = returns_error(client, 409, "ConflictError", lambda: client("model_sync.start", sync_id, **once))
    assert body["metadata"] == {"job_id": started["id"]}
    assert cancel(client, "model_sync", sync_id)["message"] == "Cancellation requested"
    execution = current(client, "model_sync", sync_id, "canceled")
    assert execution["id"] == started["id"]
    assert 0 < counts()["insert"] == execution["counts"]["insert"] < FLIGHTS
    assert ids(client("model_sync.executions.list", sync_id)) == [started["id"]]
    delete(client, "model_sync", sync_id)
    delete(client, "models", model["id"])


# Errors


def test_errors__typed_by_the_client(client: Client, user: dict[str, Any]) -> None:
    def error_fields(status: int, error: str, call: Callable[[], object]) -> str:
        body = returns_error(client, status, error, call)
        assert (body["code"], body["status"], body["message"]) == (status, status, body["error"])
        return str(body["key"])

    def create(schemas: list[str], **more: Any) -> dict[str, Any]:
        return new_bulk_sync(client, user, schemas, **more)

    assert error_fields(404, "NotFoundError", lambda: client("bulk_sync.get", UNKNOWN)) == "bulk_sync_not_found"
    assert error_fields(404, "NotFoundError", lambda: client("bulk_sync.get", "unknown")) == "not_found"
    assert error_fields(404, "NotFoundError", lambda: client("connections.get", "no/such")) == "no_such_function"
    assert error_fields(400, "BadRequestError", lambda: create(["no such"])) == "unknown_schema"
    assert (
        error_fields(422, "UnprocessableEntityError", lambda: create(["airlines"], policies=[UNKNOWN]))
        == "unsupported_field"
    )
    assert (
        error_fields(403, "ForbiddenError", lambda: create(["airlines"], organization_id=UNKNOWN))
        == "other_organization"
    )


@pytest.mark.parametrize("token", ["sync_" + 64 * "0", "eyJhbGciOiJub25lIn0.e30.", "guessed"])
def test_errors__wrong_key(published: Published, served: Serve, token: str) -> None:
    client = published.connected(served.ready["functions_url"], token)
    for method in ("bulk_sync.list", "connections.list"):
        body = returns_error(client, 401, "UnauthorizedError", partial(client, method))
        assert (body["code"], body["message"]) == (401, body["error"])


# Versions, retries, idempotency


@pytest.mark.parametrize(
    ("published", "version"),
    [(one, version) for one in RELEASES for version in one.versions],
    ids=str,
    indirect=["published"],
)
def test_version__in_the_response(published: Published, wire: Wire, user: dict[str, Any], version: str | None) -> None:
    client = published.connected(wire.url, user["access_token"], version)
    client("bulk_sync.list")
    returns_error(client, 404, "NotFoundError", lambda: client("bulk_sync.get", UNKNOWN))
    sent = version or ("2025-09-18" if client.release.always_sends_version else None)
    for exchange in wire.exchanges:
        assert exchange.sent_headers.get("x-polytomic-version") == sent
        assert exchange.received_headers["x-polytomic-version"] == (sent or "2025-09-18")


def test_retry__outlasts_an_outage(on_the_wire: Client, wire: Wire, user: dict[str, Any]) -> None:
    client = on_the_wire
    sync_id = new_bulk_sync(client, user, ["airlines"])["id"]
    options = {} if client.release.retries else {"request_options": {"max_retries": 3}}
    wire.exchanges.clear()
    wire.without_database_once()
    started = start(client, sync_id, **options)
    [failed, accepted] = wire.exchanges
    assert (failed.status, accepted.status) == (503, 200)
    assert int(failed.received_headers["retry-after"]) > 0
    assert ids(client("bulk_sync.executions.list", sync_id)) == [started["id"]]
    current(client, "bulk_sync", sync_id, "completed")
    delete(client, "bulk_sync", sync_id)


@pytest.mark.parametrize("published", [CURRENT, CURRENT_ASYNC], ids=str, indirect=True)  # the others send none
def test_idempotency_key__one_execution(on_the_wire: Client, wire: Wire, user: dict[str, Any]) -> None:
    client = on_the_wire
    sync_id = new_bulk_sync(client, user, ["airlines"])["id"]
    key = f"nightly-{uuid.uuid4()}"
    wire.exchanges.clear()
    wire.lose_response_once()
    started = start(client, sync_id, idempotency_key=key)
    assert wire.statuses("POST") == [503, 200]
    assert {one.sent_headers["idempotency-key"] for one in wire.exchanges} == {key}
    assert start(client, sync_id, idempotency_key=key) == started
    assert ids(client("bulk_sync.executions.list", sync_id)) == [started["id"]]
    current(client, "bulk_sync", sync_id, "completed")
    assert start(client, sync_id, idempotency_key=key) == started
    delete(client, "bulk_sync", sync_id)
