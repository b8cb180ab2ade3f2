"""GET /api/connections: the agency's connections, last changed first, each returned once by a walk over all pages."""

from __future__ import annotations

import base64
import json
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from functions.connection.list_connections import Connections
from tests.support.connections import CONFIG, PATH, SECRET, UNKNOWN, created, ids, make_key
from tests.support.project import Project, both_transports, expect_error, one_transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


def page(project: Project, token: str | None, **query: Any) -> httpx.Response:
    return project.request("GET", PATH, token, params=query)


def accepted(response: httpx.Response) -> tuple[list[str], str]:
    """The page's ids, and the next page's token."""
    assert response.status_code == 200, response.text
    Connections.model_validate_json(response.content, strict=True, extra="forbid")
    body = response.json()
    return [connection["id"] for connection in body["data"]], body["pagination"]["next_page_token"]


def walk(project: Project, token: str, **query: Any) -> Iterator[list[str]]:
    """Yield each page's ids until the last page."""
    page_token: dict[str, str] = {}
    while True:
        found, following = accepted(page(project, token, **query, **page_token))
        yield found
        if not following:
            return
        page_token = {"page_token": following}


def connections(project: Project, agency_id: str | None, number: int, timestamps: int) -> list[str]:
    """Insert `number` connections, last changed at `timestamps` different times, and return their ids in list order."""
    rng = random.Random(number)
    times = [f"2026-11-22 13:47:26.{rng.randrange(10**6):06}+00" for _ in range(timestamps)]
    rows = project.database.all(
        "with secret as ("
        "  insert into app.secrets (agency_id, storage, value, used_at)"
        "  select %s, 'database', %s, now() from generate_series(1, %s) returning agency_id, id)"
        " insert into app.connections (agency_id, kind, name, config, secret_id, updated_at)"
        " select agency_id, 'http', 'n' || n, %s, id, (%s::timestamptz[])[1 + n %% %s]"
        " from (select *, row_number() over () as n from secret) as s returning id::text, updated_at",
        (agency_id, json.dumps(SECRET), number, json.dumps(CONFIG), times, timestamps),
    )
    return [row["id"] for row in sorted(rows, key=lambda row: (-row["updated_at"].timestamp(), row["id"]))]


def encoded(position: object) -> str:
    text = position if isinstance(position, str) else json.dumps(position)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@both_transports
def test_list_connections__empty(project: Project) -> None:
    assert page(project, project.token(project.database.member())).json() == {
        "data": [],
        "pagination": {"next_page_token": ""},
    }


@both_transports
def test_list_connections__entries_equal_get_and_hide_the_secret(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    expected = connections(project, user.agency_id, 3, 3)
    response = page(project, token)
    assert accepted(response) == (expected, "")
    assert SECRET["token"] not in response.text
    assert '"secret"' not in response.text
    for shown in response.json()["data"]:
        assert created(project.request("GET", f"{PATH}/{shown['id']}", token)) == shown


@both_transports
@pytest.mark.parametrize("timestamps", [1, 7, 120])
@pytest.mark.parametrize("limit", [None, 1, 7, 49, 50])
def test_list_connections__walk_returns_each_once(project: Project, timestamps: int, limit: int | None) -> None:
    user = project.database.member()
    number = 120 if limit != 1 else 12
    expected = connections(project, user.agency_id, number, min(timestamps, number))
    connections(project, project.database.agency(), 3, 1)
    pages = list(walk(project, make_key(project, user)[0], **({} if limit is None else {"limit": limit})))
    size = limit or 50
    assert [connection_id for found in pages for connection_id in found] == expected
    assert [len(found) for found in pages] == [size] * (number // size) + ([number % size] if number % size else [])


@both_transports
def test_list_connections__full_last_page_has_no_next_token(project: Project) -> None:
    user = project.database.member()
    expected = connections(project, user.agency_id, 100, 3)
    pages = list(walk(project, project.token(user)))
    assert pages == [expected[:50], expected[50:]]


@one_transport
@pytest.mark.parametrize("limit", [0, -1, 51, 1000, 2**31 - 1, -(2**31)])
def test_list_connections__limit_out_of_range_means_the_maximum(project: Project, limit: int) -> None:
    user = project.database.member()
    expected = connections(project, user.agency_id, 60, 60)
    found, following = accepted(page(project, project.token(user), limit=limit))
    assert found == expected[:50]
    assert following


@one_transport
@pytest.mark.parametrize(
    "limit", ["", "x", "1.5", "1e1", "0x10", " ", "NaN", "١", 2**31, -(2**31) - 1, 10**30, "9" * 5000]
)
def test_list_connections__invalid_limit(project: Project, limit: object) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        response = page(project, token, limit=limit)
    assert expect_error(response, 400, "invalid_field") == {"field": "limit"}
    assert len(response.content) < 1000


TAMPERED = {
    "word": "next",
    "id": UNKNOWN,
    "number": "1",
    "not base64": "!!!",
    "not JSON": encoded("no JSON"),
    "cut off": encoded([1795355246.287044, UNKNOWN])[:-9],
    "reversed": encoded([1795355246.287044, UNKNOWN])[::-1],
    "null": encoded("null"),
    "empty list": encoded([]),
    "object": encoded({"0": 1, "1": UNKNOWN}),
    "id missing": encoded([1795355246.287044]),
    "timestamp null": encoded([None, UNKNOWN]),
    "timestamp a word": encoded(["now", UNKNOWN]),
    "id a word": encoded([1795355246.287044, "x"]),
    "timestamp too large": encoded([1e300, UNKNOWN]),
    "timestamp out of range": encoded(f'[1e100000, "{UNKNOWN}"]'),
    "timestamp NaN": encoded(["NaN", UNKNOWN]),
    "NUL": encoded(["1\0", UNKNOWN]),
    "not UTF-8": base64.urlsafe_b64encode(b"\xff\xfe\xfd").decode(),
    "deeply nested": encoded("[" * 45_000),
    "long": "A" * 60_000,
    "SQL": "' or true --",
    "white space": " \t",
    "not ASCII": "日本語",
}


@both_transports
@pytest.mark.parametrize("name", TAMPERED)
def test_list_connections__invalid_page_token(project: Project, name: str) -> None:
    user = project.database.member()
    connections(project, user.agency_id, 1, 1)
    token = project.token(user)
    with project.unchanged():
        response = page(project, token, page_token=TAMPERED[name])
    assert expect_error(response, 400, "invalid_page_token") == {}


@both_transports
def test_list_connections__nul_in_page_token(project: Project) -> None:
    token = project.token(project.database.member())
    assert expect_error(page(project, token, page_token="a\0b"), 400, "invalid_field") == {"field": "page_token"}


@both_transports
def test_list_connections__page_token_of_another_agency(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    connections(project, owner.agency_id, 60, 60)
    mine = connections(project, stranger.agency_id, 60, 60)
    _, theirs = accepted(page(project, project.token(owner)))
    shown, _ = accepted(page(project, project.token(stranger), page_token=theirs))
    assert set(shown) <= set(mine)


@both_transports
def test_list_connections__excludes_deleted_and_tested_connections(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    expected = connections(project, user.agency_id, 4, 4)
    project.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (expected[1],))
    tested = {"type": "http", "configuration": CONFIG | {"secret": SECRET}}
    with project.database.session(user.claims) as session:
        assert session.call("test_connection", **tested)["check_id"]
    assert ids(project, token) == [expected[0], *expected[2:]]
    walked = [connection_id for page_ids in walk(project, token, limit=1) for connection_id in page_ids]
    assert walked == [expected[0], *expected[2:]]


@both_transports
def test_list_connections__walk_after_deletions(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    expected = connections(project, user.agency_id, 10, 2)
    first, following = accepted(page(project, token, limit=5))
    for connection_id in (first[-1], expected[7]):
        assert project.request("DELETE", f"{PATH}/{connection_id}", token).status_code == 204
    rest, end = accepted(page(project, token, limit=5, page_token=following))
    assert (rest, end) == ([*expected[5:7], *expected[8:]], "")


@both_transports
def test_list_connections__walk_during_deletions(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    to_delete = connections(project, user.agency_id, 50, 50)
    kept = connections(project, user.agency_id, 1, 1)
    done = threading.Event()

    def delete() -> None:
        with project.database.session(user.claims) as session:
            for connection_id in to_delete:
                session.call("delete_connection", connection_id=connection_id)
        done.set()

    thread = threading.Thread(target=delete)
    thread.start()
    walks: list[list[str]] = []
    while not done.is_set():
        walks.append([connection_id for page_ids in walk(project, token) for connection_id in page_ids])
    thread.join()
    assert all(set(kept) <= set(walked) for walked in walks)
    assert ids(project, token) == kept


@both_transports
def test_list_connections__rejected_callers(project: Project) -> None:
    user = project.database.member()
    without_agency = project.token(project.database.user(None))
    connections(project, project.database.agency(), 2, 1)
    with project.unchanged():
        assert ids(project, project.token(user)) == []
        expect_error(page(project, without_agency), 403, "no_agency")
        expect_error(page(project, None), 401, "missing_token")
