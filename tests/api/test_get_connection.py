"""GET /api/connections/{connection_id} through both doors: everything but the secret, and only one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.connections import CONFIG, PATH, SECRET, UNKNOWN, created, make_key
from tests.support.project import BOTH_TRANSPORTS, Project, refusal

if TYPE_CHECKING:
    import httpx

through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)


def get(project: Project, token: str | None, connection_id: str) -> httpx.Response:
    return project.request("GET", f"{PATH}/{connection_id}", token)


def test_a_connection_is_shown_without_its_secret(project: Project) -> None:
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id, config=CONFIG, secret=SECRET)
    colleague = project.database.user(user.agency_id)
    for caller in (project.token(user), project.token(colleague), make_key(project, user)[0]):
        response = get(project, caller, connection_id)
        shown = created(response)
        assert (shown["id"], shown["name"], shown["organization_id"]) == (connection_id, "A", user.agency_id)
        assert (shown["configuration"], shown["created_by"]) == (CONFIG, None)
        assert SECRET["token"] not in response.text
        assert "secret" not in response.text


def test_an_upper_case_id_is_the_same_id(project: Project) -> None:
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id, config=CONFIG)
    assert created(get(project, project.token(user), connection_id.upper()))["id"] == connection_id


@through_both_doors
def test_the_path_says_which_whatever_the_query_says(project: Project) -> None:
    user = project.database.member()
    mine, other = (project.database.connection(user.agency_id) for _ in range(2))
    path = f"{PATH}//{mine}/"
    response = project.request("GET", path, project.token(user), params={"connection_id": other, "x": "1"})
    assert created(response)["id"] == mine


def test_whose_it_is_not_and_what_is_none(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    theirs = project.database.connection(owner.agency_id, secret=SECRET)
    gone = project.database.connection(stranger.agency_id, secret=SECRET)
    job_id = project.database.start(stranger)
    project.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (gone,))
    token, nobody = project.token(stranger), project.token(project.database.user(None))
    with project.unchanged():
        for connection_id in (theirs, gone, UNKNOWN, job_id, str(stranger.agency_id)):
            assert refusal(get(project, token, connection_id), 404, "connection_not_found") == {}
        refusal(get(project, nobody, theirs), 403, "no_agency")
        refusal(get(project, None, theirs), 401, "missing_token")


@through_both_doors
@pytest.mark.parametrize(
    "malformed", ["x", "null", UNKNOWN[:-1], f"{UNKNOWN}0", f"{UNKNOWN}%00", "%F0%9F%9B%AB", "%2e%2e", "'", "-1"]
)
def test_an_id_that_is_none(project: Project, malformed: str) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        for method in ("GET", "DELETE"):
            response = project.request(method, f"{PATH}/{malformed}", token)
            assert refusal(response, 404, "not_found") == {}


def test_reading_waits_for_nobody(project: Project) -> None:
    """Not even for who is deleting it, which takes as long as a worker commits."""
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id, config=CONFIG)
    token = project.token(user)
    with project.database.connect() as holder, holder.transaction():
        holder.execute("select from app.connections where id = %s for update", (connection_id,))
        assert created(get(project, token, connection_id))["id"] == connection_id
        listed = project.request("GET", PATH, token)
        assert [connection["id"] for connection in listed.json()["data"]] == [connection_id]


@through_both_doors
def test_other_methods(project: Project) -> None:
    for path, allowed in {f"{PATH}/{UNKNOWN}": "DELETE, GET, OPTIONS", f"{PATH}/test": "POST, OPTIONS"}.items():
        for method in ("PUT", "PATCH", "HEAD", "FOO"):
            response = project.request(method, path)
            assert (response.status_code, response.headers["allow"]) == (405, allowed)
