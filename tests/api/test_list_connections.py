"""GET /api/connections through both doors: one's own, the last changed first, and no walk skips or repeats."""

from __future__ import annotations

import base64
import json
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from functions.connection.list_connections import Connections
from tests.support.connections import CONFIG, PATH, SECRET, UNKNOWN, created, ids, make_key
from tests.support.project import BOTH_TRANSPORTS, Project, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)


def page(project: Project, token: str | None, **query: Any) -> httpx.Response:
    return project.request("GET", PATH, token, params=query)


def accepted(response: httpx.Response) -> tuple[list[str], str]:
    """The page's ids, and the next page's token."""
    assert response.status_code == 200, response.text
    Connections.model_validate_json(response.content, strict=True, extra="forbid")
    body = response.json()
    return [connection["id"] for connection in body["data"]], body["pagination"]["next_page_token"]


def walk(project: Project, token: str, **query: Any) -> Iterator[list[str]]:
    """Page by page, until the last."""
    page_token: dict[str, str] = {}
    while True:
        found, following = accepted(page(project, token, **query, **page_token))
        yield found
        if not following:
            return
        page_token = {"page_token": following}


def connections(project: Project, agency_id: str | None, number: int, moments: int) -> list[str]:
    """So many connections, last changed at so many moments, as a list shows them."""
    chance = random.Random(number)
    at = [f"2026-11-22 13:47:26.{chance.randrange(10**6):06}+00" for _ in range(moments)]
    rows = project.database.all(
        "with secret as ("
        "  insert into app.secrets (agency_id, storage, value, used_at)"
        "  select %s, 'database', %s, now() from generate_series(1, %s) returning agency_id, id)"
        " insert into app.connections (agency_id, kind, name, config, secret_id, updated_at)"
        " select agency_id, 'http', 'n' || n, %s, id, (%s::timestamptz[])[1 + n %% %s]"
        " from (select *, row_number() over () as n from secret) as s returning id::text, updated_at",
        (agency_id, json.dumps(SECRET), number, json.dumps(CONFIG), at, moments),
    )
    return [row["id"] for row in sorted(rows, key=lambda row: (-row["updated_at"].timestamp(), row["id"]))]


def encoded(position: object) -> str:
    text = position if isinstance(position, str) else json.dumps(position)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def test_an_empty_list(project: Project) -> None:
    assert page(project, project.token(project.database.member())).json() == {
        "data": [],
        "pagination": {"next_page_token": ""},
    }


def test_each_as_it_is_got_and_without_its_secret(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    expected = connections(project, user.agency_id, 3, 3)
    response = page(project, token)
    assert accepted(response) == (expected, "")
    assert SECRET["token"] not in response.text
    assert '"secret"' not in response.text
    for shown in response.json()["data"]:
        assert created(project.request("GET", f"{PATH}/{shown['id']}", token)) == shown


@through_both_doors
@pytest.mark.parametrize("moments", [1, 7, 120])
@pytest.mark.parametrize("limit", [None, 1, 7, 49, 50])
def test_a_walk_neither_skips_nor_repeats(project: Project, moments: int, limit: int | None) -> None:
    user = project.database.member()
    number = 120 if limit != 1 else 12
    expected = connections(project, user.agency_id, number, min(moments, number))
    connections(project, project.database.agency(), 3, 1)
    pages = list(walk(project, make_key(project, user)[0], **({} if limit is None else {"limit": limit})))
    size = limit or 50
    assert [connection_id for found in pages for connection_id in found] == expected
    assert [len(found) for found in pages] == [size] * (number // size) + ([number % size] if number % size else [])


def test_full_pages_end_without_an_empty_one(project: Project) -> None:
    user = project.database.member()
    expected = connections(project, user.agency_id, 100, 3)
    pages = list(walk(project, project.token(user)))
    assert pages == [expected[:50], expected[50:]]


@through_both_doors
@pytest.mark.parametrize("limit", [0, -1, 51, 1000, 2**31 - 1, -(2**31)])
def test_a_limit_that_makes_no_sense_is_the_greatest(project: Project, limit: int) -> None:
    user = project.database.member()
    expected = connections(project, user.agency_id, 60, 60)
    found, following = accepted(page(project, project.token(user), limit=limit))
    assert found == expected[:50]
    assert following


@through_both_doors
@pytest.mark.parametrize(
    "limit", ["", "x", "1.5", "1e1", "0x10", " ", "NaN", "١", 2**31, -(2**31) - 1, 10**30, "9" * 5000]
)
def test_a_limit_that_is_none(project: Project, limit: object) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        response = page(project, token, limit=limit)
    assert refusal(response, 400, "invalid_field") == {"field": "limit"}
    assert len(response.content) < 1000


TAMPERED = {
    "a word": "next",
    "an id": UNKNOWN,
    "a number": "1",
    "not base64": "!!!",
    "no JSON": encoded("no JSON"),
    "cut off": encoded([1795355246.287044, UNKNOWN])[:-9],
    "turned around": encoded([1795355246.287044, UNKNOWN])[::-1],
    "null": encoded("null"),
    "an empty list": encoded([]),
    "an object": encoded({"0": 1, "1": UNKNOWN}),
    "no id": encoded([1795355246.287044]),
    "no moment": encoded([None, UNKNOWN]),
    "a word as moment": encoded(["now", UNKNOWN]),
    "a word as id": encoded([1795355246.287044, "x"]),
    "too late": encoded([1e300, UNKNOWN]),
    "much too late": encoded(f'[1e100000, "{UNKNOWN}"]'),
    "no number": encoded(["NaN", UNKNOWN]),
    "a NUL": encoded(["1\0", UNKNOWN]),
    "not UTF-8": base64.urlsafe_b64encode(b"\xff\xfe\xfd").decode(),
    "deeply nested": encoded("[" * 45_000),
    "long": "A" * 60_000,
    "SQL": "' or true --",
    "white space": " \t",
    "other letters": "日本語",
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_page_token_that_no_list_has_given(project: Project, name: str) -> None:
    user = project.database.member()
    connections(project, user.agency_id, 1, 1)
    token = project.token(user)
    with project.unchanged():
        response = page(project, token, page_token=TAMPERED[name])
    assert refusal(response, 400, "invalid_page_token") == {}


@through_both_doors
def test_a_page_token_with_a_nul(project: Project) -> None:
    token = project.token(project.database.member())
    assert refusal(page(project, token, page_token="a\0b"), 400, "invalid_field") == {"field": "page_token"}


def test_another_agencys_page_token_shows_nothing_of_it(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    connections(project, owner.agency_id, 60, 60)
    mine = connections(project, stranger.agency_id, 60, 60)
    _, theirs = accepted(page(project, project.token(owner)))
    shown, _ = accepted(page(project, project.token(stranger), page_token=theirs))
    assert set(shown) <= set(mine)


def test_what_is_deleted_or_only_tested_is_not_listed(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    expected = connections(project, user.agency_id, 4, 4)
    project.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (expected[1],))
    tested = {"type": "http", "configuration": CONFIG | {"secret": SECRET}}
    with project.database.session(user.claims) as session:
        assert session.call("test_connection", **tested)["check_id"]
    assert ids(project, token) == [expected[0], *expected[2:]]
    assert [found for one in walk(project, token, limit=1) for found in one] == [expected[0], *expected[2:]]


def test_a_walk_goes_on_behind_a_connection_that_was_deleted_meanwhile(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    expected = connections(project, user.agency_id, 10, 2)
    first, following = accepted(page(project, token, limit=5))
    for connection_id in (first[-1], expected[7]):
        assert project.request("DELETE", f"{PATH}/{connection_id}", token).status_code == 204
    rest, end = accepted(page(project, token, limit=5, page_token=following))
    assert (rest, end) == ([*expected[5:7], *expected[8:]], "")


@through_both_doors
def test_a_list_never_fails_for_what_is_deleted_meanwhile(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    doomed = connections(project, user.agency_id, 50, 50)
    stays = connections(project, user.agency_id, 1, 1)
    done = threading.Event()

    def delete() -> None:
        with project.database.session(user.claims) as session:
            for connection_id in doomed:
                session.call("delete_connection", connection_id=connection_id)
        done.set()

    thread = threading.Thread(target=delete)
    thread.start()
    seen: list[list[str]] = []
    while not done.is_set():
        seen.append([one for found in walk(project, token) for one in found])
    thread.join()
    assert all(set(stays) <= set(found) for found in seen)
    assert ids(project, token) == stays


def test_who_sees_none(project: Project) -> None:
    user = project.database.member()
    nobody = project.token(project.database.user(None))
    connections(project, project.database.agency(), 2, 1)
    with project.unchanged():
        assert ids(project, project.token(user)) == []
        refusal(page(project, nobody), 403, "no_agency")
        refusal(page(project, None), 401, "missing_token")
