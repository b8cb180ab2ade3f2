"""GET /api/connections/{connection_id}: everything except the secret, for the connection's own agency only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.connections import CONFIG, PATH, SECRET, UNKNOWN, created, make_key
from tests.support.project import Project, both_transports, expect_error, one_transport

if TYPE_CHECKING:
    import httpx


def get(project: Project, token: str | None, connection_id: str) -> httpx.Response:
    return project.request("GET", f"{PATH}/{connection_id}", token)


@both_transports
def test_get_connection__without_its_secret(project: Project) -> None:
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


@one_transport
def test_get_connection__upper_case_id(project: Project) -> None:
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id, config=CONFIG)
    assert created(get(project, project.token(user), connection_id.upper()))["id"] == connection_id


@both_transports
def test_get_connection__query_does_not_override_the_path(project: Project) -> None:
    user = project.database.member()
    mine, other = (project.database.connection(user.agency_id) for _ in range(2))
    path = f"{PATH}//{mine}/"
    response = project.request("GET", path, project.token(user), params={"connection_id": other, "x": "1"})
    assert created(response)["id"] == mine


@both_transports
def test_get_connection__rejected_callers_and_unknown_ids(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    theirs = project.database.connection(owner.agency_id, secret=SECRET)
    deleted = project.database.connection(stranger.agency_id, secret=SECRET)
    job_id = project.database.start(stranger)
    project.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (deleted,))
    token, without_agency = project.token(stranger), project.token(project.database.user(None))
    with project.unchanged():
        for connection_id in (theirs, deleted, UNKNOWN, job_id, str(stranger.agency_id)):
            assert expect_error(get(project, token, connection_id), 404, "connection_not_found") == {}
        expect_error(get(project, without_agency, theirs), 403, "no_agency")
        expect_error(get(project, None, theirs), 401, "missing_token")


@one_transport
@pytest.mark.parametrize(
    "malformed", ["x", "null", UNKNOWN[:-1], f"{UNKNOWN}0", f"{UNKNOWN}%00", "%F0%9F%9B%AB", "%2e%2e", "'", "-1"]
)
def test_connection_endpoints__malformed_id(project: Project, malformed: str) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        for method in ("GET", "DELETE"):
            response = project.request(method, f"{PATH}/{malformed}", token)
            assert expect_error(response, 404, "not_found") == {}


@both_transports
def test_get_connection__does_not_wait_for_a_deletion(project: Project) -> None:
    """A deletion may hold the row for as long as a worker's commit takes; reading does not wait for it."""
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id, config=CONFIG)
    token = project.token(user)
    with project.database.connect() as holder, holder.transaction():
        holder.execute("select from app.connections where id = %s for update", (connection_id,))
        assert created(get(project, token, connection_id))["id"] == connection_id
        listed = project.request("GET", PATH, token)
        assert [connection["id"] for connection in listed.json()["data"]] == [connection_id]


@one_transport
def test_connection_endpoints__method_not_allowed(project: Project) -> None:
    for path, allowed in {f"{PATH}/{UNKNOWN}": "DELETE, GET, OPTIONS", f"{PATH}/test": "POST, OPTIONS"}.items():
        for method in ("PUT", "PATCH", "HEAD", "FOO"):
            response = project.request(method, path)
            assert (response.status_code, response.headers["allow"]) == (405, allowed)
