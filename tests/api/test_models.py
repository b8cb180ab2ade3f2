"""POST /api/models with a worker that checks the source: a model's fields are those of the first page.

What all definitions have in common is in test_definitions.py.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from functions._connections import source_check
from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import WorkerClient, service_caller
from functions.worker.loop import Options, Worker
from functions.worker.runners import CHECKS, bind_source
from tests.support.project import BOTH_TRANSPORTS, both_transports, expect_error, one_transport
from tests.support.syncs import MODEL, OPEN_LOCAL, UNKNOWN, Client, TableSource, accepted, at_once, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.database import Database
    from tests.support.project import Project, Projects


class CheckWorker:
    """A worker's queue for source checks, on a thread of its own."""

    def __init__(self, database: Database) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._client = WorkerClient(PostgresTransport(database.login("authenticator")), service_caller(""))
        options = Options("checks", tick_seconds=0.05, listen_url=database.login("authenticator"))
        worker = Worker(self._client, bind_source(OPEN_LOCAL, CHECKS), options)
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(worker.run(self._stop)))
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        asyncio.run(self._client.aclose())
        self._loop.close()


@pytest.fixture(scope="module")
def checks(projects: Projects) -> Iterator[CheckWorker]:
    running = CheckWorker(projects(BOTH_TRANSPORTS[0]).database)
    yield running
    running.close()


@pytest.fixture(scope="module")
def table_source() -> Iterator[TableSource]:
    with TableSource() as running:
        yield running


@pytest.fixture
def client(project: Project, table_source: TableSource) -> Client:
    table_source.before = lambda _resource, _page: None
    table_source.tables.clear()
    table_source.put(
        "airlines", {"id": 1, "code": "AA", "name": "American"}, {"id": 2, "code": "UA", "name": None, "hub": True}
    )
    return Client(project, MODEL, project.database.member())


def connection(client: Client, table_source: TableSource, *resources: str, **options: Any) -> str:
    return client.database.connection(client.user.agency_id, config=table_source.config(*resources, **options))


def body_of(client: Client, table_source: TableSource, **members: Any) -> dict[str, Any]:
    return {
        "name": "Airlines",
        "connection_id": connection(client, table_source),
        "configuration": {"resource": "airlines"},
        **members,
    }


def fields(*names_and_types: tuple[str, str]) -> list[dict[str, str]]:
    return [{"id": name, "name": name, "label": name, "type": kind} for name, kind in names_and_types]


ALL_FIELDS = fields(("id", "number"), ("code", "string"), ("name", "string"), ("hub", "boolean"))


@both_transports
@pytest.mark.usefixtures("checks")
def test_create_model__fields_of_the_first_page(client: Client, table_source: TableSource) -> None:
    body = body_of(client, table_source, identifier="code")
    model = accepted(client.create(body), MODEL.one)
    assert model["fields"] == ALL_FIELDS
    assert (model["connection_id"], model["configuration"]) == (body["connection_id"], {"resource": "airlines"})
    assert (model["identifier"], model["type"], model["version"]) == ("code", "http", 1)
    assert accepted(client.request("GET", f"/{model['id']}"), MODEL.one) == model
    assert client.request("GET").json()["data"] == [model]


@both_transports
@pytest.mark.usefixtures("checks")
def test_create_model__field_order_and_types(client: Client, table_source: TableSource) -> None:
    table_source.put(
        "mixed",
        {"id": 1, "a": None, "b": [1], "c": 1, "日本": {}, "e": True, "": "x"},
        {"id": 2, "f": 1.5, "c": "1", "e": 1, "b": None},
        {"id": 3, "later": "not on the first page"},
    )
    body = body_of(client, table_source, configuration={"resource": "mixed"})
    assert accepted(client.create(body), MODEL.one)["fields"] == fields(
        ("id", "number"),
        ("a", "unknown"),
        ("b", "array"),
        ("c", "unknown"),
        ("日本", "object"),
        ("e", "unknown"),
        ("", "string"),
        ("f", "number"),
    )


@both_transports
@pytest.mark.usefixtures("checks")
def test_create_model__stream_without_records(client: Client, table_source: TableSource) -> None:
    table_source.put("nothing")
    body = body_of(client, table_source, configuration={"resource": "nothing"})
    assert accepted(client.create(body), MODEL.one)["fields"] == []
    body = body_of(client, table_source, configuration={"resource": "nothing"}, identifier="code")
    members = expect_error(client.create(body), 400, "unknown_field")
    assert members["field"] == "code"


@both_transports
@pytest.mark.usefixtures("checks")
@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        (["code"], ALL_FIELDS[1:2]),
        (["name", "id", "name"], [ALL_FIELDS[0], ALL_FIELDS[2]]),
        (["id"] * 1000, ALL_FIELDS[:1]),
        (None, ALL_FIELDS),
    ],
    ids=["one", "in the source's order", "a thousand", "null"],
)
def test_create_model__selected_fields(client: Client, table_source: TableSource, selected: Any, expected: Any) -> None:
    assert accepted(client.create(body_of(client, table_source, fields=selected)), MODEL.one)["fields"] == expected


@both_transports
@pytest.mark.usefixtures("checks")
def test_create_model__identifier_outside_the_selected_fields(client: Client, table_source: TableSource) -> None:
    model = accepted(client.create(body_of(client, table_source, fields=["name"], identifier="code")), MODEL.one)
    assert (model["identifier"], model["fields"]) == ("code", ALL_FIELDS[2:3])


@both_transports
@pytest.mark.usefixtures("checks")
@pytest.mark.parametrize("unknown", ["Code", "nope", "", "x'; --", "日本", "x" * 100_000], ids=lambda name: name[:9])
def test_create_model__unknown_field(client: Client, table_source: TableSource, unknown: str) -> None:
    for wrong in ({"fields": ["code", unknown]}, {"identifier": unknown}):
        members = expect_error(client.create(body_of(client, table_source, **wrong)), 400, "unknown_field")
        assert members == {"field": unknown[:200], "available": ["id", "code", "name", "hub"]}
    assert walk(client) == [[]]


@both_transports
@pytest.mark.parametrize("unknown", ["Airlines", "nope", "", "'; --", "x" * 100_000], ids=lambda name: name[:9])
def test_create_model__unknown_resource(client: Client, table_source: TableSource, unknown: str) -> None:
    body = body_of(client, table_source, configuration={"resource": unknown})
    with client.project.unchanged():
        members = expect_error(client.create(body), 400, "unknown_resource")
    assert members == {"resource": unknown[:200], "available": ["airlines"]}


@both_transports
def test_create_model__connection_of_another_agency(client: Client, table_source: TableSource) -> None:
    other = Client(client.project, MODEL, client.database.member())
    theirs, deleted = connection(other, table_source), connection(client, table_source)
    client.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (deleted,))
    for connection_id in (theirs, deleted, UNKNOWN):
        body = body_of(client, table_source, connection_id=connection_id)
        with client.project.unchanged():
            assert expect_error(client.create(body), 404, "connection_not_found") == {}


@both_transports
def test_create_model__connection_is_not_a_source(client: Client, table_source: TableSource) -> None:
    body = body_of(client, table_source, connection_id=client.records_connection())
    with client.project.unchanged():
        assert expect_error(client.create(body), 400, "not_a_source") == {}


@both_transports
@pytest.mark.usefixtures("checks")
def test_create_model__organization_id(client: Client, table_source: TableSource) -> None:
    for organization_id in (client.database.agency(), UNKNOWN):
        body = body_of(client, table_source, organization_id=organization_id)
        assert expect_error(client.create(body), 403, "other_organization") == {}
    assert walk(client) == [[]]
    mine = body_of(client, table_source, organization_id=client.user.agency_id)
    assert accepted(client.create(mine), MODEL.one)["organization_id"] == client.user.agency_id


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "connection not a UUID": ({"connection_id": "mine"}, "connection_id"),
    "connection null": ({"connection_id": None}, "connection_id"),
    "configuration a string": ({"configuration": "airlines"}, "configuration"),
    "configuration null": ({"configuration": None}, "configuration"),
    "resource a number": ({"configuration": {"resource": 1}}, "configuration.resource"),
    "resource with NUL": ({"configuration": {"resource": "a\0"}}, "configuration.resource"),
    "fields empty": ({"fields": []}, "fields"),
    "fields a string": ({"fields": "code"}, "fields"),
    "too many fields": ({"fields": ["code"] * 1001}, "fields"),
    "field null": ({"fields": [None]}, "fields.0"),
    "field an object": ({"fields": ["code", {"name": "x"}]}, "fields.1"),
    "field with NUL": ({"fields": ["a\0"]}, "fields.0"),
    "identifier a number": ({"identifier": 1}, "identifier"),
    "identifier with NUL": ({"identifier": "\0"}, "identifier"),
    "organization not a UUID": ({"organization_id": "mine"}, "organization_id"),
}


@one_transport
@pytest.mark.parametrize("name", WRONG)
def test_create_model__invalid_member(client: Client, table_source: TableSource, name: str) -> None:
    members, field = WRONG[name]
    body = body_of(client, table_source, **members)
    with client.project.unchanged():
        assert expect_error(client.create(body), 400, "invalid_field") == {"field": field}


@one_transport
@pytest.mark.parametrize("missing", ["name", "connection_id", "configuration", "configuration.resource"])
def test_create_model__missing_member(client: Client, table_source: TableSource, missing: str) -> None:
    body = body_of(client, table_source)
    if missing == "configuration.resource":
        body["configuration"] = {}
    else:
        del body[missing]
    with client.project.unchanged():
        assert expect_error(client.create(body), 400, "missing_field") == {"field": missing}


@one_transport
def test_create_model__names_all_unsupported_members(client: Client, table_source: TableSource) -> None:
    members: dict[str, Any] = {
        "additional_fields": [1],
        "enricher": {},
        "labels": ["x"],
        "policies": ["x"],
        "relations": [1],
        "tracking_columns": ["x"],
        "zz": None,
    }
    body = body_of(client, table_source, **members)
    body["configuration"]["query"] = "select 1"
    with client.project.unchanged():
        details = expect_error(client.create(body), 422, "unsupported_field")
    assert sorted(details["fields"]) == sorted([*members, "configuration.query"])


@both_transports
@pytest.mark.usefixtures("checks")
def test_create_model__members_equal_to_the_defaults(client: Client, table_source: TableSource) -> None:
    defaults: dict[str, Any] = {name: [] for name in ("additional_fields", "labels", "policies", "relations")}
    defaults |= dict.fromkeys(("enricher", "tracking_columns", "fields", "identifier", "organization_id"))
    assert accepted(client.create(body_of(client, table_source, **defaults)), MODEL.one)["fields"] == ALL_FIELDS


# Source checks


@both_transports
@pytest.mark.usefixtures("checks")
@pytest.mark.parametrize(
    ("status", "reason"), [(401, "source_unauthorized"), (404, "source_not_found"), (302, "source_refused")]
)
def test_create_model__source_rejects_the_request(
    client: Client, table_source: TableSource, status: int, reason: str
) -> None:
    table_source.before = lambda _resource, _page: status
    members = expect_error(client.create(body_of(client, table_source)), 400, "source_not_readable")
    assert members == {"reason": reason}
    assert walk(client) == [[]]


@both_transports
@pytest.mark.usefixtures("checks")
def test_create_model__source_returns_malformed_records(client: Client, table_source: TableSource) -> None:
    for records in ([1], [{"code": "AA"}], [None]):
        table_source.tables["airlines"] = records
        assert expect_error(client.create(body_of(client, table_source)), 400, "source_not_readable") == {
            "reason": "source_malformed"
        }
    assert walk(client) == [[]]


@both_transports
def test_create_model__source_check_times_out(
    client: Client, table_source: TableSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a worker the check times out and is cancelled, so that no worker runs it later."""
    monkeypatch.setattr(source_check, "WAIT_SECONDS", 0.0)
    finished = threading.Event()
    table_source.before = lambda _resource, _page: None if finished.wait(30) else 500
    expect_error(client.create(body_of(client, table_source)), 503, "source_unavailable")
    finished.set()
    assert walk(client) == [[]]
    checks = client.database.all(
        "select status from app.executions where agency_id = %s and family = 'source_check'", (client.user.agency_id,)
    )
    assert [source_check["status"] for source_check in checks] == ["cancelled"]


@both_transports
@pytest.mark.usefixtures("checks")
def test_create_model__repeated_with_an_idempotency_key(client: Client, table_source: TableSource) -> None:
    body, key = body_of(client, table_source), {"idempotency-key": str(uuid.uuid4())}
    first = accepted(client.create(body, headers=key), MODEL.one)
    assert accepted(client.create(body, headers=key), MODEL.one) == first
    expect_error(client.create({**body, "name": "Another"}, headers=key), 422, "idempotency_key_reused")
    expect_error(client.create({**body, "fields": ["code"]}, headers=key), 422, "idempotency_key_reused")
    assert walk(client) == [[first["id"]]]


@both_transports
@pytest.mark.usefixtures("checks")
def test_create_model__concurrent_calls_with_one_idempotency_key(client: Client, table_source: TableSource) -> None:
    body, key = body_of(client, table_source), {"idempotency-key": "k"}
    responses = client.project.concurrently(lambda: client.create(body, headers=key))
    [model_id] = {accepted(response, MODEL.one)["id"] for response in responses if response.is_success}
    for response in responses:
        if response.status_code != 200:
            expect_error(response, 409, "idempotency_key_in_use")
    assert walk(client) == [[model_id]]


@both_transports
@pytest.mark.usefixtures("checks")
def test_create_model__races_with_deletion_of_its_connection(client: Client, table_source: TableSource) -> None:
    """Either the model is created and its connection stays, or the connection is deleted and no model is created. The
    request does not wait for a source check that the deletion has cancelled.
    """
    for _ in range(8):
        body = body_of(client, table_source)

        def create(body: dict[str, Any] = body) -> Any:
            return client.create(body)

        def delete(connection_id: str = body["connection_id"]) -> Any:
            return client.project.request("DELETE", f"/api/connections/{connection_id}", client.token)

        created, deleted = at_once(create, delete)
        if created.status_code == 200:
            expect_error(deleted, 422, "connection_in_use")
        else:
            assert deleted.status_code == 204
            code = {404: "connection_not_found", 503: "source_unavailable"}[created.status_code]
            expect_error(created, created.status_code, code)


def test_create_model_sql__requires_a_completed_check_of_this_stream(database: Database) -> None:
    """A direct call cannot make up fields or use the source check of another stream or agency."""
    user, stranger = database.member(), database.member()
    mine, other = database.connection(user.agency_id), database.connection(user.agency_id)
    theirs = database.connection(stranger.agency_id)

    def source_check_id(
        connection_id: str, agency_id: str | None, status: str = "completed", resource: str = "flights"
    ) -> str:
        return database.put(
            status,
            agency_id,
            "source_check",
            connection_id=connection_id,
            spec=f'{{"resource": "{resource}"}}',
            progress='{"fields": [{"name": "id", "type": "number"}]}',
        )

    wrong = [
        source_check_id(theirs, stranger.agency_id),
        source_check_id(other, user.agency_id),
        source_check_id(mine, user.agency_id, resource="weather"),
        source_check_id(mine, user.agency_id, "failed"),
        source_check_id(mine, user.agency_id, "running"),
        UNKNOWN,
    ]
    arguments: dict[str, Any] = {"name": "x", "connection_id": mine, "configuration": {"resource": "flights"}}
    with database.session(user.claims) as session:
        for check_id in wrong:
            assert session.error("create_model", **arguments, check_id=check_id).code == "not_checked"
        made = session.call("create_model", **arguments, check_id=source_check_id(mine, user.agency_id))
        assert made["data"]["fields"] == fields(("id", "number"))
