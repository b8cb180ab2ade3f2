"""POST /api/bulk/syncs: connections, schemas and schedules in the format of every version; schemas selected at a start.

What all definitions have in common is in test_definitions.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import documented
from tests.support.project import both_transports, expect_error, one_transport
from tests.support.syncs import BULK, BY_HAND, UNKNOWN, Client, accepted, at_once

if TYPE_CHECKING:
    from tests.support.project import Project


@pytest.fixture
def client(project: Project) -> Client:
    return Client(project, BULK, project.database.member())


def created(client: Client, **members: Any) -> dict[str, Any]:
    return accepted(client.create(client.body(**members)), BULK.one)


def schemas(*ids: str, prefix: str = "") -> list[dict[str, str]]:
    return [{"id": schema_id, "output_name": prefix + schema_id} for schema_id in ids]


@both_transports
def test_create_bulk_sync__returns_and_stores_the_request(client: Client) -> None:
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


@both_transports
def test_create_bulk_sync__defaults(client: Client) -> None:
    """Only a name and two connections are required; null is equal to a missing member."""
    body = client.body()
    required = {name: body[name] for name in ("name", "source_connection_id", "destination_connection_id")}
    sync = accepted(client.create(required), BULK.one)
    assert (sync["mode"], sync["active"], sync["destination_configuration"]) == ("replicate", True, {})
    assert sync["schemas"] == schemas("flights", "weather")
    body_schema = documented.operation("create_bulk_sync")["requestBody"]["content"]["application/json"]["schema"]
    optional = set(body_schema["properties"]) - set(required)
    assert "schemas" in optional
    with_nulls = accepted(client.create({**required, **dict.fromkeys(optional)}), BULK.one)
    for name in ("mode", "active", "destination_configuration", "schemas"):
        assert with_nulls[name] == sync[name]


@both_transports
@pytest.mark.parametrize(
    ("requested", "expected"),
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
    ids=[
        "one",
        "in another order",
        "twice",
        "an object",
        "an enabled object and a name",
        "a disabled and an enabled one",
        "an object with empty members",
        "a thousand times",
        "null",
    ],
)
def test_create_bulk_sync__schemas_in_requested_order(client: Client, requested: Any, expected: list[str]) -> None:
    assert created(client, schemas=requested)["schemas"] == schemas(*expected)


@both_transports
@pytest.mark.parametrize(
    "members",
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
    ids=[
        "schedule",
        "default_schedule",
        "schedule with empty members",
        "both schedules",
        "default_schedule with an id",
        "empty schedules",
        "members equal to the defaults",
        "no schedule",
    ],
)
def test_create_bulk_sync__accepts_the_format_of_every_version(client: Client, members: dict[str, Any]) -> None:
    body = client.body()
    del body["default_schedule"]
    for version in ("2023-04-25", "2024-02-08", "2025-09-18"):
        response = client.create({**body, **members}, headers={"x-polytomic-version": version})
        sync = accepted(response, BULK.one)
        assert response.headers["x-polytomic-version"] == version
        assert (sync["schedule"], sync["default_schedule"]["frequency"]) == (BY_HAND, "manual")


UNSUPPORTED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "schedules": (
        {"default_schedule": {"frequency": "hourly", "minute": "5"}, "schedule": {"frequency": "continuous"}},
        {"default_schedule.frequency", "default_schedule.minute", "schedule.frequency"},
    ),
    "day of week": ({"schedule": {**BY_HAND, "day_of_week": "mon", "x": 1}}, {"schedule.day_of_week", "schedule.x"}),
    "additional schedules": ({"additional_schedules": [BY_HAND]}, {"additional_schedules"}),
    "mode": ({"mode": "snapshot"}, {"mode"}),
    "empty mode": ({"mode": ""}, {"mode"}),
    "capitalized mode": ({"mode": "Replicate"}, {"mode"}),
    "destination configuration": (
        {"destination_configuration": {"schema": "crm", "database": "x", "y": None}},
        {"destination_configuration.database", "destination_configuration.y"},
    ),
    "schema members": (
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
    "other members": (
        {"normalize_names": "enabled", "disable_record_timestamps": True, "source_configuration": {"a": 1}},
        {"normalize_names", "disable_record_timestamps", "source_configuration"},
    ),
}


@one_transport
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_create_bulk_sync__names_all_unsupported_members(client: Client, name: str) -> None:
    members, fields = UNSUPPORTED[name]
    body = client.body(**members)
    with client.project.unchanged():
        details = expect_error(client.create(body), 422, "unsupported_field")
    assert sorted(details["fields"]) == sorted(fields)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "source null": ({"source_connection_id": None}, "source_connection_id"),
    "source not a UUID": ({"source_connection_id": "mine"}, "source_connection_id"),
    "destination a list": ({"destination_connection_id": [UNKNOWN]}, "destination_connection_id"),
    "destination NUL": ({"destination_connection_id": UNKNOWN + "\0"}, "destination_connection_id"),
    "schemas a string": ({"schemas": "flights"}, "schemas"),
    "schemas an object": ({"schemas": {"flights": True}}, "schemas"),
    "too many schemas": ({"schemas": ["flights"] * 1001}, "schemas"),
    "schema null": ({"schemas": [None]}, "schemas.0"),
    "schema a number": ({"schemas": ["flights", 1]}, "schemas.1"),
    "schema with NUL": ({"schemas": ["a\0b"]}, "schemas.0.id"),
    "schema id a number": ({"schemas": [{"id": 1}]}, "schemas.0.id"),
    "schema enabled a string": ({"schemas": [{"id": "flights", "enabled": "yes"}]}, "schemas.0.enabled"),
    "mode a number": ({"mode": 1}, "mode"),
    "active a string": ({"active": "true"}, "active"),
    "active a number": ({"active": 1}, "active"),
    "organization not a UUID": ({"organization_id": "mine"}, "organization_id"),
    "configuration a list": ({"destination_configuration": []}, "destination_configuration"),
    "prefix empty": ({"destination_configuration": {"schema": ""}}, "destination_configuration.schema"),
    "prefix too long": ({"destination_configuration": {"schema": "x" * 101}}, "destination_configuration.schema"),
    "prefix with NUL": ({"destination_configuration": {"schema": "\0"}}, "destination_configuration.schema"),
    "schedule a string": ({"schedule": "manual"}, "schedule"),
    "frequency a number": ({"default_schedule": {"frequency": 1}}, "default_schedule.frequency"),
    "hour a number": ({"default_schedule": {**BY_HAND, "hour": 3}}, "default_schedule.hour"),
}


@one_transport
@pytest.mark.parametrize("name", WRONG)
def test_create_bulk_sync__invalid_member(client: Client, name: str) -> None:
    members, field = WRONG[name]
    body = client.body(**members)
    with client.project.unchanged():
        response = client.create(body)
    assert expect_error(response, 400, "invalid_field") == {"field": field}
    assert len(response.content) < 1000


@one_transport
@pytest.mark.parametrize("missing", ["name", "source_connection_id", "destination_connection_id"])
def test_create_bulk_sync__missing_member(client: Client, missing: str) -> None:
    body = client.body()
    del body[missing]
    with client.project.unchanged():
        assert expect_error(client.create(body), 400, "missing_field") == {"field": missing}


@both_transports
@pytest.mark.parametrize("unknown", ["Flights", "nope", "", "x'; --", "日本", "x" * 100_000], ids=lambda name: name[:9])
def test_create_bulk_sync__unknown_schema(client: Client, unknown: str) -> None:
    body = client.body(schemas=["flights", unknown])
    with client.project.unchanged():
        members = expect_error(client.create(body), 400, "unknown_schema")
    assert members == {"schema": unknown[:200], "available": ["flights", "weather"]}


@both_transports
@pytest.mark.parametrize(
    "selected",
    [[], [{"id": "flights", "enabled": False}], [{"id": "nope", "enabled": False}]],
    ids=["empty", "one disabled", "one unknown and disabled"],
)
def test_create_bulk_sync__no_enabled_schema(client: Client, selected: list[Any]) -> None:
    body = client.body(schemas=selected)
    with client.project.unchanged():
        assert expect_error(client.create(body), 400, "no_schemas") == {}


@both_transports
def test_create_bulk_sync__source_without_streams(client: Client) -> None:
    configs: list[dict[str, Any]] = [{}, {"resources": {}}, {"resources": []}]
    for config in configs:
        source = client.database.connection(client.user.agency_id, config=config)
        for selected, code in ((None, "no_schemas"), (["flights"], "unknown_schema")):
            body = client.body(source_connection_id=source, schemas=selected)
            with client.project.unchanged():
                expect_error(client.create(body), 400, code)


# Connections


@both_transports
@pytest.mark.parametrize("member", ["source_connection_id", "destination_connection_id"])
def test_create_bulk_sync__connection_of_another_agency(client: Client, member: str) -> None:
    other = Client(client.project, BULK, client.database.member())
    theirs = other.records_connection() if member.startswith("destination") else other.http_connection()
    deleted = client.http_connection()
    client.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (deleted,))
    bodies = []
    for connection_id in (theirs, UNKNOWN, deleted):
        body = client.body(**{member: connection_id})
        with client.project.unchanged():
            response = client.create(body)
        assert expect_error(response, 404, "connection_not_found") == {}
        bodies.append({name: value for name, value in response.json().items() if name != "requestId"})
    assert bodies[0] == bodies[1] == bodies[2]


@both_transports
def test_create_bulk_sync__connection_types(client: Client) -> None:
    records, http = client.records_connection(), client.http_connection()
    for source, destination, code in (
        (http, http, "not_a_destination"),
        (records, records, "not_a_source"),
        (records, http, "not_a_source"),
    ):
        body = client.body(source_connection_id=source, destination_connection_id=destination)
        with client.project.unchanged():
            assert expect_error(client.create(body), 400, code) == {}


@both_transports
def test_create_bulk_sync__races_with_deletion_of_its_connection(client: Client) -> None:
    """Either the sync is created and its connections stay, or the connection is deleted and no sync is created."""
    for member in ("source_connection_id", "destination_connection_id") * 8:
        body = client.body()

        def create(body: dict[str, Any] = body) -> Any:
            return client.create(body)

        def delete(connection_id: str = body[member]) -> Any:
            return client.project.request("DELETE", f"/api/connections/{connection_id}", client.token)

        created, deleted = at_once(create, delete)
        if created.status_code == 200:
            expect_error(deleted, 422, "connection_in_use")
        else:
            expect_error(created, 404, "connection_not_found")
            assert deleted.status_code == 204


# Names in the destination


@both_transports
@pytest.mark.parametrize(
    "prefix",
    ["crm", "a.b", ".", "日本", "'; --", "x" * 100, " "],
    ids=["word", "with a dot", "dot", "not ASCII", "SQL", "100 letters", "space"],
)
def test_create_bulk_sync__output_name_prefix(client: Client, prefix: str) -> None:
    sync = created(client, destination_configuration={"schema": prefix})
    assert sync["schemas"] == schemas("flights", "weather", prefix=f"{prefix}.")


@both_transports
@pytest.mark.parametrize(
    ("resource", "prefix"),
    [("x" * 201, None), ("日" * 67, None), ("x" * 150, "y" * 50), ("flights", "🛫" * 50), ("", None)],
    ids=["too long", "too long in bytes", "too long with the prefix", "prefix too long", "empty"],
)
def test_create_bulk_sync__output_name_too_long(client: Client, resource: str, prefix: str | None) -> None:
    """Rejected at creation, because every execution would fail at its first batch."""
    source = client.http_connection(resource, "weather")
    body = client.body(source_connection_id=source, destination_configuration={"schema": prefix} if prefix else {})
    with client.project.unchanged():
        members = expect_error(client.create(body), 400, "invalid_output_name")
    assert members == {"schema": resource[:200]}
    accepted(client.create({**body, "schemas": ["weather"], "destination_configuration": {}}), BULK.one)


# Start with selected schemas


@both_transports
@pytest.mark.parametrize(
    ("requested", "expected", "is_partial"),
    [
        (None, ["weather", "flights"], False),
        (["flights"], ["flights"], True),
        (["flights", "weather"], ["weather", "flights"], True),
        (["flights", "flights"], ["flights"], True),
    ],
    ids=["null", "one", "all", "one twice"],
)
def test_start_bulk_sync__selected_schemas(
    client: Client, requested: Any, expected: list[str], is_partial: bool
) -> None:
    sync_id = client.made(schemas=["weather", "flights"], destination_configuration={"schema": "crm"})
    execution = accepted(client.start(sync_id, {"schemas": requested}), BULK.execution)
    names = [(schema["schema"], schema["output_name"]) for schema in execution["schemas"]]
    assert names == [(name, f"crm.{name}") for name in expected]
    assert execution["is_partial"] is is_partial
    assert {schema["status"] for schema in execution["schemas"]} == {"created"}


@both_transports
@pytest.mark.parametrize(
    ("requested", "unknown"),
    [(["Flights"], "Flights"), (["flights", "nope"], "nope"), (["weather"], "weather"), ([""], ""), (["日本"], "日本")],
    ids=str,
)
def test_start_bulk_sync__schema_not_in_the_sync(client: Client, requested: list[str], unknown: str) -> None:
    """A stream of the source that the sync does not include is unknown too."""
    sync_id = client.made(schemas=["flights"])
    with client.project.unchanged():
        members = expect_error(client.start(sync_id, {"schemas": requested}), 400, "unknown_schema")
    assert members == {"schema": unknown, "available": ["flights"]}


@one_transport
@pytest.mark.parametrize(
    ("requested", "field"),
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
    ids=lambda value: str(value)[:20],
)
def test_start_bulk_sync__invalid_schemas(client: Client, requested: Any, field: str) -> None:
    sync_id = client.made()
    with client.project.unchanged():
        assert expect_error(client.start(sync_id, {"schemas": requested}), 400, "invalid_field") == {"field": field}


@both_transports
def test_start_bulk_sync__ignores_streams_added_after_creation(client: Client) -> None:
    source = client.http_connection("flights")
    sync_id = client.made(source_connection_id=source)
    client.database.admin.execute(
        "update app.connections set config = %s where id = %s",
        (json.dumps({"resources": {"flights": {}, "weather": {}}}), source),
    )
    execution = accepted(client.start(sync_id), BULK.execution)
    assert [schema["schema"] for schema in execution["schemas"]] == ["flights"]
