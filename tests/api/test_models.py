"""POST /api/models through both doors, with a worker that looks at a source: the fields are those of its first page.

What all definitions have in common is in test_definitions.py.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from functions._connections import source_check
from functions._shared.rpc import PostgresRpc
from functions.worker.client import Protocol, service_caller
from functions.worker.loop import Options, Worker
from functions.worker.runners import CHECKS, given
from tests.support.project import BOTH_TRANSPORTS, refusal
from tests.support.syncs import MODEL, OPEN_LOCAL, UNKNOWN, Client, Shelf, accepted, at_once, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.database import Database
    from tests.support.project import Project, Projects

through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)


class Looks:
    """A worker's lane for looks, on a thread of its own."""

    def __init__(self, database: Database) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._protocol = Protocol(PostgresRpc(database.login("authenticator")), service_caller(""))
        options = Options("checks", tick_seconds=0.05, listen_url=database.login("authenticator"))
        worker = Worker(self._protocol, given(OPEN_LOCAL, CHECKS), options)
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(worker.run(self._stop)))
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._protocol.close()
        self._loop.close()


@pytest.fixture(scope="module")
def checks(projects: Projects) -> Iterator[Looks]:
    running = Looks(projects(BOTH_TRANSPORTS[0]).database)
    yield running
    running.close()


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    with Shelf() as running:
        yield running


@pytest.fixture
def client(project: Project, shelf: Shelf) -> Client:
    shelf.before = lambda _resource, _page: None
    shelf.tables.clear()
    shelf.put(
        "airlines", {"id": 1, "code": "AA", "name": "American"}, {"id": 2, "code": "UA", "name": None, "hub": True}
    )
    return Client(project, MODEL, project.database.member())


def connection(client: Client, shelf: Shelf, *resources: str, **options: Any) -> str:
    return client.database.connection(client.user.agency_id, config=shelf.config(*resources, **options))


def body_of(client: Client, shelf: Shelf, **members: Any) -> dict[str, Any]:
    return {
        "name": "Airlines",
        "connection_id": connection(client, shelf),
        "configuration": {"resource": "airlines"},
        **members,
    }


def fields(*names_and_types: tuple[str, str]) -> list[dict[str, str]]:
    return [{"id": name, "name": name, "label": name, "type": kind} for name, kind in names_and_types]


SEEN = fields(("id", "number"), ("code", "string"), ("name", "string"), ("hub", "boolean"))


@through_both_doors
@pytest.mark.usefixtures("checks")
def test_a_model_has_the_fields_of_the_first_page(client: Client, shelf: Shelf) -> None:
    body = body_of(client, shelf, identifier="code")
    model = accepted(client.create(body), MODEL.one)
    assert model["fields"] == SEEN
    assert (model["connection_id"], model["configuration"]) == (body["connection_id"], {"resource": "airlines"})
    assert (model["identifier"], model["type"], model["version"]) == ("code", "http", 1)
    assert accepted(client.ask("GET", f"/{model['id']}"), MODEL.one) == model
    assert client.ask("GET").json()["data"] == [model]


@through_both_doors
@pytest.mark.usefixtures("checks")
def test_fields_are_in_the_order_and_of_the_types_that_the_records_show(client: Client, shelf: Shelf) -> None:
    shelf.put(
        "mixed",
        {"id": 1, "a": None, "b": [1], "c": 1, "日本": {}, "e": True, "": "x"},
        {"id": 2, "f": 1.5, "c": "1", "e": 1, "b": None},
        {"id": 3, "later": "not on the first page"},
    )
    body = body_of(client, shelf, configuration={"resource": "mixed"})
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


@through_both_doors
@pytest.mark.usefixtures("checks")
def test_of_a_resource_without_records_no_field_is_known(client: Client, shelf: Shelf) -> None:
    shelf.put("nothing")
    body = body_of(client, shelf, configuration={"resource": "nothing"})
    assert accepted(client.create(body), MODEL.one)["fields"] == []
    body = body_of(client, shelf, configuration={"resource": "nothing"}, identifier="code")
    members = refusal(client.create(body), 400, "unknown_field")
    assert members["field"] == "code"


@through_both_doors
@pytest.mark.usefixtures("checks")
@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (["code"], SEEN[1:2]),
        (["name", "id", "name"], [SEEN[0], SEEN[2]]),
        (["id"] * 1000, SEEN[:1]),
        (None, SEEN),
    ],
    ids=["one", "in the source's order", "a thousand", "null"],
)
def test_some_fields(client: Client, shelf: Shelf, asked: Any, shown: Any) -> None:
    assert accepted(client.create(body_of(client, shelf, fields=asked)), MODEL.one)["fields"] == shown


@through_both_doors
@pytest.mark.usefixtures("checks")
def test_an_identifier_need_not_be_among_the_chosen_fields(client: Client, shelf: Shelf) -> None:
    model = accepted(client.create(body_of(client, shelf, fields=["name"], identifier="code")), MODEL.one)
    assert (model["identifier"], model["fields"]) == ("code", SEEN[2:3])


@through_both_doors
@pytest.mark.usefixtures("checks")
@pytest.mark.parametrize("unknown", ["Code", "nope", "", "x'; --", "日本", "x" * 100_000], ids=lambda one: one[:9])
def test_a_field_that_the_records_do_not_have(client: Client, shelf: Shelf, unknown: str) -> None:
    for wrong in ({"fields": ["code", unknown]}, {"identifier": unknown}):
        members = refusal(client.create(body_of(client, shelf, **wrong)), 400, "unknown_field")
        assert members == {"field": unknown[:200], "available": ["id", "code", "name", "hub"]}
    assert walk(client) == [[]]


@through_both_doors
@pytest.mark.parametrize("unknown", ["Airlines", "nope", "", "'; --", "x" * 100_000], ids=lambda one: one[:9])
def test_a_resource_that_the_connection_does_not_have(client: Client, shelf: Shelf, unknown: str) -> None:
    body = body_of(client, shelf, configuration={"resource": unknown})
    with client.project.unchanged():
        members = refusal(client.create(body), 400, "unknown_resource")
    assert members == {"resource": unknown[:200], "available": ["airlines"]}


@through_both_doors
def test_whose_connection_it_is(client: Client, shelf: Shelf) -> None:
    other = Client(client.project, MODEL, client.database.member())
    theirs, gone = connection(other, shelf), connection(client, shelf)
    client.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (gone,))
    for connection_id in (theirs, gone, UNKNOWN):
        body = body_of(client, shelf, connection_id=connection_id)
        with client.project.unchanged():
            assert refusal(client.create(body), 404, "connection_not_found") == {}


@through_both_doors
def test_a_connection_that_only_receives(client: Client, shelf: Shelf) -> None:
    body = body_of(client, shelf, connection_id=client.records_connection())
    with client.project.unchanged():
        assert refusal(client.create(body), 400, "not_a_source") == {}


@through_both_doors
@pytest.mark.usefixtures("checks")
def test_another_organization_is_refused(client: Client, shelf: Shelf) -> None:
    for organization_id in (client.database.agency(), UNKNOWN):
        body = body_of(client, shelf, organization_id=organization_id)
        assert refusal(client.create(body), 403, "other_organization") == {}
    assert walk(client) == [[]]
    mine = body_of(client, shelf, organization_id=client.user.agency_id)
    assert accepted(client.create(mine), MODEL.one)["organization_id"] == client.user.agency_id


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "connection a word": ({"connection_id": "mine"}, "connection_id"),
    "connection null": ({"connection_id": None}, "connection_id"),
    "configuration a word": ({"configuration": "airlines"}, "configuration"),
    "configuration null": ({"configuration": None}, "configuration"),
    "resource a number": ({"configuration": {"resource": 1}}, "configuration.resource"),
    "resource NUL": ({"configuration": {"resource": "a\0"}}, "configuration.resource"),
    "fields empty": ({"fields": []}, "fields"),
    "fields a word": ({"fields": "code"}, "fields"),
    "fields too many": ({"fields": ["code"] * 1001}, "fields"),
    "a field null": ({"fields": [None]}, "fields.0"),
    "a field an object": ({"fields": ["code", {"name": "x"}]}, "fields.1"),
    "a field NUL": ({"fields": ["a\0"]}, "fields.0"),
    "identifier a number": ({"identifier": 1}, "identifier"),
    "identifier NUL": ({"identifier": "\0"}, "identifier"),
    "organization a word": ({"organization_id": "mine"}, "organization_id"),
}


@through_both_doors
@pytest.mark.parametrize("name", WRONG)
def test_a_member_that_is_wrong(client: Client, shelf: Shelf, name: str) -> None:
    members, field = WRONG[name]
    body = body_of(client, shelf, **members)
    with client.project.unchanged():
        assert refusal(client.create(body), 400, "invalid_field") == {"field": field}


@through_both_doors
@pytest.mark.parametrize("missing", ["name", "connection_id", "configuration", "configuration.resource"])
def test_a_member_that_is_missing(client: Client, shelf: Shelf, missing: str) -> None:
    body = body_of(client, shelf)
    if missing == "configuration.resource":
        body["configuration"] = {}
    else:
        del body[missing]
    with client.project.unchanged():
        assert refusal(client.create(body), 400, "missing_field") == {"field": missing}


@through_both_doors
def test_all_that_does_not_work_yet_is_named_and_nobody_looks(client: Client, shelf: Shelf) -> None:
    members: dict[str, Any] = {
        "additional_fields": [1],
        "enricher": {},
        "labels": ["x"],
        "policies": ["x"],
        "relations": [1],
        "tracking_columns": ["x"],
        "zz": None,
    }
    body = body_of(client, shelf, **members)
    body["configuration"]["query"] = "select 1"
    with client.project.unchanged():
        said = refusal(client.create(body), 422, "unsupported_field")
    assert sorted(said["fields"]) == sorted([*members, "configuration.query"])


@through_both_doors
@pytest.mark.usefixtures("checks")
def test_what_only_says_what_happens_anyway_is_taken(client: Client, shelf: Shelf) -> None:
    nothing: dict[str, Any] = {name: [] for name in ("additional_fields", "labels", "policies", "relations")}
    nothing |= {"enricher": None, "tracking_columns": None, "fields": None, "identifier": None, "organization_id": None}
    assert accepted(client.create(body_of(client, shelf, **nothing)), MODEL.one)["fields"] == SEEN


# Looks


@through_both_doors
@pytest.mark.usefixtures("checks")
@pytest.mark.parametrize(
    ("status", "reason"), [(401, "source_unauthorized"), (404, "source_not_found"), (302, "source_refused")]
)
def test_a_source_that_refuses(client: Client, shelf: Shelf, status: int, reason: str) -> None:
    shelf.before = lambda _resource, _page: status
    members = refusal(client.create(body_of(client, shelf)), 400, "source_not_readable")
    assert members == {"reason": reason}
    assert walk(client) == [[]]


@through_both_doors
@pytest.mark.usefixtures("checks")
def test_records_that_are_none(client: Client, shelf: Shelf) -> None:
    for records in ([1], [{"code": "AA"}], [None]):
        shelf.tables["airlines"] = records
        assert refusal(client.create(body_of(client, shelf)), 400, "source_not_readable") == {
            "reason": "source_malformed"
        }
    assert walk(client) == [[]]


@through_both_doors
def test_nobody_looks_in_time(client: Client, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody does afterwards."""
    monkeypatch.setattr(source_check, "WAIT_SECONDS", 0.0)
    answered = threading.Event()
    shelf.before = lambda _resource, _page: None if answered.wait(30) else 500
    refusal(client.create(body_of(client, shelf)), 503, "source_unavailable")
    answered.set()
    assert walk(client) == [[]]
    checks = client.database.all(
        "select status from app.executions where agency_id = %s and family = 'source_check'", (client.user.agency_id,)
    )
    assert [source_check["status"] for source_check in checks] == ["cancelled"]


@through_both_doors
@pytest.mark.usefixtures("checks")
def test_an_idempotency_key_makes_one_of_many(client: Client, shelf: Shelf) -> None:
    body, key = body_of(client, shelf), {"idempotency-key": str(uuid.uuid4())}
    first = accepted(client.create(body, headers=key), MODEL.one)
    assert accepted(client.create(body, headers=key), MODEL.one) == first
    refusal(client.create({**body, "name": "Another"}, headers=key), 422, "idempotency_key_reused")
    refusal(client.create({**body, "fields": ["code"]}, headers=key), 422, "idempotency_key_reused")
    assert walk(client) == [[first["id"]]]


@through_both_doors
@pytest.mark.usefixtures("checks")
def test_many_creations_at_once_with_one_key_make_one(client: Client, shelf: Shelf) -> None:
    body, key = body_of(client, shelf), {"idempotency-key": "k"}
    responses = client.project.at_once(lambda: client.create(body, headers=key))
    [model_id] = {accepted(one, MODEL.one)["id"] for one in responses if one.status_code == 200}
    for response in responses:
        if response.status_code != 200:
            refusal(response, 409, "idempotency_key_in_use")
    assert walk(client) == [[model_id]]


@through_both_doors
@pytest.mark.usefixtures("checks")
def test_no_model_is_created_of_a_connection_that_is_being_deleted(client: Client, shelf: Shelf) -> None:
    """Whoever is first: a model has its connection, or there is none. Nobody waits for a look that was cancelled."""
    for _ in range(8):
        body = body_of(client, shelf)

        def create(body: dict[str, Any] = body) -> Any:
            return client.create(body)

        def delete(connection_id: str = body["connection_id"]) -> Any:
            return client.project.request("DELETE", f"/api/connections/{connection_id}", client.token)

        created, deleted = at_once(create, delete)
        if created.status_code == 200:
            refusal(deleted, 422, "connection_in_use")
        else:
            assert deleted.status_code == 204
            code = {404: "connection_not_found", 503: "source_unavailable"}[created.status_code]
            refusal(created, created.status_code, code)


def test_the_database_takes_no_fields_but_those_of_a_look_at_this_resource(database: Database) -> None:
    """Whoever calls it straight cannot invent fields, nor use another's look."""
    user, stranger = database.member(), database.member()
    mine, other = database.connection(user.agency_id), database.connection(user.agency_id)
    theirs = database.connection(stranger.agency_id)

    def looked(connection_id: str, agency_id: str | None, status: str = "completed", resource: str = "flights") -> str:
        return database.put(
            status,
            agency_id,
            "source_check",
            connection_id=connection_id,
            spec=f'{{"resource": "{resource}"}}',
            progress='{"fields": [{"name": "id", "type": "number"}]}',
        )

    wrong = [
        looked(theirs, stranger.agency_id),
        looked(other, user.agency_id),
        looked(mine, user.agency_id, resource="weather"),
        looked(mine, user.agency_id, "failed"),
        looked(mine, user.agency_id, "running"),
        UNKNOWN,
    ]
    arguments: dict[str, Any] = {"name": "x", "connection_id": mine, "configuration": {"resource": "flights"}}
    with database.session(user.claims) as session:
        for check_id in wrong:
            assert session.refusal("create_model", **arguments, check_id=check_id).code == "not_looked_at"
        made = session.call("create_model", **arguments, check_id=looked(mine, user.agency_id))
        assert made["data"]["fields"] == fields(("id", "number"))
