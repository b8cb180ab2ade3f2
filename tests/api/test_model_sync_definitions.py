"""POST and GET /api/syncs: fields, identity and target of a model sync, and filters of the list.

What all definitions have in common is in test_definitions.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from functions.worker.client import Batch
from tests.support import documented
from tests.support.project import both_transports, expect_error, one_transport
from tests.support.syncs import (
    BULK,
    BY_HAND,
    MODEL_SYNC,
    UNKNOWN,
    Client,
    StepWorker,
    accepted,
    at_once,
    make_model,
    walk,
)

if TYPE_CHECKING:
    from tests.support.project import Project

FIELDS = ["code", "name", "hub"]


@pytest.fixture
def client(project: Project) -> Client:
    return Client(project, MODEL_SYNC, project.database.member())


def model_of(client: Client) -> str:
    return make_model(client, client.http_connection("airlines"), "airlines", FIELDS)


def field(model_id: str, source: str = "name", target: str = "title", **members: Any) -> dict[str, Any]:
    return {"source": {"model_id": model_id, "field": source}, "target": target, **members}


def identity(model_id: str, source: str = "code", target: str = "code", **members: Any) -> dict[str, Any]:
    return field(model_id, source, target, **{"function": "Equality", **members})


def created(client: Client, body: dict[str, Any], **options: Any) -> dict[str, Any]:
    return accepted(client.create(body, **options), MODEL_SYNC.one)


@both_transports
def test_create_model_sync__returns_the_request(client: Client) -> None:
    model_id, target = model_of(client), {"connection_id": client.records_connection(), "object": "accounts"}
    body = client.body(
        name="To the CRM",
        mode="update",
        fields=[field(model_id), field(model_id, "hub", "日本")],
        identity=identity(model_id, target="id"),
        target=target,
        active=False,
        sync_all_records=False,
    )
    sync = created(client, body)
    for name in ("name", "mode", "fields", "identity", "active", "sync_all_records"):
        assert sync[name] == body[name]
    assert sync["target"] == {**target, "configuration": {}}
    assert (sync["target_connection_id"], sync["target_object"]) == (target["connection_id"], "accounts")
    assert (sync["model_ids"], sync["schedule"]) == ([model_id], BY_HAND)
    assert accepted(client.request("GET", f"/{sync['id']}"), MODEL_SYNC.one) == sync


@both_transports
def test_create_model_sync__defaults(client: Client) -> None:
    body = client.body()
    required = {name: body[name] for name in ("name", "mode", "fields", "identity", "target")}
    sync = created(client, required)
    assert (sync["active"], sync["sync_all_records"]) == (True, True)
    body_schema = documented.operation("create_model_sync")["requestBody"]["content"]["application/json"]["schema"]
    optional = set(body_schema["properties"]) - set(required)
    assert {"filters", "schedule", "active"} <= optional
    with_nulls = created(client, {**required, **dict.fromkeys(optional)})
    for name in ("active", "sync_all_records", "filters", "overrides", "policies"):
        assert with_nulls[name] == sync[name]


@both_transports
def test_create_model_sync__members_equal_to_the_defaults(client: Client) -> None:
    body = client.body()
    for mapping in body["fields"]:
        mapping |= {"new": True, "sync_mode": "", "override_value": "", "encryption_enabled": False}
    body["identity"] |= {"new_field": False, "remote_field_type_id": ""}
    body["target"] |= {"configuration": {}, "create": {}, "filter_logic": "", "new_name": "", "search_values": {}}
    body |= {"filters": [], "filter_logic": "", "identities": {}, "override_fields": [], "overrides": []}
    body |= {"model_filters": {}, "target_filters": {}, "policies": [], "encryption_passphrase": ""}
    sync = created(client, body)  # the response's model allows no other member
    assert set(sync["fields"][0]) == {"source", "target"}
    assert set(sync["identity"]) == {"source", "target", "function"}


@both_transports
@pytest.mark.parametrize(
    "schedule",
    [BY_HAND, {**BY_HAND, "day_of_month": "", "hour": "", "job_id": None, "run_after": {}}, None, "left out"],
    ids=["manual", "manual with empty members", "null", "left out"],
)
def test_create_model_sync__accepts_the_schedule_of_every_version(client: Client, schedule: Any) -> None:
    body = {**client.body(), "schedule": schedule}
    if schedule == "left out":
        del body["schedule"]
    for version in ("2023-04-25", "2024-02-08", "2025-09-18"):
        response = client.create(body, headers={"x-polytomic-version": version})
        assert accepted(response, MODEL_SYNC.one)["schedule"] == BY_HAND
        assert response.headers["x-polytomic-version"] == version


@both_transports
@pytest.mark.parametrize("mode", ["create", "update", "updateOrCreate", "append"])
def test_create_model_sync__modes(client: Client, mode: str) -> None:
    assert created(client, client.body(mode=mode))["mode"] == mode


UNSUPPORTED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "mode": ({"mode": "replace"}, {"mode"}),
    "other modes": ({"mode": "remove", "only_enrich_updates": True}, {"mode", "only_enrich_updates"}),
    "capitalized mode": ({"mode": "Create"}, {"mode"}),
    "filters": (
        {"filters": [{}], "filter_logic": "A", "model_filters": {"a": 1}, "target_filters": {"a": 1}},
        {"filters", "filter_logic", "model_filters", "target_filters"},
    ),
    "overrides": (
        {"override_fields": [1], "overrides": [1], "identities": {"a": 1}},
        {"override_fields", "overrides", "identities"},
    ),
    "other members": (
        {"policies": ["x"], "skip_initial_backfill": True, "encryption_passphrase": "x", "zz": None},
        {"policies", "skip_initial_backfill", "encryption_passphrase", "zz"},
    ),
    "schedule": (
        {"schedule": {"frequency": "daily", "hour": "3", "run_after": {"sync_ids": []}}},
        {"schedule.frequency", "schedule.hour", "schedule.run_after"},
    ),
}


@one_transport
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_create_model_sync__names_all_unsupported_members(client: Client, name: str) -> None:
    members, fields = UNSUPPORTED[name]
    body = client.body(**members)
    with client.project.unchanged():
        details = expect_error(client.create(body), 422, "unsupported_field")
    assert sorted(details["fields"]) == sorted(fields)


@one_transport
def test_create_model_sync__names_nested_unsupported_members(client: Client) -> None:
    body = client.body()
    body["fields"].append({**body["fields"][0], "target": "b", "override_value": "x", "sync_mode": "create", "zz": 1})
    body["fields"][1]["source"] = {**body["fields"][0]["source"], "x": 1}
    body["identity"] |= {"function": "OneOf", "remote_field_type_id": "x"}
    body["target"] |= {"create": {"a": "b"}, "search_values": {"a": 1}, "new_name": "x", "zz": 1}
    with client.project.unchanged():
        details = expect_error(client.create(body), 422, "unsupported_field")
    assert sorted(details["fields"]) == [
        "fields.1.override_value",
        "fields.1.source.x",
        "fields.1.sync_mode",
        "fields.1.zz",
        "identity.function",
        "identity.remote_field_type_id",
        "target.create",
        "target.new_name",
        "target.search_values",
        "target.zz",
    ]


SOURCE = {"model_id": UNKNOWN, "field": "name"}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "mode null": ({"mode": None}, "mode"),
    "mode a number": ({"mode": 1}, "mode"),
    "fields null": ({"fields": None}, "fields"),
    "fields empty": ({"fields": []}, "fields"),
    "fields a string": ({"fields": "name"}, "fields"),
    "too many fields": ({"fields": [{"source": SOURCE, "target": str(n)} for n in range(1001)]}, "fields"),
    "field null": ({"fields": [None]}, "fields.0"),
    "model not a UUID": (
        {"fields": [{"source": {**SOURCE, "model_id": "x"}, "target": "a"}]},
        "fields.0.source.model_id",
    ),
    "source field empty": ({"fields": [{"source": {**SOURCE, "field": ""}, "target": "a"}]}, "fields.0.source.field"),
    "source field with NUL": (
        {"fields": [{"source": {**SOURCE, "field": "\0"}, "target": "a"}]},
        "fields.0.source.field",
    ),
    "field target empty": ({"fields": [{"source": SOURCE, "target": ""}]}, "fields.0.target"),
    "field target too long": ({"fields": [{"source": SOURCE, "target": "x" * 201}]}, "fields.0.target"),
    "field target a number": ({"fields": [{"source": SOURCE, "target": 1}]}, "fields.0.target"),
    "identity a list": ({"identity": []}, "identity"),
    "identity target null": (
        {"identity": {"source": SOURCE, "target": None, "function": "Equality"}},
        "identity.target",
    ),
    "target a string": ({"target": "accounts"}, "target"),
    "target connection not a UUID": ({"target": {"connection_id": "x", "object": "a"}}, "target.connection_id"),
    "object empty": ({"target": {"connection_id": UNKNOWN, "object": ""}}, "target.object"),
    "object with NUL": ({"target": {"connection_id": UNKNOWN, "object": "a\0"}}, "target.object"),
    "object too long": ({"target": {"connection_id": UNKNOWN, "object": "x" * 201}}, "target.object"),
    "object too long in bytes": ({"target": {"connection_id": UNKNOWN, "object": "日" * 67}}, "target.object"),
    "active a number": ({"active": 0}, "active"),
    "sync_all_records a string": ({"sync_all_records": "no"}, "sync_all_records"),
    "organization not a UUID": ({"organization_id": "mine"}, "organization_id"),
    "hour a number": ({"schedule": {**BY_HAND, "hour": 3}}, "schedule.hour"),
}


@one_transport
@pytest.mark.parametrize("name", WRONG)
def test_create_model_sync__invalid_member(client: Client, name: str) -> None:
    members, field_path = WRONG[name]
    body = client.body(**members)
    with client.project.unchanged():
        response = client.create(body)
    assert expect_error(response, 400, "invalid_field") == {"field": field_path}
    assert len(response.content) < 1000


@one_transport
@pytest.mark.parametrize(
    "missing",
    [
        "name",
        "mode",
        "fields",
        "target",
        "target.object",
        "target.connection_id",
        "identity.source",
        "identity.function",
        "identity.target",
        "fields.0.source",
        "fields.0.target",
        "fields.0.source.field",
    ],
)
def test_create_model_sync__missing_member(client: Client, missing: str) -> None:
    body: Any = client.body()
    *parents, last = missing.split(".")
    parent = body
    for name in parents:
        parent = parent[int(name) if name.isdigit() else name]
    del parent[last]
    with client.project.unchanged():
        assert expect_error(client.create(body), 400, "missing_field") == {"field": missing}


# Models and their fields


@both_transports
@pytest.mark.parametrize("mode", ["create", "update", "updateOrCreate"])
def test_create_model_sync__identity_required_except_in_append(client: Client, mode: str) -> None:
    body = client.body(identity=None)
    for wrong in ({**body, "mode": mode}, {name: v for name, v in body.items() if name != "identity"} | {"mode": mode}):
        with client.project.unchanged():
            assert expect_error(client.create(wrong), 400, "identity_required") == {}
    assert created(client, {**body, "mode": "append"})["identity"] is None


@both_transports
def test_create_model_sync__two_fields_with_one_target(client: Client) -> None:
    model_id = model_of(client)
    twice = [field(model_id), field(model_id, "hub")]
    same = [field(model_id), field(model_id)]
    as_identity = [field(model_id, "name", "code")]
    for mode in ("create", "update", "updateOrCreate", "append"):
        for fields in (twice, same, as_identity):
            body = client.body(mode=mode, fields=fields, identity=identity(model_id))
            with client.project.unchanged():
                assert expect_error(client.create(body), 400, "ambiguous_target") == {}


@both_transports
def test_create_model_sync__identity_field_is_also_mapped(client: Client) -> None:
    """The identity's field may be mapped to its own target again and to another target."""
    model_id = model_of(client)
    fields = [field(model_id, "code", "code"), field(model_id, "code", "key"), field(model_id)]
    sync = created(client, client.body(fields=fields, identity=identity(model_id)))
    assert sync["fields"] == fields


@both_transports
@pytest.mark.parametrize("unknown", ["Name", "nope", "x'; --", "日本", "x" * 200], ids=lambda name: name[:9])
@pytest.mark.parametrize("member", ["fields", "identity"])
def test_create_model_sync__unknown_field(client: Client, member: str, unknown: str) -> None:
    model_id = model_of(client)
    fields = [field(model_id), *([field(model_id, unknown, "b")] if member == "fields" else [])]
    matched = identity(model_id, unknown if member == "identity" else "code")
    body = client.body(fields=fields, identity=matched)
    with client.project.unchanged():
        members = expect_error(client.create(body), 400, "unknown_field")
    assert members == {"field": unknown, "available": FIELDS}


@both_transports
def test_create_model_sync__fields_of_several_models(client: Client) -> None:
    first, second = model_of(client), model_of(client)
    for fields, matched in (
        ([field(first), field(second, "hub", "b")], identity(first)),
        ([field(first)], identity(second)),
    ):
        body = client.body(fields=fields, identity=matched)
        with client.project.unchanged():
            details = expect_error(client.create(body), 422, "unsupported_field")
        assert details == {"fields": ["fields.source.model_id"]}


@both_transports
def test_create_model_sync__model_of_another_agency(client: Client) -> None:
    other = Client(client.project, MODEL_SYNC, client.database.member())
    theirs, deleted, sync_id = model_of(other), model_of(client), client.made()
    client.database.admin.execute("update app.definitions set deleted_at = now() where id = %s", (deleted,))
    for model_id in (theirs, deleted, sync_id, UNKNOWN):
        body = client.body(fields=[field(model_id)], identity=identity(model_id))
        with client.project.unchanged():
            assert expect_error(client.create(body), 404, "model_not_found") == {}


@both_transports
def test_create_model_sync__target_connection(client: Client) -> None:
    other = Client(client.project, MODEL_SYNC, client.database.member())
    deleted = client.records_connection()
    client.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (deleted,))
    for connection_id in (other.records_connection(), deleted, UNKNOWN):
        body = client.body(target={"connection_id": connection_id, "object": "accounts"})
        with client.project.unchanged():
            assert expect_error(client.create(body), 404, "connection_not_found") == {}
    body = client.body(target={"connection_id": client.http_connection(), "object": "accounts"})
    with client.project.unchanged():
        assert expect_error(client.create(body), 400, "not_a_destination") == {}


@both_transports
def test_create_model_sync__races_with_deletion_of_its_target(client: Client) -> None:
    for _ in range(10):
        body = client.body()

        def create(body: dict[str, Any] = body) -> Any:
            return client.create(body)

        def delete(connection_id: str = body["target"]["connection_id"]) -> Any:
            return client.project.request("DELETE", f"/api/connections/{connection_id}", client.token)

        response, deleted = at_once(create, delete)
        if response.status_code == 200:
            expect_error(deleted, 422, "connection_in_use")
        else:
            expect_error(response, 404, "connection_not_found")
            assert deleted.status_code == 204


# Identity and the key of the object's rows


def store_row(client: Client, connection_id: str, key: str, data: str) -> None:
    """Store a row of the object `accounts` by running a bulk sync."""
    bulk = client.of(BULK)
    source = client.http_connection("accounts")
    sync_id = bulk.made(source_connection_id=source, destination_connection_id=connection_id)
    with StepWorker(client.database, bulk.started(sync_id)) as step_worker:
        step_worker.commit(
            Batch("accounts", [{"key": key, "data": json.loads(data)}], {"complete": True}, {}, done=True)
        )
        step_worker.call("worker_complete")


@both_transports
@pytest.mark.parametrize(
    ("key", "data"),
    [
        ('["AA"]', '{"id": "AA", "code": "American"}'),
        ('["AA"]', '{"id": "AA"}'),
        ('["AA", 1]', '{"code": "AA", "n": 1}'),
        ('["1"]', '{"code": 1}'),
        ("an execution:1:1", '{"code": "AA"}'),
    ],
    ids=["another member", "no such member", "two members", "another type", "appended"],
)
def test_create_model_sync__identity_differs_from_the_key_of_the_object(client: Client, key: str, data: str) -> None:
    """Rows with another key would never be matched and would be stored twice."""
    connection_id = client.records_connection()
    target = {"connection_id": connection_id, "object": "accounts"}
    existing = client.made(target=target)
    bodies = [client.body(target=target, mode=mode) for mode in ("create", "update", "updateOrCreate")]
    store_row(client, connection_id, key, data)
    for body in bodies:
        with client.project.unchanged():
            members = expect_error(client.create(body), 400, "not_the_identity")
        assert members == {"object": "accounts", "target": "code"}
    with client.project.unchanged():
        assert expect_error(client.start(existing), 400, "not_the_identity") == members
    created(client, client.body(target=target, mode="append"))
    created(client, client.body(target={**target, "object": "others"}))


@both_transports
@pytest.mark.parametrize(
    ("key", "value"), [('["AA"]', '"AA"'), ("[1]", "1"), ('["日本 🛫"]', '"日本 🛫"'), ("[true]", "true")]
)
def test_create_model_sync__identity_equals_the_key_of_the_object(client: Client, key: str, value: str) -> None:
    connection_id = client.records_connection()
    store_row(client, connection_id, key, f'{{"code": {value}, "more": 1}}')
    target = {"connection_id": connection_id, "object": "accounts"}
    client.started(client.made(target=target))


# Lists


@both_transports
def test_list_model_syncs__filters(client: Client) -> None:
    target = {"connection_id": client.records_connection(), "object": "accounts"}
    made = {
        (mode, active): client.made(mode=mode, active=active, target=target)
        for mode in ("create", "append")
        for active in (True, False)
    }
    elsewhere = client.made(mode="create")

    def listed(**query: str) -> set[str]:
        return {sync_id for page in walk(client, limit=1, **query) for sync_id in page}

    assert listed() == {*made.values(), elsewhere}
    assert listed(active="true") == {made["create", True], made["append", True], elsewhere}
    assert listed(active="false") == {made["create", False], made["append", False]}
    assert listed(mode="append") == {made["append", True], made["append", False]}
    assert listed(mode="") == listed(mode="nope") == listed(mode="Append") == set()
    assert listed(target_connection_id=target["connection_id"]) == set(made.values())
    assert listed(target_connection_id=UNKNOWN) == set()
    all_filters = {"target_connection_id": target["connection_id"], "mode": "create", "active": "true"}
    assert listed(**all_filters) == {made["create", True]}


@one_transport
@pytest.mark.parametrize(
    ("name", "value"), [("target_connection_id", "x"), ("target_connection_id", ""), ("mode", "\0"), ("active", "x")]
)
def test_list_model_syncs__invalid_filter(client: Client, name: str, value: str) -> None:
    assert expect_error(client.request("GET", params={name: value}), 400, "invalid_field") == {"field": name}


@both_transports
def test_list_bulk_syncs__filter_by_active(client: Client) -> None:
    bulk = client.of(BULK)
    on, off = bulk.made(), bulk.made(active=False)
    assert (walk(bulk, active="true"), walk(bulk, active="false")) == ([[on]], [[off]])
    assert walk(bulk) == [[off, on]]
