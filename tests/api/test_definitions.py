"""What the endpoints of bulk syncs, models and model syncs have in common: tenancy, validation, idempotency, lists and
deletion.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared.error_format import POLYTOMIC
from tests.support.project import both_transports, expect_error, one_transport
from tests.support.syncs import (
    BULK,
    FAMILIES,
    MODEL,
    MODEL_SYNC,
    UNKNOWN,
    Client,
    accepted,
    at_once,
    make_model,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.support.project import Project
    from tests.support.syncs import Family

each_family = pytest.mark.parametrize("family", FAMILIES, ids=str)
each_family_created_without_a_worker = pytest.mark.parametrize("family", [BULK, MODEL_SYNC], ids=str)


def client_of(project: Project, family: Family) -> Client:
    return Client(project, family, project.database.member())


def create_definition(client: Client, **members: Any) -> str:
    """Create a definition of any type without a worker and return its id."""
    if client.family is not MODEL:
        return client.made(**members)
    return make_model(client, client.http_connection("airlines"), "airlines", ["code", "name"], **members)


METHODS: list[tuple[Family, str, set[str]]] = [
    *((family, "", {"GET", "POST"}) for family in FAMILIES),
    *((family, "/{id}", {"GET", "DELETE"}) for family in FAMILIES),
    *((family, "/{id}/executions", {"GET", "POST"}) for family in (BULK, MODEL_SYNC)),
    *((family, "/{id}/executions/{id}", {"GET"}) for family in (BULK, MODEL_SYNC)),
    *((family, "/{id}/status", {"GET"}) for family in (BULK, MODEL_SYNC)),
]
OTHER_METHODS = [
    (family, path, methods, method)
    for family, path, methods in METHODS
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
    if method not in methods
]
ROUTES = [(family, path, method) for family, path, methods in METHODS for method in sorted(methods)]


def parametrize_routes(routes: list[tuple[Family, str, str]]) -> pytest.MarkDecorator:
    ids = [f"{method} {family}{path}" for family, path, method in routes]
    return pytest.mark.parametrize(("family", "path", "method"), routes, ids=ids)


each_route = parametrize_routes(ROUTES)
each_route_with_an_id = parametrize_routes([route for route in ROUTES if "{id}" in route[1]])


def body_of(client: Client, path: str, method: str) -> dict[str, Any]:
    """The options of a request that passes validation and reaches SQL."""
    if method != "POST":
        return {}
    return {"json": client.body() if path == "" else {}}


@both_transports
@each_route
def test_definition_endpoints__missing_token(project: Project, family: Family, path: str, method: str) -> None:
    with project.unchanged():
        response = project.request(method, family.path + path.replace("{id}", UNKNOWN), json={})
    assert expect_error(response, 401, "missing_token") == {}
    assert response.headers["x-polytomic-version"] == POLYTOMIC.versions[0]


@both_transports
@pytest.mark.parametrize(
    ("family", "path", "methods", "method"), OTHER_METHODS, ids=[f"{m} {f}{p}" for f, p, _, m in OTHER_METHODS]
)
def test_definition_endpoints__method_not_allowed(
    project: Project, family: Family, path: str, methods: set[str], method: str
) -> None:
    response = client_of(project, family).request(method, path.replace("{id}", UNKNOWN))
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {*methods, "OPTIONS"}
    if method != "HEAD":
        assert expect_error(response, 405, "method_not_allowed") == {}


@both_transports
@each_route
def test_definition_endpoints__user_without_agency(project: Project, family: Family, path: str, method: str) -> None:
    owner = client_of(project, family)
    sent = body_of(owner, path, method)
    without_agency = Client(project, family, project.database.user(None))
    sync_id = create_definition(owner)
    with project.unchanged():
        assert (
            expect_error(without_agency.request(method, path.replace("{id}", sync_id), **sent), 403, "no_agency") == {}
        )


NOT_IDS = ["1", "null", "%00", "x" * 300, UNKNOWN[:-1], UNKNOWN + "0", UNKNOWN + "'", "{id}", "%2e", "日本"]


@one_transport
@pytest.mark.parametrize("malformed", NOT_IDS, ids=lambda text: text[:9])
@each_route_with_an_id
def test_definition_endpoints__malformed_id(
    project: Project, family: Family, path: str, method: str, malformed: str
) -> None:
    client = client_of(project, family)
    with project.unchanged():
        response = client.request(method, path.replace("{id}", malformed), **({"json": {}} if method == "POST" else {}))
    assert expect_error(response, 404, "not_found") == {}


def without_request_id(response: httpx.Response) -> dict[str, Any]:
    """The status and the body without the request id."""
    return {"status": response.status_code} | {n: v for n, v in response.json().items() if n != "requestId"}


@both_transports
@each_route_with_an_id
def test_definition_endpoints__other_agency_equals_unknown(
    project: Project, family: Family, path: str, method: str
) -> None:
    """The response for a definition of another agency equals the response for an unknown id."""
    owner, stranger = client_of(project, family), client_of(project, family)
    sync_id = create_definition(owner)
    sent = body_of(owner, path, method)
    theirs = path.replace("{id}", sync_id, 1).replace("{id}", UNKNOWN)
    if "{id}/executions/{id}" in path:
        theirs = f"/{sync_id}/executions/{owner.started(sync_id)}"
    with project.unchanged():
        found = stranger.request(method, theirs, **sent)
        unknown = stranger.request(method, path.replace("{id}", UNKNOWN), **sent)
    assert expect_error(found, 404, f"{family}_not_found") == {}
    assert without_request_id(found) == without_request_id(unknown)


@both_transports
@each_route_with_an_id
def test_definition_endpoints__definition_of_another_type(
    project: Project, family: Family, path: str, method: str
) -> None:
    """All types are rows of one table."""
    client = client_of(project, family)
    for other in FAMILIES:
        if other is not family:
            other_id = create_definition(client.of(other))
            with project.unchanged():
                response = client.request(method, path.replace("{id}", other_id), **body_of(client, path, method))
            assert expect_error(response, 404, f"{family}_not_found") == {}


# Bodies


BAD_BODIES: dict[str, tuple[Any, int, str]] = {
    "no body": (b"", 400, "missing_field"),
    "empty object": (b"{}", 400, "missing_field"),
    "array": (b"[]", 400, "invalid_request"),
    "null": (b"null", 400, "invalid_request"),
    "string": (b'"x"', 400, "invalid_request"),
    "not JSON": (b"{name: 1}", 400, "invalid_json"),
    "cut off": (b'{"name": ', 400, "invalid_json"),
    "not UTF-8": (b'{"name": "\xff"}', 400, "invalid_json"),
    "lone surrogate": (b'{"name": "\\ud800"}', 400, "invalid_json"),
    "deeply nested, unclosed": (b'{"name": ' + b"[" * 100_000, 400, "invalid_json"),
    "deeply nested, closed": (b'{"name": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "invalid_json"),
    "too large": (b" " * (1024 * 1024 + 1), 413, "body_too_large"),
}


@both_transports
@each_family
@pytest.mark.parametrize("name", BAD_BODIES)
def test_create_definition__invalid_body(project: Project, family: Family, name: str) -> None:
    content, status, code = BAD_BODIES[name]
    client = client_of(project, family)
    with project.unchanged():
        response = client.request("POST", content=content)
    members = expect_error(response, status, code)
    assert members == ({"field": "name"} if code == "missing_field" else {})
    assert len(response.content) < 1000


NAMES = {"empty": "", "too long": "x" * 201, "NUL": "a\0b", "null": None, "number": 1, "list": ["x"]}


@both_transports
@each_family
@pytest.mark.parametrize("name", NAMES)
def test_create_definition__invalid_name(project: Project, family: Family, name: str) -> None:
    client = client_of(project, family)
    body = client.body(name=NAMES[name])
    with project.unchanged():
        assert expect_error(client.create(body), 400, "invalid_field") == {"field": "name"}


@both_transports
@each_family_created_without_a_worker
def test_create_definition__unusual_names(project: Project, family: Family) -> None:
    client = client_of(project, family)
    for name in ("'; drop table x; --", "日本語 🛫", "🛫" * 200, " ", "null", "\x01\x7f"):
        assert accepted(client.create(client.body(name=name)), family.one)["name"] == name


@both_transports
@each_family_created_without_a_worker
def test_create_definition__organization_id(project: Project, family: Family) -> None:
    """Only the caller's own organization may be named; another and an unknown one give the same error."""
    client = client_of(project, family)
    for organization_id in (project.database.agency(), UNKNOWN):
        body = client.body(organization_id=organization_id)
        with project.unchanged():
            assert expect_error(client.create(body), 403, "other_organization") == {}
    mine = client.body(organization_id=client.user.agency_id)
    assert accepted(client.create(mine), family.one)["organization_id"] == client.user.agency_id


@both_transports
@each_family_created_without_a_worker
def test_create_definition__names_all_unsupported_members(project: Project, family: Family) -> None:
    client = client_of(project, family)
    body = client.body(nonsense=1, policies=["p"], filters=[1], additional_schedules=[1], zz={"deep": [1]})
    body["日本"] = 1
    with project.unchanged():
        fields = expect_error(client.create(body), 422, "unsupported_field")["fields"]
    of_another_family = {"additional_schedules"} if family is MODEL_SYNC else {"filters"}
    assert {"nonsense", "policies", "zz", "日本", *of_another_family} <= set(fields)
    assert set(fields) <= set(body)
    assert len(fields) == len(set(fields)) == 6


@both_transports
@each_family
def test_create_definition__invalid_before_unsupported(project: Project, family: Family) -> None:
    client = client_of(project, family)
    body = client.body(nonsense=1, name=1)
    with project.unchanged():
        members = expect_error(client.create(body), 400, "invalid_field")
    assert members == {"field": "name"}


@both_transports
@each_family
def test_definition_endpoints__version_header(project: Project, family: Family) -> None:
    client = client_of(project, family)
    for requested in (*POLYTOMIC.versions, "1999-01-01", ""):
        served = requested if requested in POLYTOMIC.versions else POLYTOMIC.versions[0]
        for response in (
            client.request("GET", headers={"x-polytomic-version": requested}),
            client.request("GET", f"/{UNKNOWN}", headers={"x-polytomic-version": requested}),
            client.request("POST", content=b"{", headers={"x-polytomic-version": requested}),
        ):
            assert response.headers["x-polytomic-version"] == served


# Idempotency


@both_transports
@each_family_created_without_a_worker
def test_create_definition__repeated_with_an_idempotency_key(project: Project, family: Family) -> None:
    client = client_of(project, family)
    body, key = client.body(), {"idempotency-key": str(uuid.uuid4())}
    first = accepted(client.create(body, headers=key), family.one)
    with project.unchanged():
        assert accepted(client.create(body, headers=key), family.one) == first
        expect_error(client.create({**body, "name": "Another"}, headers=key), 422, "idempotency_key_reused")
        expect_error(client.create({**body, "active": False}, headers=key), 422, "idempotency_key_reused")
    assert walk(client) == [[first["id"]]]
    assert accepted(client.create(body), family.one)["id"] != first["id"]
    # The key is scoped to the caller.
    assert accepted(client.colleague().create(body, headers=key), family.one)["id"] != first["id"]


@both_transports
@each_family_created_without_a_worker
def test_create_definition__concurrent_calls_with_one_idempotency_key(project: Project, family: Family) -> None:
    client = client_of(project, family)
    body, key = client.body(), {"idempotency-key": "k"}
    responses = project.concurrently(lambda: client.create(body, headers=key))
    [sync_id] = {accepted(response, family.one)["id"] for response in responses if response.status_code == 200}
    for response in responses:
        if response.status_code != 200:
            expect_error(response, 409, "idempotency_key_in_use")
    assert walk(client) == [[sync_id]]


# Get and list


@both_transports
@each_family
def test_get_definition__equals_its_list_entry(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = create_definition(client, name="'x' 🛫")
    with project.unchanged():
        shown = accepted(client.request("GET", f"/{sync_id}"), family.one)
        [listed] = client.request("GET").json()["data"]
        assert accepted(client.request("GET", f"/{sync_id.upper()}"), family.one) == shown
    assert shown == listed
    assert (shown["id"], shown["name"], shown["organization_id"]) == (sync_id, "'x' 🛫", client.user.agency_id)
    actor = {"id": client.user.id, "type": "user", "name": f"user:{client.user.id}"}
    assert shown["created_by"] == shown["updated_by"] == actor
    assert shown["created_at"] == shown["updated_at"]
    assert dt.datetime.fromisoformat(shown["created_at"]).tzinfo is not None


@both_transports
@each_family
def test_list_definitions__own_agency_only(project: Project, family: Family) -> None:
    client, stranger = client_of(project, family), client_of(project, family)
    theirs = create_definition(stranger)
    assert walk(client) == [[]]
    mine = create_definition(client)
    assert walk(client) == walk(client.colleague()) == [[mine]]
    assert walk(stranger) == [[theirs]]


@both_transports
@each_family
def test_list_definitions__own_type_only(project: Project, family: Family) -> None:
    client = client_of(project, family)
    ids = {other: create_definition(client.of(other)) for other in FAMILIES}
    assert ids[family] in walk(client)[0]
    assert not {ids[other] for other in FAMILIES if other is not family} & set(walk(client)[0])


def insert_many(client: Client, count: int, **columns: Any) -> list[str]:
    """Insert definitions, some of them changed at the same instant, and return their ids in list order."""
    template = client.database.one("select * from app.definitions where id = %s", (create_definition(client),))
    client.database.admin.execute("delete from app.definitions where id = %s", (template["id"],))
    query = (
        "insert into app.definitions"
        " (agency_id, kind, name, source_id, destination_id, active, settings, created_by, updated_by, updated_at)"
        " select agency_id, kind, name, source_id, destination_id, active, settings, created_by, updated_by,"
        " timestamptz '2026-01-01 00:00:00.123456+00' + n / 3 * interval '1 microsecond'"
        " from jsonb_populate_record(null::app.definitions, %s) as t, generate_series(1, %s) as n"
        " returning id::text, updated_at"
    )
    filled = json.dumps({**template, **columns}, default=str)
    found = client.database.all(query, (filled, count))
    return [
        row["id"] for row in sorted(sorted(found, key=lambda r: r["id"]), key=lambda r: r["updated_at"], reverse=True)
    ]


@both_transports
@each_family
def test_list_definitions__page_size(project: Project, family: Family) -> None:
    client = client_of(project, family)
    ids = insert_many(client, 51)
    for limit in (None, 0, -1, 51, 101, 2**31 - 1, -(2**31), 50):
        query: dict[str, Any] = {} if limit is None else {"limit": limit}
        assert walk(client, **query) == [ids[:50], ids[50:]], limit
    assert walk(client, limit=17) == [ids[:17], ids[17:34], ids[34:]]


@both_transports
@each_family
@pytest.mark.parametrize("limit", [2**31, 2**63, -(2**31) - 1, 10**100], ids="{:.3g}".format)
def test_list_definitions__limit_out_of_range(project: Project, family: Family, limit: int) -> None:
    client = client_of(project, family)
    expect_error(client.request("GET", params={"limit": limit}), 400, "invalid_field")


BAD_QUERIES = [
    *((family, "limit", value) for family in FAMILIES for value in ("", "x", "1.5", "null", "1e1", "0x5", "9" * 5000)),
    *((family, "active", value) for family in (BULK, MODEL_SYNC) for value in ("", "x", "null", "2")),
    *((family, "page_token", "\0") for family in FAMILIES),
]


@one_transport
@pytest.mark.parametrize(
    ("family", "name", "value"), BAD_QUERIES, ids=[f"{f} {n} {v[:9]!r}" for f, n, v in BAD_QUERIES]
)
def test_list_definitions__invalid_query(project: Project, family: Family, name: str, value: str) -> None:
    client = client_of(project, family)
    with project.unchanged():
        response = client.request("GET", params={name: value})
    assert expect_error(response, 400, "invalid_field") == {"field": name}
    assert len(response.content) < 1000


BAD_TOKENS = {
    "letter": "x",
    "id": UNKNOWN,
    "not base64": "***",
    "cut off": "WzE3OTU",
    "JSON null": "bnVsbA",
    "JSON object": "e30",
    "id missing": "WzFd",  # [1]
    "timestamp not a number": "WyJ4IiwieCJd",  # ["x","x"]
    "id not a UUID": "WzEsIngiXQ",  # [1,"x"]
    "timestamp NaN": "WyJOYU4iLCIwMDAwMDAwMC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDAiXQ",
    "far future": "WzFlMzAwLCIwMDAwMDAwMC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDAiXQ",
    "timestamp out of range": "WzFlMjAwMDAwLCJ4Il0",
    "not UTF-8": "_w",
    "NUL": "Ilx1MDAwMCI",
    "deeply nested": "W1tb" * 10_000,
    "white space": "  ",
}


@both_transports
@each_family
@pytest.mark.parametrize("name", BAD_TOKENS)
def test_list_definitions__invalid_page_token(project: Project, family: Family, name: str) -> None:
    client = client_of(project, family)
    with project.unchanged():
        response = client.request("GET", params={"page_token": BAD_TOKENS[name]})
    assert expect_error(response, 400, "invalid_page_token") == {}


@both_transports
@each_family
def test_list_definitions__page_token_of_another_agency(project: Project, family: Family) -> None:
    client, stranger = client_of(project, family), client_of(project, family)
    insert_many(client, 3)
    token = client.request("GET", params={"limit": 1}).json()["pagination"]["next_page_token"]
    mine = insert_many(stranger, 3)
    shown = stranger.request("GET", params={"page_token": token, "limit": 50}).json()["data"]
    assert {definition["id"] for definition in shown} <= set(mine)


@both_transports
@each_family
@pytest.mark.parametrize("size", [1, 2, 5])
def test_list_definitions__walk_during_creations_and_deletions(project: Project, family: Family, size: int) -> None:
    """After each page a definition is created and one that was already shown is deleted."""
    client = client_of(project, family)
    existing = insert_many(client, 11)
    walked: list[str] = []
    query: dict[str, Any] = {"limit": size}
    while query.get("page_token") != "":
        page = client.request("GET", params=query).json()
        walked += [definition["id"] for definition in page["data"]]
        query["page_token"] = page["pagination"]["next_page_token"]
        create_definition(client)
        deleted = client.request("DELETE", f"/{walked[-1]}")  # the page token points to it
        assert deleted.status_code == 204, deleted.text
    assert walked == existing


# Delete


@both_transports
@each_family
def test_delete_definition__removes_it(project: Project, family: Family) -> None:
    client = client_of(project, family)
    kept, deleted = create_definition(client), create_definition(client)
    response = client.request("DELETE", f"/{deleted}")
    assert (response.status_code, response.content) == (204, b"")
    assert walk(client) == [[kept]]
    with project.unchanged():
        again = client.request("DELETE", f"/{deleted}")
        expect_error(client.request("GET", f"/{deleted}"), 404, f"{family}_not_found")
        if family is not MODEL:
            expect_error(client.start(deleted), 404, f"{family}_not_found")
            expect_error(client.request("GET", f"/{deleted}/status"), 404, f"{family}_not_found")
            expect_error(client.request("GET", f"/{deleted}/executions"), 404, f"{family}_not_found")
        unknown = client.request("DELETE", f"/{UNKNOWN}")
    assert expect_error(again, 404, f"{family}_not_found") == {}
    assert without_request_id(again) == without_request_id(unknown)
    accepted(client.request("GET", f"/{kept}"), family.one)


@both_transports
@each_family
def test_delete_definition__concurrent_calls_delete_once(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = create_definition(client)
    responses = project.concurrently(lambda: client.request("DELETE", f"/{sync_id}"))
    assert sorted(response.status_code for response in responses) == [204] + [404] * (len(responses) - 1)


@both_transports
@each_family
def test_delete_definition__body_is_ignored(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = create_definition(client)
    assert client.request("DELETE", f"/{sync_id}", content=b"[" * 10).status_code == 204


@both_transports
def test_delete_model__in_use_by_a_model_sync(project: Project) -> None:
    client = client_of(project, MODEL_SYNC)
    body = client.body()
    model_id = body["fields"][0]["source"]["model_id"]
    syncs = [client.made(**{**body, "name": name}) for name in ("B", "A")]
    models = client.of(MODEL)
    with project.unchanged():
        members = expect_error(models.request("DELETE", f"/{model_id}"), 422, "model_in_use")
    assert members == {
        "used_by": [
            {"type": "model_sync", "id": sync_id, "name": name} for sync_id, name in zip(syncs[::-1], "AB", strict=True)
        ]
    }
    for sync_id in syncs:
        assert client.request("DELETE", f"/{sync_id}").status_code == 204
    assert models.request("DELETE", f"/{model_id}").status_code == 204


@both_transports
def test_delete_model__races_with_creation_of_a_model_sync(project: Project) -> None:
    """Either the sync is created and its model stays, or the model is deleted and no sync is created."""
    client = client_of(project, MODEL_SYNC)
    seen = set()
    for _ in range(20):
        body = client.body()
        model_id = body["fields"][0]["source"]["model_id"]
        create: Callable[[], Any] = lambda: client.create(body)  # noqa: B023, E731 (called here)
        delete: Callable[[], Any] = lambda: client.of(MODEL).request("DELETE", f"/{model_id}")  # noqa: B023, E731
        created, deleted = at_once(create, delete)
        seen.add((created.status_code, deleted.status_code))
        if created.status_code == 200:
            expect_error(deleted, 422, "model_in_use")
        else:
            expect_error(created, 404, "model_not_found")
            assert deleted.status_code == 204
    assert seen <= {(200, 422), (404, 204)}
