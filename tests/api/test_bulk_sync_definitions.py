"""POST /api/bulk/syncs through both doors: which schemas, from where to where, in the shapes of every version; and what
a start may choose of them. What all definitions have in common is in test_definitions.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import documented
from tests.support.project import BOTH_TRANSPORTS, refusal
from tests.support.syncs import BULK, BY_HAND, UNKNOWN, Client, accepted, at_once

if TYPE_CHECKING:
    from tests.support.project import Project

through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)


@pytest.fixture
def client(project: Project) -> Client:
    return Client(project, BULK, project.database.member())


def created(client: Client, **members: Any) -> dict[str, Any]:
    return accepted(client.create(client.body(**members)), BULK.one)


def schemas(*ids: str, prefix: str = "") -> list[dict[str, str]]:
    return [{"id": one, "output_name": prefix + one} for one in ids]


@through_both_doors
def test_what_is_created_is_what_was_asked_for(client: Client) -> None:
    body = client.body(name="Nightly", mode="append", active=False, schemas=["weather"])
    body["destination_configuration"] = {"schema": "crm"}
    sync = accepted(client.create(body), BULK.one)
    stored = client.database.one("select * from app.definitions where id = %s", (sync["id"],))
    assert str(stored["agency_id"]) == client.user.agency_id
    assert (sync["name"], sync["mode"], sync["active"]) == ("Nightly", "append", False)
    assert sync["source_connection_id"] == body["source_connection_id"] == str(stored["source_id"])
    assert sync["destination_connection_id"] == body["destination_connection_id"] == str(stored["destination_id"])
    assert sync["destination_configuration"] == {"schema": "crm"}
    assert sync["schemas"] == schemas("weather", prefix="crm.")
    assert sync["schedule"] == BY_HAND
    assert sync["default_schedule"] == {**BY_HAND, "id": sync["id"]}
    assert sync["additional_schedules"] == []


@through_both_doors
def test_what_is_left_out(client: Client) -> None:
    """Only a name and two connections are needed; null says nothing."""
    body = client.body()
    needed = {name: body[name] for name in ("name", "source_connection_id", "destination_connection_id")}
    sync = accepted(client.create(needed), BULK.one)
    assert (sync["mode"], sync["active"], sync["destination_configuration"]) == ("replicate", True, {})
    assert sync["schemas"] == schemas("flights", "weather")
    body_schema = documented.operation("create_bulk_sync")["requestBody"]["content"]["application/json"]["schema"]
    optional = set(body_schema["properties"]) - set(needed)
    assert "schemas" in optional
    nothing = accepted(client.create({**needed, **dict.fromkeys(optional)}), BULK.one)
    for name in ("mode", "active", "destination_configuration", "schemas"):
        assert nothing[name] == sync[name]


@through_both_doors
@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (["flights"], ["flights"]),
        (["weather", "flights"], ["weather", "flights"]),
        (["flights", "flights"], ["flights"]),
        ([{"id": "weather"}], ["weather"]),
        ([{"id": "weather", "enabled": True}, "flights"], ["weather", "flights"]),
        ([{"id": "flights", "enabled": False}, {"id": "weather", "enabled": None}], ["weather"]),
        ([{"id": "weather", "fields": [], "filters": [], "partition_key": "", "tracking_field": ""}], ["weather"]),
        (["weather"] * 1000, ["weather"]),
        (None, ["flights", "weather"]),
    ],
    ids=str,
)
def test_schemas_in_the_order_asked_for(client: Client, asked: Any, given: list[str]) -> None:
    assert created(client, schemas=asked)["schemas"] == schemas(*given)


@through_both_doors
@pytest.mark.parametrize(
    "shape",
    [
        {"schedule": BY_HAND},
        {"default_schedule": BY_HAND},
        {"schedule": {**BY_HAND, "day_of_week": "", "multi": None}},
        {"schedule": BY_HAND, "default_schedule": BY_HAND, "additional_schedules": []},
        {"default_schedule": {**BY_HAND, "id": "a schedule's"}},
        {"default_schedule": {}, "schedule": {"frequency": None}},
        {"schedule": BY_HAND, "discover": False, "automatically_add_new_fields": "all", "source_configuration": {}},
        {},
    ],
    ids=str,
)
def test_each_versions_shape(client: Client, shape: dict[str, Any]) -> None:
    body = client.body()
    del body["default_schedule"]
    for version in ("2023-04-25", "2024-02-08", "2025-09-18"):
        response = client.create({**body, **shape}, headers={"x-polytomic-version": version})
        sync = accepted(response, BULK.one)
        assert response.headers["x-polytomic-version"] == version
        assert (sync["schedule"], sync["default_schedule"]["frequency"]) == (BY_HAND, "manual")


NOT_YET: dict[str, tuple[dict[str, Any], set[str]]] = {
    "schedules": (
        {"default_schedule": {"frequency": "hourly", "minute": "5"}, "schedule": {"frequency": "continuous"}},
        {"default_schedule.frequency", "default_schedule.minute", "schedule.frequency"},
    ),
    "a day": ({"schedule": {**BY_HAND, "day_of_week": "mon", "x": 1}}, {"schedule.day_of_week", "schedule.x"}),
    "more schedules": ({"additional_schedules": [BY_HAND]}, {"additional_schedules"}),
    "mode": ({"mode": "snapshot"}, {"mode"}),
    "an empty mode": ({"mode": ""}, {"mode"}),
    "a mode in capitals": ({"mode": "Replicate"}, {"mode"}),
    "a prefix and more": (
        {"destination_configuration": {"schema": "crm", "database": "x", "y": None}},
        {"destination_configuration.database", "destination_configuration.y"},
    ),
    "of schemas": (
        {"schemas": ["flights", {"id": "weather", "fields": ["a"], "history_enabled": True, "zz": 1}]},
        {"schemas.1.fields", "schemas.1.history_enabled", "schemas.1.zz"},
    ),
    "discovery": (
        {"discover": True, "automatically_add_new_fields": "none", "automatically_add_new_objects": "all"},
        {"discover", "automatically_add_new_fields", "automatically_add_new_objects"},
    ),
    "limits": (
        {"concurrency_limit": 0, "resync_concurrency_limit": 1, "data_cutoff_timestamp": ""},
        {"concurrency_limit", "resync_concurrency_limit", "data_cutoff_timestamp"},
    ),
    "the rest": (
        {"normalize_names": "enabled", "disable_record_timestamps": True, "source_configuration": {"a": 1}},
        {"normalize_names", "disable_record_timestamps", "source_configuration"},
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


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "source null": ({"source_connection_id": None}, "source_connection_id"),
    "source a word": ({"source_connection_id": "mine"}, "source_connection_id"),
    "destination a list": ({"destination_connection_id": [UNKNOWN]}, "destination_connection_id"),
    "destination NUL": ({"destination_connection_id": UNKNOWN + "\0"}, "destination_connection_id"),
    "schemas a word": ({"schemas": "flights"}, "schemas"),
    "schemas an object": ({"schemas": {"flights": True}}, "schemas"),
    "schemas too many": ({"schemas": ["flights"] * 1001}, "schemas"),
    "a schema null": ({"schemas": [None]}, "schemas.0"),
    "a schema a number": ({"schemas": ["flights", 1]}, "schemas.1"),
    "a schema NUL": ({"schemas": ["a\0b"]}, "schemas.0.id"),
    "a schema's id": ({"schemas": [{"id": 1}]}, "schemas.0.id"),
    "a schema enabled": ({"schemas": [{"id": "flights", "enabled": "yes"}]}, "schemas.0.enabled"),
    "mode a number": ({"mode": 1}, "mode"),
    "active a word": ({"active": "true"}, "active"),
    "active a number": ({"active": 1}, "active"),
    "organization a word": ({"organization_id": "mine"}, "organization_id"),
    "configuration a list": ({"destination_configuration": []}, "destination_configuration"),
    "a prefix empty": ({"destination_configuration": {"schema": ""}}, "destination_configuration.schema"),
    "a prefix too long": ({"destination_configuration": {"schema": "x" * 101}}, "destination_configuration.schema"),
    "a prefix NUL": ({"destination_configuration": {"schema": "\0"}}, "destination_configuration.schema"),
    "schedule a word": ({"schedule": "manual"}, "schedule"),
    "frequency a number": ({"default_schedule": {"frequency": 1}}, "default_schedule.frequency"),
    "hour a number": ({"default_schedule": {**BY_HAND, "hour": 3}}, "default_schedule.hour"),
}


@through_both_doors
@pytest.mark.parametrize("name", WRONG)
def test_a_member_that_is_wrong(client: Client, name: str) -> None:
    members, field = WRONG[name]
    body = client.body(**members)
    with client.project.unchanged():
        response = client.create(body)
    assert refusal(response, 400, "invalid_field") == {"field": field}
    assert len(response.content) < 1000


@through_both_doors
@pytest.mark.parametrize("missing", ["name", "source_connection_id", "destination_connection_id"])
def test_a_member_that_is_missing(client: Client, missing: str) -> None:
    body = client.body()
    del body[missing]
    with client.project.unchanged():
        assert refusal(client.create(body), 400, "missing_field") == {"field": missing}


@through_both_doors
@pytest.mark.parametrize("unknown", ["Flights", "nope", "", "x'; --", "日本", "x" * 100_000], ids=lambda one: one[:9])
def test_a_schema_that_the_source_does_not_have(client: Client, unknown: str) -> None:
    body = client.body(schemas=["flights", unknown])
    with client.project.unchanged():
        members = refusal(client.create(body), 400, "unknown_schema")
    assert members == {"schema": unknown[:200], "available": ["flights", "weather"]}


@through_both_doors
@pytest.mark.parametrize(
    "none", [[], [{"id": "flights", "enabled": False}], [{"id": "nope", "enabled": False}]], ids=str
)
def test_no_schema_at_all(client: Client, none: list[Any]) -> None:
    body = client.body(schemas=none)
    with client.project.unchanged():
        assert refusal(client.create(body), 400, "no_schemas") == {}


@through_both_doors
def test_a_source_without_resources(client: Client) -> None:
    configs: list[dict[str, Any]] = [{}, {"resources": {}}, {"resources": []}]
    for config in configs:
        source = client.database.connection(client.user.agency_id, config=config)
        for asked, code in ((None, "no_schemas"), (["flights"], "unknown_schema")):
            body = client.body(source_connection_id=source, schemas=asked)
            with client.project.unchanged():
                refusal(client.create(body), 400, code)


# Connections


@through_both_doors
@pytest.mark.parametrize("member", ["source_connection_id", "destination_connection_id"])
def test_another_agencys_connection_is_none(client: Client, member: str) -> None:
    other = Client(client.project, BULK, client.database.member())
    theirs = other.records_connection() if member.startswith("destination") else other.http_connection()
    gone = client.http_connection()
    client.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (gone,))
    answers = []
    for connection_id in (theirs, UNKNOWN, gone):
        body = client.body(**{member: connection_id})
        with client.project.unchanged():
            response = client.create(body)
        assert refusal(response, 404, "connection_not_found") == {}
        answers.append({name: value for name, value in response.json().items() if name != "requestId"})
    assert answers[0] == answers[1] == answers[2]


@through_both_doors
def test_only_a_connection_that_receives_is_a_destination(client: Client) -> None:
    receives, sends = client.records_connection(), client.http_connection()
    for source, destination, code in (
        (sends, sends, "not_a_destination"),
        (receives, receives, "not_a_source"),
        (receives, sends, "not_a_source"),
    ):
        body = client.body(source_connection_id=source, destination_connection_id=destination)
        with client.project.unchanged():
            assert refusal(client.create(body), 400, code) == {}


@through_both_doors
def test_no_sync_is_created_of_a_connection_that_is_being_deleted(client: Client) -> None:
    """Whoever is first: a sync has its connections, or there is none."""
    for member in ("source_connection_id", "destination_connection_id") * 8:
        body = client.body()

        def create(body: dict[str, Any] = body) -> Any:
            return client.create(body)

        def delete(connection_id: str = body[member]) -> Any:
            return client.project.request("DELETE", f"/api/connections/{connection_id}", client.token)

        created, deleted = at_once(create, delete)
        if created.status_code == 200:
            refusal(deleted, 422, "connection_in_use")
        else:
            refusal(created, 404, "connection_not_found")
            assert deleted.status_code == 204


# Names in the destination


@through_both_doors
@pytest.mark.parametrize("prefix", ["crm", "a.b", ".", "日本", "'; --", "x" * 100, " "])
def test_a_prefix_goes_before_each_name(client: Client, prefix: str) -> None:
    sync = created(client, destination_configuration={"schema": prefix})
    assert sync["schemas"] == schemas("flights", "weather", prefix=f"{prefix}.")


@through_both_doors
@pytest.mark.parametrize(
    ("resource", "prefix"),
    [("x" * 201, None), ("日" * 67, None), ("x" * 150, "y" * 50), ("flights", "🛫" * 50), ("", None)],
    ids=["long", "long in bytes", "long together", "a long prefix", "none at all"],
)
def test_a_name_that_no_batch_could_have_is_refused_at_once(client: Client, resource: str, prefix: str | None) -> None:
    """Else every execution would fail at its first batch."""
    source = client.http_connection(resource, "weather")
    body = client.body(source_connection_id=source, destination_configuration={"schema": prefix} if prefix else {})
    with client.project.unchanged():
        members = refusal(client.create(body), 400, "invalid_output_name")
    assert members == {"schema": resource[:200]}
    accepted(client.create({**body, "schemas": ["weather"], "destination_configuration": {}}), BULK.one)


# What a start may choose


@through_both_doors
@pytest.mark.parametrize(
    ("asked", "run", "is_partial"),
    [
        (None, ["weather", "flights"], False),
        (["flights"], ["flights"], True),
        (["flights", "weather"], ["weather", "flights"], True),
        (["flights", "flights"], ["flights"], True),
    ],
    ids=str,
)
def test_a_start_of_some_schemas(client: Client, asked: Any, run: list[str], is_partial: bool) -> None:
    sync_id = client.made(schemas=["weather", "flights"], destination_configuration={"schema": "crm"})
    execution = accepted(client.start(sync_id, {"schemas": asked}), BULK.execution)
    assert [(one["schema"], one["output_name"]) for one in execution["schemas"]] == [(n, f"crm.{n}") for n in run]
    assert execution["is_partial"] is is_partial
    assert {one["status"] for one in execution["schemas"]} == {"created"}


@through_both_doors
@pytest.mark.parametrize(
    ("asked", "unknown"),
    [(["Flights"], "Flights"), (["flights", "nope"], "nope"), (["weather"], "weather"), ([""], ""), (["日本"], "日本")],
    ids=str,
)
def test_a_start_of_a_schema_that_is_not_the_syncs(client: Client, asked: list[str], unknown: str) -> None:
    """Also of one that the source has."""
    sync_id = client.made(schemas=["flights"])
    with client.project.unchanged():
        members = refusal(client.start(sync_id, {"schemas": asked}), 400, "unknown_schema")
    assert members == {"schema": unknown, "available": ["flights"]}


@through_both_doors
@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ([], "schemas"),
        ("flights", "schemas"),
        ({"flights": True}, "schemas"),
        (["flights"] * 1001, "schemas"),
        ([None], "schemas.0"),
        (["flights", 1], "schemas.1"),
        ([["flights"]], "schemas.0"),
        (["a\0"], "schemas.0"),
    ],
    ids=lambda one: str(one)[:20],
)
def test_a_start_of_schemas_that_are_none(client: Client, asked: Any, field: str) -> None:
    sync_id = client.made()
    with client.project.unchanged():
        assert refusal(client.start(sync_id, {"schemas": asked}), 400, "invalid_field") == {"field": field}


@through_both_doors
def test_what_runs_is_what_the_sync_was_created_with(client: Client) -> None:
    """A resource that the source has since is not taken in."""
    source = client.http_connection("flights")
    sync_id = client.made(source_connection_id=source)
    client.database.admin.execute(
        "update app.connections set config = %s where id = %s",
        (json.dumps({"resources": {"flights": {}, "weather": {}}}), source),
    )
    execution = accepted(client.start(sync_id), BULK.execution)
    assert [one["schema"] for one in execution["schemas"]] == ["flights"]
