"""`client.functions.invoke` of supabase-py, as in a back end, with both transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from supabase_functions.utils import FunctionRegion

from functions._local.postgres import free_port
from tests.support.clients import Call, call, cases, error_fields, succeeded
from tests.support.clients.cases import CANCEL, ERRORS, GET, LIST
from tests.support.clients.python import connected, invoke
from tests.support.project import BOTH_TRANSPORTS, SETUPS

if TYPE_CHECKING:
    from tests.support.clients import TokenAs
    from tests.support.project import Project

BOTH = pytest.mark.parametrize("project", BOTH_TRANSPORTS, ids=str, indirect=True)
ONE_SETUP = pytest.mark.parametrize("project", SETUPS[:1], ids=str, indirect=True)
POSTGREST = pytest.mark.parametrize("project", SETUPS[1:2], ids=str, indirect=True)


@BOTH
def test_supabase_py__from_start_to_retry(project: Project) -> None:
    cases.from_start_to_retry(invoke, project)


@BOTH
@pytest.mark.parametrize("code", ERRORS)
def test_supabase_py__error_response(project: Project, code: str) -> None:
    cases.returns_error(invoke, project, code)


@BOTH
def test_supabase_py__internal_error(project: Project) -> None:
    cases.fails(invoke, project)


@ONE_SETUP
@pytest.mark.parametrize("token_as", ["accessToken", "headers", "session"])
def test_supabase_py__token_as(project: Project, token_as: TokenAs) -> None:
    user = project.database.member()
    job_id = project.job(user)
    response = invoke(call(project, project.token(user), LIST, method="GET", token_as=token_as))
    assert [job["job_id"] for job in succeeded(response, 200)["jobs"]] == [job_id]


@ONE_SETUP
@pytest.mark.parametrize("encoded", [True, False])
def test_supabase_py__json_as_bytes_or_text(project: Project, encoded: bool) -> None:
    user = project.database.member()
    text = f'{{"job_id": "{project.job(user)}"}}'
    response = invoke(call(project, project.token(user), CANCEL, text.encode() if encoded else text))
    assert succeeded(response, 200)["status"] == "cancelled"


@ONE_SETUP
def test_supabase_py__no_response_type__json_in_bytes(project: Project) -> None:
    user = project.database.member()
    invocation = call(project, project.token(user), CANCEL)
    with connected(invocation) as (client, _):
        data = client.functions.invoke(CANCEL, {"body": {"job_id": project.job(user)}})
    assert isinstance(data, bytes)
    assert httpx.Response(200, content=data).json()["status"] == "cancelled"


@ONE_SETUP
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_supabase_py__region__ignored(project: Project, method: str) -> None:
    user = project.database.member()
    token, job_id, region = project.token(user), project.job(user), FunctionRegion.UsEast1
    if method == "GET":
        response = invoke(call(project, token, f"{GET}?job_id={job_id}", method="GET", region=region))
    else:
        response = invoke(call(project, token, CANCEL, {"job_id": job_id}, region=region))
    assert succeeded(response, 200)["job_id"] == job_id
    request = project.requests[-1]
    assert (request.headers["x-region"], request.query["forceFunctionRegion"]) == ("us-east-1", "us-east-1")


@ONE_SETUP
def test_supabase_py__server_unreachable(project: Project) -> None:
    with pytest.raises(httpx.ConnectError):
        invoke(Call(f"http://127.0.0.1:{free_port()}", project.auth.anon_key(), CANCEL, {}))


@ONE_SETUP
def test_supabase_py__timeout(project: Project) -> None:
    user = project.database.member()
    job_id = project.job(user)
    invocation = call(project, project.token(user), CANCEL)
    with project.database.connect() as another, another.transaction():
        another.execute("select from app.executions where id = %s for update", (job_id,))
        with connected(invocation, timeout=0.5) as (client, _), pytest.raises(httpx.ReadTimeout):
            client.functions.invoke(CANCEL, {"body": {"job_id": job_id}})


@POSTGREST
def test_supabase_py__view_of_own_agency(project: Project) -> None:
    mine, theirs = project.database.member(), project.database.member()
    job_id, _ = project.job(mine), project.job(theirs)
    with connected(call(project, project.token(mine), None, token_as="session")) as (client, _):
        rows = client.table("historical_sync_jobs").select("*").execute().data
    assert [row["job_id"] for row in rows if isinstance(row, dict)] == [job_id]


@POSTGREST
def test_supabase_py__no_token(project: Project) -> None:
    assert error_fields(invoke(call(project, None, LIST, method="GET")), 401, "invalid_token") == {}
