"""What a back end's `client.functions.invoke` gets: supabase-py, against both doors."""

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

ON_BOTH_DOORS = pytest.mark.parametrize("project", BOTH_TRANSPORTS, ids=str, indirect=True)
ON_ONE = pytest.mark.parametrize("project", SETUPS[:1], ids=str, indirect=True)
ON_POSTGREST = pytest.mark.parametrize("project", SETUPS[1:2], ids=str, indirect=True)


@ON_BOTH_DOORS
def test_from_start_to_retry(project: Project) -> None:
    cases.from_start_to_retry(invoke, project)


@ON_BOTH_DOORS
@pytest.mark.parametrize("code", ERRORS)
def test_a_refusal_can_be_read(project: Project, code: str) -> None:
    cases.returns_error(invoke, project, code)


@ON_BOTH_DOORS
def test_a_failure_can_be_read(project: Project) -> None:
    cases.fails(invoke, project)


@ON_ONE
@pytest.mark.parametrize("token_as", ["accessToken", "headers", "session"])
def test_every_way_to_carry_a_token(project: Project, token_as: TokenAs) -> None:
    user = project.database.member()
    job_id = project.job(user)
    answer = invoke(call(project, project.token(user), LIST, method="GET", token_as=token_as))
    assert [job["job_id"] for job in succeeded(answer, 200)["jobs"]] == [job_id]


@ON_ONE
@pytest.mark.parametrize("encoded", [True, False])
def test_json_is_read_however_it_is_sent(project: Project, encoded: bool) -> None:
    user = project.database.member()
    text = f'{{"job_id": "{project.job(user)}"}}'
    answer = invoke(call(project, project.token(user), CANCEL, text.encode() if encoded else text))
    assert succeeded(answer, 200)["status"] == "cancelled"


@ON_ONE
def test_without_a_response_type_the_answer_is_json_in_bytes(project: Project) -> None:
    user = project.database.member()
    asked = call(project, project.token(user), CANCEL)
    with connected(asked) as (client, _):
        data = client.functions.invoke(CANCEL, {"body": {"job_id": project.job(user)}})
    assert isinstance(data, bytes)
    assert httpx.Response(200, content=data).json()["status"] == "cancelled"


@ON_ONE
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_region_changes_nothing(project: Project, method: str) -> None:
    user = project.database.member()
    token, job_id, region = project.token(user), project.job(user), FunctionRegion.UsEast1
    if method == "GET":
        answer = invoke(call(project, token, f"{GET}?job_id={job_id}", method="GET", region=region))
    else:
        answer = invoke(call(project, token, CANCEL, {"job_id": job_id}, region=region))
    assert succeeded(answer, 200)["job_id"] == job_id
    request = project.requests[-1]
    assert (request.headers["x-region"], request.query["forceFunctionRegion"]) == ("us-east-1", "us-east-1")


@ON_ONE
def test_nobody_is_listening(project: Project) -> None:
    with pytest.raises(httpx.ConnectError):
        invoke(Call(f"http://127.0.0.1:{free_port()}", project.auth.anon_key(), CANCEL, {}))


@ON_ONE
def test_a_call_that_takes_too_long(project: Project) -> None:
    user = project.database.member()
    job_id = project.job(user)
    asked = call(project, project.token(user), CANCEL)
    with project.database.connect() as another, another.transaction():
        another.execute("select from app.executions where id = %s for update", (job_id,))
        with connected(asked, timeout=0.5) as (client, _), pytest.raises(httpx.ReadTimeout):
            client.functions.invoke(CANCEL, {"body": {"job_id": job_id}})


@ON_POSTGREST
def test_jobs_are_read_from_the_view(project: Project) -> None:
    mine, theirs = project.database.member(), project.database.member()
    job_id, _ = project.job(mine), project.job(theirs)
    with connected(call(project, project.token(mine), None, token_as="session")) as (client, _):
        rows = client.table("historical_sync_jobs").select("*").execute().data
    assert [row["job_id"] for row in rows if isinstance(row, dict)] == [job_id]


@ON_POSTGREST
def test_nobodys_call_is_refused_like_any(project: Project) -> None:
    assert error_fields(invoke(call(project, None, LIST, method="GET")), 401, "invalid_token") == {}
