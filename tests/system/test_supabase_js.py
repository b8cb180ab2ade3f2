"""supabase-js in Node calls the functions, through both transports."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from functions._local.postgres import free_port
from functions._shared.cors import ALLOW_HEADERS
from tests.support.clients import Call, call, cases, error_fields, succeeded
from tests.support.clients.cases import CANCEL, ERRORS, GET, LIST
from tests.support.clients.javascript import HERE, Node, node
from tests.support.project import BOTH_TRANSPORTS, SETUPS
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.clients import BodyAs, CallResult, TokenAs
    from tests.support.project import Project

BOTH = pytest.mark.parametrize("project", BOTH_TRANSPORTS, ids=str, indirect=True)
ON_ONE = pytest.mark.parametrize("project", SETUPS[:1], ids=str, indirect=True)
ON_POSTGREST = pytest.mark.parametrize("project", SETUPS[1:2], ids=str, indirect=True)


@pytest.fixture(scope="module")
def client() -> Iterator[Node]:
    with Node() as running:
        yield running


@BOTH
def test_supabase_js__start_to_retry(client: Node, project: Project) -> None:
    cases.from_start_to_retry(client, project)


@BOTH
@pytest.mark.parametrize("code", ERRORS)
def test_supabase_js__error_is_readable(client: Node, project: Project, code: str) -> None:
    cases.returns_error(client, project, code)


@BOTH
def test_supabase_js__server_error_is_readable(client: Node, project: Project) -> None:
    cases.fails(client, project)


@BOTH
@pytest.mark.parametrize("token_as", ["accessToken", "headers", "session"])
def test_supabase_js__ways_to_send_a_token(client: Node, project: Project, token_as: TokenAs) -> None:
    user = project.database.member()
    job_id = project.job(user)
    response = client(call(project, project.token(user), LIST, method="GET", token_as=token_as))
    assert [job["job_id"] for job in succeeded(response, 200)["jobs"]] == [job_id]


@BOTH
@pytest.mark.parametrize("token_as", ["accessToken", "session"])
def test_supabase_js__functions_at_another_address(client: Node, project: Project, token_as: TokenAs) -> None:
    """As described for AWS in functions/DEPLOYING.md. The project's own address serves no functions here."""
    user = project.database.member()
    job_id = project.job(user)
    invocation = call(project, project.token(user), CANCEL, {"job_id": job_id}, token_as=token_as)
    elsewhere = replace(invocation, url=project.backend.url, functions_at=project.url)
    assert succeeded(client(elsewhere), 200) == {"job_id": job_id, "status": "cancelled"}
    assert client(replace(elsewhere, functions_at=None)).status == 404
    rows = client(replace(elsewhere, function=None, body=None))
    assert project.setup.transport == "postgres" or [row["job_id"] for row in rows.data] == [job_id]


@ON_ONE
def test_supabase_js__publishable_key_without_session(client: Node, project: Project) -> None:
    """supabase-js does not send it as a token, unlike an anon key. There is no Authorization header."""
    response = client(call(project, None, CANCEL, {}, key="sb_publishable_0123456789"))
    assert error_fields(response, 401, "missing_token") == {}
    assert project.requests[-1].headers["apikey"] == "sb_publishable_0123456789"
    assert "authorization" not in project.requests[-1].headers


@ON_ONE
@pytest.mark.parametrize("body_as", ["object", "string", "blob", "buffer"])
def test_supabase_js__json_of_any_media_type(client: Node, project: Project, body_as: BodyAs) -> None:
    """Each kind of body is sent with another media type."""
    user = project.database.member()
    job_id = project.job(user)
    response = client(call(project, project.token(user), CANCEL, {"job_id": job_id}, body_as=body_as))
    assert succeeded(response, 200) == {"job_id": job_id, "status": "cancelled"}


@ON_ONE
def test_supabase_js__form_is_rejected(client: Node, project: Project) -> None:
    user = project.database.member()
    response = client(call(project, project.token(user), CANCEL, {"job_id": project.job(user)}, body_as="form"))
    assert error_fields(response, 400, "invalid_json") == {}


@ON_ONE
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_supabase_js__region(client: Node, project: Project, method: str) -> None:
    user = project.database.member()
    token, job_id = project.token(user), project.job(user)
    if method == "GET":
        response = client(call(project, token, f"{GET}?job_id={job_id}", method="GET", region="us-east-1"))
    else:
        response = client(call(project, token, CANCEL, {"job_id": job_id}, region="us-east-1"))
    assert succeeded(response, 200)["job_id"] == job_id
    request = project.requests[-1]
    assert (request.headers["x-region"], request.query["forceFunctionRegion"]) == ("us-east-1", "us-east-1")


@ON_ONE
def test_supabase_js__no_server(client: Node, project: Project) -> None:
    response = client(Call(f"http://127.0.0.1:{free_port()}", project.auth.anon_key(), CANCEL, {}))
    assert (response.error, response.status, response.data) == ("FunctionsFetchError", None, None)


@ON_ONE
def test_supabase_js__aborted_before_sending(client: Node, project: Project) -> None:
    user = project.database.member()
    job = {"job_id": project.job(user)}
    with project.unchanged():
        response = client(call(project, project.token(user), CANCEL, job, abort=True))
    assert (response.error, response.cause) == ("FunctionsFetchError", "AbortError")


@BOTH
def test_supabase_js__timeout_then_same_idempotency_key(client: Node, project: Project) -> None:
    user = project.database.member()
    token, job_id = project.token(user), project.job(user)
    body, headers = {"job_id": job_id}, {"idempotency-key": f"cancel {job_id}"}
    with project.database.connect() as another, another.transaction():
        another.execute("select from app.executions where id = %s for update", (job_id,))
        response = client(call(project, token, CANCEL, body, headers=headers, timeout=500))
    assert (response.error, response.cause) == ("FunctionsFetchError", "AbortError")

    again: list[CallResult] = []

    def has_responded() -> bool:
        again.append(client(call(project, token, CANCEL, body, headers=headers)))
        return again[-1].status != 409  # while the first request is still running

    until(has_responded)
    assert succeeded(again[-1], 200) == {"job_id": job_id, "status": "cancelled"}
    without_key = client(call(project, token, CANCEL, body))
    assert error_fields(without_key, 400, "not_cancellable") == {"current_status": "cancelled"}


@ON_POSTGREST
def test_supabase_js__select_from_the_view(client: Node, project: Project) -> None:
    mine, theirs = project.database.member(), project.database.member()
    job_id, _ = project.job(mine), project.job(theirs)
    response = client(call(project, project.token(mine), None))
    assert [row["job_id"] for row in response.data] == [job_id]


def test_cors__allows_all_headers_of_supabase_js() -> None:
    """The list of headers in the installed version."""
    script = "import { corsHeaders } from '@supabase/supabase-js/cors'; console.log(JSON.stringify(corsHeaders))"
    command = [str(node()), "--input-type=module", "--eval", script]
    headers = json.loads(subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout)
    assert set(headers["Access-Control-Allow-Headers"].split(", ")) <= set(ALLOW_HEADERS.split(", "))
