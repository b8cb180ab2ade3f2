"""POST and GET /api/syncs through both doors: fields of one model, an identity that tells rows apart, and filters of
the list. What all definitions have in common is in test_definitions.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from functions.worker.client import Batch
from tests.support import documented
from tests.support.project import BOTH_TRANSPORTS, refusal
from tests.support.syncs import BULK, BY_HAND, MODEL_SYNC, UNKNOWN, Client, Hand, accepted, at_once, make_model, walk

if TYPE_CHECKING:
    from tests.support.project import Project

through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
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


@through_both_doors
def test_what_is_created_is_what_was_asked_for(client: Client) -> None:
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
    assert accepted(client.ask("GET", f"/{sync['id']}"), MODEL_SYNC.one) == sync


@through_both_doors
def test_what_is_left_out(client: Client) -> None:
    body = client.body()
    needed = {name: body[name] for name in ("name", "mode", "fields", "identity", "target")}
    sync = created(client, needed)
    assert (sync["active"], sync["sync_all_records"]) == (True, True)
    get_resource = documented.operation("create_model_sync")["requestBody"]["content"]["application/json"]["schema"]
    optional = set(get_resource["properties"]) - set(needed)
    assert {"filters", "schedule", "active"} <= optional
    nothing = created(client, {**needed, **dict.fromkeys(optional)})
    for name in ("active", "sync_all_records", "filters", "overrides", "policies"):
        assert nothing[name] == sync[name]


@through_both_doors
def test_what_only_says_what_happens_anyway_is_taken_and_not_kept(client: Client) -> None:
    body = client.body()
    for one in body["fields"]:
        one |= {"new": True, "sync_mode": "", "override_value": "", "encryption_enabled": False}
    body["identity"] |= {"new_field": False, "remote_field_type_id": ""}
    body["target"] |= {"configuration": {}, "create": {}, "filter_logic": "", "new_name": "", "search_values": {}}
    body |= {"filters": [], "filter_logic": "", "identities": {}, "override_fields": [], "overrides": []}
    body |= {"model_filters": {}, "target_filters": {}, "policies": [], "encryption_passphrase": ""}
    sync = created(client, body)  # its model knows no other member
    assert set(sync["fields"][0]) == {"source", "target"}
    assert set(sync["identity"]) == {"source", "target", "function"}


@through_both_doors
@pytest.mark.parametrize(
    "schedule",
    [BY_HAND, {**BY_HAND, "day_of_month": "", "hour": "", "job_id": None, "run_after": {}}, None, "none at all"],
    ids=str,
)
def test_each_versions_shape(client: Client, schedule: Any) -> None:
    body = {**client.body(), "schedule": schedule}
    if schedule == "none at all":
        del body["schedule"]
    for version in ("2023-04-25", "2024-02-08", "2025-09-18"):
        response = client.create(body, headers={"x-polytomic-version": version})
        assert accepted(response, MODEL_SYNC.one)["schedule"] == BY_HAND
        assert response.headers["x-polytomic-version"] == version


@through_both_doors
@pytest.mark.parametrize("mode", ["create", "update", "updateOrCreate", "append"])
def test_modes(client: Client, mode: str) -> None:
    assert created(client, client.body(mode=mode))["mode"] == mode


NOT_YET: dict[str, tuple[dict[str, Any], set[str]]] = {
    "mode": ({"mode": "replace"}, {"mode"}),
    "other modes": ({"mode": "remove", "only_enrich_updates": True}, {"mode", "only_enrich_updates"}),
    "a mode in capitals": ({"mode": "Create"}, {"mode"}),
    "filters": (
        {"filters": [{}], "filter_logic": "A", "model_filters": {"a": 1}, "target_filters": {"a": 1}},
        {"filters", "filter_logic", "model_filters", "target_filters"},
    ),
    "overrides": (
        {"override_fields": [1], "overrides": [1], "identities": {"a": 1}},
        {"override_fields", "overrides", "identities"},
    ),
    "the rest": (
        {"policies": ["x"], "skip_initial_backfill": True, "encryption_passphrase": "x", "zz": None},
        {"policies", "skip_initial_backfill", "encryption_passphrase", "zz"},
    ),
    "a schedule": (
        {"schedule": {"frequency": "daily", "hour": "3", "run_after": {"sync_ids": []}}},
        {"schedule.frequency", "schedule.hour", "schedule.run_after"},
    ),
}


@through_both_doors
@pytest.mark.parametrize("name", NOT_YET)
def test_all_that_does_not_work_yet_is_named(client: Client, name: str) -> None:
    members, named = NOT_YET[name]
    body = client.body(**members)
    with client.project.unchanged():
        said = refusal(client.create(body), 422, "unsupported_field")
    assert sorted(said["fields"]) == sorted(named)


@through_both_doors
def test_all_that_does_not_work_yet_is_named_wherever_it_is(client: Client) -> None:
    body = client.body()
    body["fields"].append({**body["fields"][0], "target": "b", "override_value": "x", "sync_mode": "create", "zz": 1})
    body["fields"][1]["source"] = {**body["fields"][0]["source"], "x": 1}
    body["identity"] |= {"function": "OneOf", "remote_field_type_id": "x"}
    body["target"] |= {"create": {"a": "b"}, "search_values": {"a": 1}, "new_name": "x", "zz": 1}
    with client.project.unchanged():
        said = refusal(client.create(body), 422, "unsupported_field")
    assert sorted(said["fields"]) == [
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
    "fields a word": ({"fields": "name"}, "fields"),
    "fields too many": ({"fields": [{"source": SOURCE, "target": str(n)} for n in range(1001)]}, "fields"),
    "a field null": ({"fields": [None]}, "fields.0"),
    "a model a word": (
        {"fields": [{"source": {**SOURCE, "model_id": "x"}, "target": "a"}]},
        "fields.0.source.model_id",
    ),
    "a field empty": ({"fields": [{"source": {**SOURCE, "field": ""}, "target": "a"}]}, "fields.0.source.field"),
    "a field NUL": ({"fields": [{"source": {**SOURCE, "field": "\0"}, "target": "a"}]}, "fields.0.source.field"),
    "a target empty": ({"fields": [{"source": SOURCE, "target": ""}]}, "fields.0.target"),
    "a target too long": ({"fields": [{"source": SOURCE, "target": "x" * 201}]}, "fields.0.target"),
    "a target a number": ({"fields": [{"source": SOURCE, "target": 1}]}, "fields.0.target"),
    "identity a list": ({"identity": []}, "identity"),
    "identity's target": ({"identity": {"source": SOURCE, "target": None, "function": "Equality"}}, "identity.target"),
    "target a word": ({"target": "accounts"}, "target"),
    "target's connection": ({"target": {"connection_id": "x", "object": "a"}}, "target.connection_id"),
    "object empty": ({"target": {"connection_id": UNKNOWN, "object": ""}}, "target.object"),
    "object NUL": ({"target": {"connection_id": UNKNOWN, "object": "a\0"}}, "target.object"),
    "object too long": ({"target": {"connection_id": UNKNOWN, "object": "x" * 201}}, "target.object"),
    "object too long in bytes": ({"target": {"connection_id": UNKNOWN, "object": "日" * 67}}, "target.object"),
    "active a number": ({"active": 0}, "active"),
    "sync_all_records a word": ({"sync_all_records": "no"}, "sync_all_records"),
    "organization a word": ({"organization_id": "mine"}, "organization_id"),
    "hour a number": ({"schedule": {**BY_HAND, "hour": 3}}, "schedule.hour"),
}


@through_both_doors
@pytest.mark.parametrize("name", WRONG)
def test_a_member_that_is_wrong(client: Client, name: str) -> None:
    members, at = WRONG[name]
    body = client.body(**members)
    with client.project.unchanged():
        response = client.create(body)
    assert refusal(response, 400, "invalid_field") == {"field": at}
    assert len(response.content) < 1000


@through_both_doors
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
def test_a_member_that_is_missing(client: Client, missing: str) -> None:
    body: Any = client.body()
    *way, last = missing.split(".")
    place = body
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    del place[last]
    with client.project.unchanged():
        assert refusal(client.create(body), 400, "missing_field") == {"field": missing}


# Models and their fields


@through_both_doors
@pytest.mark.parametrize("mode", ["create", "update", "updateOrCreate"])
def test_only_append_needs_no_identity(client: Client, mode: str) -> None:
    body = client.body(identity=None)
    for wrong in ({**body, "mode": mode}, {name: v for name, v in body.items() if name != "identity"} | {"mode": mode}):
        with client.project.unchanged():
            assert refusal(client.create(wrong), 400, "identity_required") == {}
    assert created(client, {**body, "mode": "append"})["identity"] is None


@through_both_doors
def test_two_fields_to_one_target(client: Client) -> None:
    model_id = model_of(client)
    twice = [field(model_id), field(model_id, "hub")]
    same = [field(model_id), field(model_id)]
    as_identity = [field(model_id, "name", "code")]
    for mode in ("create", "update", "updateOrCreate", "append"):
        for fields in (twice, same, as_identity):
            body = client.body(mode=mode, fields=fields, identity=identity(model_id))
            with client.project.unchanged():
                assert refusal(client.create(body), 400, "ambiguous_target") == {}


@through_both_doors
def test_an_identity_may_be_mapped_as_well(client: Client) -> None:
    """To its own target, where it goes anyway, and to another."""
    model_id = model_of(client)
    fields = [field(model_id, "code", "code"), field(model_id, "code", "key"), field(model_id)]
    sync = created(client, client.body(fields=fields, identity=identity(model_id)))
    assert sync["fields"] == fields


@through_both_doors
@pytest.mark.parametrize("unknown", ["Name", "nope", "x'; --", "日本", "x" * 200], ids=lambda one: one[:9])
@pytest.mark.parametrize("where", ["fields", "identity"])
def test_a_field_that_the_model_does_not_have(client: Client, where: str, unknown: str) -> None:
    model_id = model_of(client)
    fields = [field(model_id), *([field(model_id, unknown, "b")] if where == "fields" else [])]
    matched = identity(model_id, unknown if where == "identity" else "code")
    body = client.body(fields=fields, identity=matched)
    with client.project.unchanged():
        members = refusal(client.create(body), 400, "unknown_field")
    assert members == {"field": unknown, "available": FIELDS}


@through_both_doors
def test_fields_of_several_models(client: Client) -> None:
    one, other = model_of(client), model_of(client)
    for fields, matched in (
        ([field(one), field(other, "hub", "b")], identity(one)),
        ([field(one)], identity(other)),
    ):
        body = client.body(fields=fields, identity=matched)
        with client.project.unchanged():
            said = refusal(client.create(body), 422, "unsupported_field")
        assert said == {"fields": ["fields.source.model_id"]}


@through_both_doors
def test_another_agencys_model_is_none(client: Client) -> None:
    other = Client(client.project, MODEL_SYNC, client.database.member())
    theirs, gone, sync_id = model_of(other), model_of(client), client.made()
    client.database.admin.execute("update app.definitions set deleted_at = now() where id = %s", (gone,))
    for model_id in (theirs, gone, sync_id, UNKNOWN):
        body = client.body(fields=[field(model_id)], identity=identity(model_id))
        with client.project.unchanged():
            assert refusal(client.create(body), 404, "model_not_found") == {}


@through_both_doors
def test_whose_target_it_is(client: Client) -> None:
    other = Client(client.project, MODEL_SYNC, client.database.member())
    gone = client.records_connection()
    client.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (gone,))
    for connection_id in (other.records_connection(), gone, UNKNOWN):
        body = client.body(target={"connection_id": connection_id, "object": "accounts"})
        with client.project.unchanged():
            assert refusal(client.create(body), 404, "connection_not_found") == {}
    body = client.body(target={"connection_id": client.http_connection(), "object": "accounts"})
    with client.project.unchanged():
        assert refusal(client.create(body), 400, "not_a_destination") == {}


@through_both_doors
def test_no_sync_is_created_of_a_target_that_is_being_deleted(client: Client) -> None:
    for _ in range(10):
        body = client.body()

        def create(body: dict[str, Any] = body) -> Any:
            return client.create(body)

        def delete(connection_id: str = body["target"]["connection_id"]) -> Any:
            return client.project.request("DELETE", f"/api/connections/{connection_id}", client.token)

        response, deleted = at_once(create, delete)
        if response.status_code == 200:
            refusal(deleted, 422, "connection_in_use")
        else:
            refusal(response, 404, "connection_not_found")
            assert deleted.status_code == 204


# An identity that is not what the object's rows are told apart by


def stored(client: Client, connection_id: str, key: str, data: str) -> None:
    """A row of the object, by a bulk sync whose source has such a record."""
    bulk = client.of(BULK)
    source = client.http_connection("accounts")
    sync_id = bulk.made(source_connection_id=source, destination_connection_id=connection_id)
    with Hand(client.database, bulk.started(sync_id)) as hand:
        hand.commit(Batch("accounts", [{"key": key, "data": json.loads(data)}], {"complete": True}, {}, done=True))
        hand.tell("worker_complete")


@through_both_doors
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
def test_an_identity_that_is_not_the_objects_key(client: Client, key: str, data: str) -> None:
    """Such rows would never be found again, and stand there twice."""
    connection_id = client.records_connection()
    target = {"connection_id": connection_id, "object": "accounts"}
    before = client.made(target=target)
    bodies = [client.body(target=target, mode=mode) for mode in ("create", "update", "updateOrCreate")]
    stored(client, connection_id, key, data)
    for body in bodies:
        with client.project.unchanged():
            members = refusal(client.create(body), 400, "not_the_identity")
        assert members == {"object": "accounts", "target": "code"}
    with client.project.unchanged():
        assert refusal(client.start(before), 400, "not_the_identity") == members
    created(client, client.body(target=target, mode="append"))
    created(client, client.body(target={**target, "object": "others"}))


@through_both_doors
@pytest.mark.parametrize(
    ("key", "value"), [('["AA"]', '"AA"'), ("[1]", "1"), ('["日本 🛫"]', '"日本 🛫"'), ("[true]", "true")]
)
def test_an_identity_that_is_the_objects_key(client: Client, key: str, value: str) -> None:
    connection_id = client.records_connection()
    stored(client, connection_id, key, f'{{"code": {value}, "more": 1}}')
    target = {"connection_id": connection_id, "object": "accounts"}
    client.started(client.made(target=target))


# Lists


@through_both_doors
def test_filters_of_the_list(client: Client) -> None:
    target = {"connection_id": client.records_connection(), "object": "accounts"}
    made = {
        (mode, active): client.made(mode=mode, active=active, target=target)
        for mode in ("create", "append")
        for active in (True, False)
    }
    elsewhere = client.made(mode="create")

    def listed(**query: str) -> set[str]:
        return {one for page in walk(client, limit=1, **query) for one in page}

    assert listed() == {*made.values(), elsewhere}
    assert listed(active="true") == {made["create", True], made["append", True], elsewhere}
    assert listed(active="false") == {made["create", False], made["append", False]}
    assert listed(mode="append") == {made["append", True], made["append", False]}
    assert listed(mode="") == listed(mode="nope") == listed(mode="Append") == set()
    assert listed(target_connection_id=target["connection_id"]) == set(made.values())
    assert listed(target_connection_id=UNKNOWN) == set()
    everything = {"target_connection_id": target["connection_id"], "mode": "create", "active": "true"}
    assert listed(**everything) == {made["create", True]}


@through_both_doors
@pytest.mark.parametrize(
    ("name", "value"), [("target_connection_id", "x"), ("target_connection_id", ""), ("mode", "\0"), ("active", "x")]
)
def test_a_filter_that_is_none(client: Client, name: str, value: str) -> None:
    assert refusal(client.ask("GET", params={name: value}), 400, "invalid_field") == {"field": name}


@through_both_doors
def test_bulk_syncs_by_whether_they_are_active(client: Client) -> None:
    bulk = client.of(BULK)
    on, off = bulk.made(), bulk.made(active=False)
    assert (walk(bulk, active="true"), walk(bulk, active="false")) == ([[on]], [[off]])
    assert walk(bulk) == [[off, on]]
