"""What bulk syncs, models and model syncs have in common, through both doors: whose they are, how they are listed and
deleted, what is refused before anybody looks at it, and that an Idempotency-Key makes one of many.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared.error_format import POLYTOMIC
from tests.support.project import BOTH_TRANSPORTS, refusal
from tests.support.syncs import (
    BULK,
    DIRECT,
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

through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
through_one_door = pytest.mark.parametrize("project", DIRECT, indirect=True, ids=str)
of_each_family = pytest.mark.parametrize("family", FAMILIES, ids=str)
CREATED_WITHOUT_A_WORKER = pytest.mark.parametrize("family", [BULK, MODEL_SYNC], ids=str)


def client_of(project: Project, family: Family) -> Client:
    return Client(project, family, project.database.member())


def made(client: Client, **members: Any) -> str:
    """One of any family, without a worker."""
    if client.family is not MODEL:
        return client.made(**members)
    return make_model(client, client.http_connection("airlines"), "airlines", ["code", "name"], **members)


# The methods of each path, and what its requests may be without.
TRANSITIONS_TO: list[tuple[Family, str, set[str]]] = [
    *((family, "", {"GET", "POST"}) for family in FAMILIES),
    *((family, "/{id}", {"GET", "DELETE"}) for family in FAMILIES),
    *((family, "/{id}/executions", {"GET", "POST"}) for family in (BULK, MODEL_SYNC)),
    *((family, "/{id}/executions/{id}", {"GET"}) for family in (BULK, MODEL_SYNC)),
    *((family, "/{id}/status", {"GET"}) for family in (BULK, MODEL_SYNC)),
]
OTHER_METHODS = [
    (family, path, methods, method)
    for family, path, methods in TRANSITIONS_TO
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
    if method not in methods
]
ROUTES = [(family, path, method) for family, path, methods in TRANSITIONS_TO for method in sorted(methods)]


def routes(chosen: list[tuple[Family, str, str]]) -> pytest.MarkDecorator:
    ids = [f"{method} {family}{path}" for family, path, method in chosen]
    return pytest.mark.parametrize(("family", "path", "method"), chosen, ids=ids)


of_each_route = routes(ROUTES)
of_each_route_with_an_id = routes([route for route in ROUTES if "{id}" in route[1]])


def body_of(client: Client, path: str, method: str) -> dict[str, Any]:
    """What this route needs to come as far as its SQL."""
    if method != "POST":
        return {}
    return {"json": client.body() if path == "" else {}}


@through_both_doors
@of_each_route
def test_nobody_without_a_token(project: Project, family: Family, path: str, method: str) -> None:
    with project.unchanged():
        response = project.request(method, family.path + path.replace("{id}", UNKNOWN), json={})
    assert refusal(response, 401, "missing_token") == {}
    assert response.headers["x-polytomic-version"] == POLYTOMIC.versions[0]


@through_both_doors
@pytest.mark.parametrize(
    ("family", "path", "methods", "method"), OTHER_METHODS, ids=[f"{m} {f}{p}" for f, p, _, m in OTHER_METHODS]
)
def test_another_method_is_told_which_there_are(
    project: Project, family: Family, path: str, methods: set[str], method: str
) -> None:
    response = client_of(project, family).ask(method, path.replace("{id}", UNKNOWN))
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {*methods, "OPTIONS"}
    if method != "HEAD":
        assert refusal(response, 405, "method_not_allowed") == {}


@through_both_doors
@of_each_route
def test_a_user_without_agency(project: Project, family: Family, path: str, method: str) -> None:
    of_an_agency = client_of(project, family)
    sent = body_of(of_an_agency, path, method)
    nobody = Client(project, family, project.database.user(None))
    sync_id = made(of_an_agency)
    with project.unchanged():
        assert refusal(nobody.ask(method, path.replace("{id}", sync_id), **sent), 403, "no_agency") == {}


NOT_IDS = ["1", "null", "%00", "x" * 300, UNKNOWN[:-1], UNKNOWN + "0", UNKNOWN + "'", "{id}", "%2e", "日本"]


@through_one_door
@pytest.mark.parametrize("malformed", NOT_IDS, ids=lambda one: one[:9])
@of_each_route_with_an_id
def test_a_malformed_id_is_a_path_to_nothing(
    project: Project, family: Family, path: str, method: str, malformed: str
) -> None:
    client = client_of(project, family)
    with project.unchanged():
        response = client.ask(method, path.replace("{id}", malformed), **({"json": {}} if method == "POST" else {}))
    assert refusal(response, 404, "not_found") == {}


def said(response: httpx.Response) -> dict[str, Any]:
    """An answer but for what is another in each."""
    return {"status": response.status_code} | {n: v for n, v in response.json().items() if n != "requestId"}


@through_both_doors
@of_each_route_with_an_id
def test_another_agency_learns_nothing(project: Project, family: Family, path: str, method: str) -> None:
    """Not even that it is there: what is another's answers as what is nobody's."""
    owner, stranger = client_of(project, family), client_of(project, family)
    sync_id = made(owner)
    sent = body_of(owner, path, method)
    theirs = path.replace("{id}", sync_id, 1).replace("{id}", UNKNOWN)
    if "{id}/executions/{id}" in path:
        theirs = f"/{sync_id}/executions/{owner.started(sync_id)}"
    with project.unchanged():
        found = stranger.ask(method, theirs, **sent)
        unknown = stranger.ask(method, path.replace("{id}", UNKNOWN), **sent)
    assert refusal(found, 404, f"{family}_not_found") == {}
    assert said(found) == said(unknown)


@through_both_doors
@of_each_route_with_an_id
def test_one_of_another_kind_is_none(project: Project, family: Family, path: str, method: str) -> None:
    """All three are rows of one table."""
    client = client_of(project, family)
    for other in FAMILIES:
        if other is not family:
            other_id = made(client.of(other))
            with project.unchanged():
                response = client.ask(method, path.replace("{id}", other_id), **body_of(client, path, method))
            assert refusal(response, 404, f"{family}_not_found") == {}


# Bodies


BAD_BODIES: dict[str, tuple[Any, int, str]] = {
    "no body": (b"", 400, "missing_field"),
    "empty": (b"{}", 400, "missing_field"),
    "an array": (b"[]", 400, "invalid_request"),
    "null": (b"null", 400, "invalid_request"),
    "a text": (b'"x"', 400, "invalid_request"),
    "not JSON": (b"{name: 1}", 400, "invalid_json"),
    "half": (b'{"name": ', 400, "invalid_json"),
    "not UTF-8": (b'{"name": "\xff"}', 400, "invalid_json"),
    "half a pair": (b'{"name": "\\ud800"}', 400, "invalid_json"),
    "deep": (b'{"name": ' + b"[" * 100_000, 400, "invalid_json"),
    "deep and closed": (b'{"name": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "invalid_json"),
    "too large": (b" " * (1024 * 1024 + 1), 413, "body_too_large"),
}


@through_both_doors
@of_each_family
@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_creates_nothing(project: Project, family: Family, name: str) -> None:
    content, status, code = BAD_BODIES[name]
    client = client_of(project, family)
    with project.unchanged():
        response = client.ask("POST", content=content)
    members = refusal(response, status, code)
    assert members == ({"field": "name"} if code == "missing_field" else {})
    assert len(response.content) < 1000


NAMES = {"empty": "", "too long": "x" * 201, "a NUL": "a\0b", "null": None, "a number": 1, "a list": ["x"]}


@through_both_doors
@of_each_family
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_none(project: Project, family: Family, name: str) -> None:
    client = client_of(project, family)
    body = client.body(name=NAMES[name])
    with project.unchanged():
        assert refusal(client.create(body), 400, "invalid_field") == {"field": "name"}


@through_both_doors
@CREATED_WITHOUT_A_WORKER
def test_a_name_may_be_anything_else(project: Project, family: Family) -> None:
    client = client_of(project, family)
    for name in ("'; drop table x; --", "日本語 🛫", "🛫" * 200, " ", "null", "\x01\x7f"):
        assert accepted(client.create(client.body(name=name)), family.one)["name"] == name


@through_both_doors
@CREATED_WITHOUT_A_WORKER
def test_another_organization_is_refused(project: Project, family: Family) -> None:
    """Also one that there is not."""
    client = client_of(project, family)
    for organization_id in (project.database.agency(), UNKNOWN):
        body = client.body(organization_id=organization_id)
        with project.unchanged():
            assert refusal(client.create(body), 403, "other_organization") == {}
    mine = client.body(organization_id=client.user.agency_id)
    assert accepted(client.create(mine), family.one)["organization_id"] == client.user.agency_id


@through_both_doors
@CREATED_WITHOUT_A_WORKER
def test_all_members_that_do_not_work_are_named_at_once(project: Project, family: Family) -> None:
    client = client_of(project, family)
    body = client.body(nonsense=1, policies=["p"], filters=[1], additional_schedules=[1], zz={"deep": [1]})
    body["日本"] = 1
    with project.unchanged():
        named = refusal(client.create(body), 422, "unsupported_field")
    nowhere = {"additional_schedules"} if family is MODEL_SYNC else {"filters"}
    assert {"nonsense", "policies", "zz", "日本", *nowhere} <= set(named["fields"])
    assert set(named["fields"]) <= set(body)
    assert len(named["fields"]) == len(set(named["fields"])) == 6


@through_both_doors
@of_each_family
def test_what_is_wrong_goes_before_what_does_not_work(project: Project, family: Family) -> None:
    client = client_of(project, family)
    body = client.body(nonsense=1, name=1)
    with project.unchanged():
        members = refusal(client.create(body), 400, "invalid_field")
    assert members == {"field": "name"}


@through_both_doors
@of_each_family
def test_the_version_that_is_asked_for_is_the_one_that_answers(project: Project, family: Family) -> None:
    client = client_of(project, family)
    for asked in (*POLYTOMIC.versions, "1999-01-01", ""):
        served = asked if asked in POLYTOMIC.versions else POLYTOMIC.versions[0]
        for response in (
            client.ask("GET", headers={"x-polytomic-version": asked}),
            client.ask("GET", f"/{UNKNOWN}", headers={"x-polytomic-version": asked}),
            client.ask("POST", content=b"{", headers={"x-polytomic-version": asked}),
        ):
            assert response.headers["x-polytomic-version"] == served


# Repeating


@through_both_doors
@CREATED_WITHOUT_A_WORKER
def test_an_idempotency_key_makes_one_of_many(project: Project, family: Family) -> None:
    client = client_of(project, family)
    body, key = client.body(), {"idempotency-key": str(uuid.uuid4())}
    first = accepted(client.create(body, headers=key), family.one)
    with project.unchanged():
        assert accepted(client.create(body, headers=key), family.one) == first
        refusal(client.create({**body, "name": "Another"}, headers=key), 422, "idempotency_key_reused")
        refusal(client.create({**body, "active": False}, headers=key), 422, "idempotency_key_reused")
    assert walk(client) == [[first["id"]]]
    assert accepted(client.create(body), family.one)["id"] != first["id"]
    # The key is this caller's alone.
    assert accepted(client.colleague().create(body, headers=key), family.one)["id"] != first["id"]


@through_both_doors
@CREATED_WITHOUT_A_WORKER
def test_many_creations_at_once_with_one_key(project: Project, family: Family) -> None:
    client = client_of(project, family)
    body, key = client.body(), {"idempotency-key": "k"}
    responses = project.at_once(lambda: client.create(body, headers=key))
    [sync_id] = {accepted(one, family.one)["id"] for one in responses if one.status_code == 200}
    for response in responses:
        if response.status_code != 200:
            refusal(response, 409, "idempotency_key_in_use")
    assert walk(client) == [[sync_id]]


# Reading


@through_both_doors
@of_each_family
def test_get_shows_what_the_list_shows(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = made(client, name="'x' 🛫")
    with project.unchanged():
        one = accepted(client.ask("GET", f"/{sync_id}"), family.one)
        [listed] = client.ask("GET").json()["data"]
        assert accepted(client.ask("GET", f"/{sync_id.upper()}"), family.one) == one
    assert one == listed
    assert (one["id"], one["name"], one["organization_id"]) == (sync_id, "'x' 🛫", client.user.agency_id)
    who = {"id": client.user.id, "type": "user", "name": f"user:{client.user.id}"}
    assert one["created_by"] == one["updated_by"] == who
    assert one["created_at"] == one["updated_at"]
    assert dt.datetime.fromisoformat(one["created_at"]).tzinfo is not None


@through_both_doors
@of_each_family
def test_a_list_shows_ones_own_agencys(project: Project, family: Family) -> None:
    client, stranger = client_of(project, family), client_of(project, family)
    nobodys = made(stranger)
    assert walk(client) == [[]]
    mine = made(client)
    assert walk(client) == walk(client.colleague()) == [[mine]]
    assert walk(stranger) == [[nobodys]]


@through_both_doors
@of_each_family
def test_a_list_is_of_its_kind(project: Project, family: Family) -> None:
    client = client_of(project, family)
    ids = {other: made(client.of(other)) for other in FAMILIES}
    assert ids[family] in walk(client)[0]
    assert not {ids[other] for other in FAMILIES if other is not family} & set(walk(client)[0])


def many(client: Client, count: int, **columns: Any) -> list[str]:
    """Of this kind, in the order of a list: some were changed at the same instant."""
    template = client.database.one("select * from app.definitions where id = %s", (made(client),))
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


@through_both_doors
@of_each_family
def test_a_page_is_fifty_unless_less_is_asked_for(project: Project, family: Family) -> None:
    client = client_of(project, family)
    ids = many(client, 51)
    for limit in (None, 0, -1, 51, 101, 2**31 - 1, -(2**31), 50):
        query: dict[str, Any] = {} if limit is None else {"limit": limit}
        assert walk(client, **query) == [ids[:50], ids[50:]], limit
    assert walk(client, limit=17) == [ids[:17], ids[17:34], ids[34:]]


@through_both_doors
@of_each_family
@pytest.mark.parametrize("limit", [2**31, 2**63, -(2**31) - 1, 10**100], ids="{:.3g}".format)
def test_a_limit_beyond_all_bounds(project: Project, family: Family, limit: int) -> None:
    client = client_of(project, family)
    refusal(client.ask("GET", params={"limit": limit}), 400, "invalid_field")


BAD_QUERIES = [
    *((family, "limit", value) for family in FAMILIES for value in ("", "x", "1.5", "null", "1e1", "0x5", "9" * 5000)),
    *((family, "active", value) for family in (BULK, MODEL_SYNC) for value in ("", "x", "null", "2")),
    *((family, "page_token", "\0") for family in FAMILIES),
]


@through_one_door
@pytest.mark.parametrize(
    ("family", "name", "value"), BAD_QUERIES, ids=[f"{f} {n} {v[:9]!r}" for f, n, v in BAD_QUERIES]
)
def test_a_query_that_is_none(project: Project, family: Family, name: str, value: str) -> None:
    client = client_of(project, family)
    with project.unchanged():
        response = client.ask("GET", params={name: value})
    assert refusal(response, 400, "invalid_field") == {"field": name}
    assert len(response.content) < 1000


BAD_TOKENS = {
    "a word": "x",
    "an id": UNKNOWN,
    "not base64": "***",
    "a cut one": "WzE3OTU",
    "JSON null": "bnVsbA",
    "an object": "e30",
    "half": "WzFd",  # [1]
    "no number": "WyJ4IiwieCJd",  # ["x","x"]
    "no id": "WzEsIngiXQ",  # [1,"x"]
    "not a number": "WyJOYU4iLCIwMDAwMDAwMC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDAiXQ",
    "far future": "WzFlMzAwLCIwMDAwMDAwMC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMDAiXQ",
    "beyond numbers": "WzFlMjAwMDAwLCJ4Il0",
    "not UTF-8": "_w",
    "a NUL": "Ilx1MDAwMCI",
    "deep": "W1tb" * 10_000,
    "white space": "  ",
}


@through_both_doors
@of_each_family
@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_page_token_that_no_list_has_given(project: Project, family: Family, name: str) -> None:
    client = client_of(project, family)
    with project.unchanged():
        response = client.ask("GET", params={"page_token": BAD_TOKENS[name]})
    assert refusal(response, 400, "invalid_page_token") == {}


@through_both_doors
@of_each_family
def test_another_agencys_page_token_is_a_place_and_shows_nothing(project: Project, family: Family) -> None:
    client, stranger = client_of(project, family), client_of(project, family)
    many(client, 3)
    token = client.ask("GET", params={"limit": 1}).json()["pagination"]["next_page_token"]
    mine = many(stranger, 3)
    shown = stranger.ask("GET", params={"page_token": token, "limit": 50}).json()["data"]
    assert {one["id"] for one in shown} <= set(mine)


@through_both_doors
@of_each_family
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_walk_neither_skips_nor_repeats_whatever_comes_and_goes(project: Project, family: Family, size: int) -> None:
    """Each page, another is made and one that was already shown is deleted."""
    client = client_of(project, family)
    there = many(client, 11)
    walked: list[str] = []
    query: dict[str, Any] = {"limit": size}
    while query.get("page_token") != "":
        page = client.ask("GET", params=query).json()
        walked += [one["id"] for one in page["data"]]
        query["page_token"] = page["pagination"]["next_page_token"]
        made(client)
        gone = client.ask("DELETE", f"/{walked[-1]}")  # also the one that the token names
        assert gone.status_code == 204, gone.text
    assert walked == there


# Deleting


@through_both_doors
@of_each_family
def test_what_is_deleted_is_gone(project: Project, family: Family) -> None:
    client = client_of(project, family)
    kept, gone = made(client), made(client)
    response = client.ask("DELETE", f"/{gone}")
    assert (response.status_code, response.content) == (204, b"")
    assert walk(client) == [[kept]]
    with project.unchanged():
        again = client.ask("DELETE", f"/{gone}")
        refusal(client.ask("GET", f"/{gone}"), 404, f"{family}_not_found")
        if family is not MODEL:
            refusal(client.start(gone), 404, f"{family}_not_found")
            refusal(client.ask("GET", f"/{gone}/status"), 404, f"{family}_not_found")
            refusal(client.ask("GET", f"/{gone}/executions"), 404, f"{family}_not_found")
        unknown = client.ask("DELETE", f"/{UNKNOWN}")
    assert refusal(again, 404, f"{family}_not_found") == {}
    assert said(again) == said(unknown)
    accepted(client.ask("GET", f"/{kept}"), family.one)


@through_both_doors
@of_each_family
def test_of_many_deletions_at_once_one_deletes(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = made(client)
    responses = project.at_once(lambda: client.ask("DELETE", f"/{sync_id}"))
    assert sorted(response.status_code for response in responses) == [204] + [404] * (len(responses) - 1)


@through_both_doors
@of_each_family
def test_a_body_of_a_delete_is_not_looked_at(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = made(client)
    assert client.ask("DELETE", f"/{sync_id}", content=b"[" * 10).status_code == 204


@through_both_doors
def test_a_model_that_a_sync_reads_cannot_be_deleted(project: Project) -> None:
    client = client_of(project, MODEL_SYNC)
    body = client.body()
    model_id = body["fields"][0]["source"]["model_id"]
    syncs = [client.made(**{**body, "name": name}) for name in ("B", "A")]
    models = client.of(MODEL)
    with project.unchanged():
        members = refusal(models.ask("DELETE", f"/{model_id}"), 422, "model_in_use")
    assert members == {
        "used_by": [
            {"type": "model_sync", "id": sync_id, "name": name} for sync_id, name in zip(syncs[::-1], "AB", strict=True)
        ]
    }
    for sync_id in syncs:
        assert client.ask("DELETE", f"/{sync_id}").status_code == 204
    assert models.ask("DELETE", f"/{model_id}").status_code == 204


@through_both_doors
def test_a_model_is_not_deleted_under_a_sync_that_is_being_created(project: Project) -> None:
    """Whoever is first: a sync has its model, and a model that is gone has no sync."""
    client = client_of(project, MODEL_SYNC)
    seen = set()
    for _ in range(20):
        body = client.body()
        model_id = body["fields"][0]["source"]["model_id"]
        create: Callable[[], Any] = lambda: client.create(body)  # noqa: B023, E731 (called here)
        delete: Callable[[], Any] = lambda: client.of(MODEL).ask("DELETE", f"/{model_id}")  # noqa: B023, E731
        created, deleted = at_once(create, delete)
        seen.add((created.status_code, deleted.status_code))
        if created.status_code == 200:
            refusal(deleted, 422, "model_in_use")
        else:
            refusal(created, 404, "model_not_found")
            assert deleted.status_code == 204
    assert seen <= {(200, 422), (404, 204)}
