"""The zips: what is in them, that they are the same bytes wherever built, and that nothing else is needed to answer."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from functions._local import bundle
from tests import cloud
from tests.project import BOTH_DOORS, Project
from tests.test_runtime import HTTP_API

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cloud import Function

HANDLER = "functions._shared.registry.handler"
BUNDLES = {"postgrest": bundle.API, "postgres": bundle.DIRECT_DOOR}


@pytest.fixture(params=BOTH_DOORS, ids=str)
def project(request: pytest.FixtureRequest, projects: Any) -> Project:
    made: Project = projects(request.param)
    return made


def environment(project: Project) -> dict[str, str]:
    settings = project.settings
    given = {
        "SUPABASE_URL": settings.supabase_url,
        "SUPABASE_ANON_KEY": settings.supabase_anon_key,
        "RPC_DOOR": settings.rpc_door,
    }
    return given | ({"DATABASE_URL": settings.database_url} if settings.database_url else {})


@pytest.fixture
def api(project: Project) -> Iterator[Function]:
    with cloud.function(cloud.built(BUNDLES[project.setup.door]), HANDLER, environment(project)) as invoke:
        yield invoke


def test_a_cancel_through_an_http_api(project: Project, api: Function) -> None:
    user = project.database.user(project.database.agency())
    job_id = project.job(user)
    body = base64.b64encode(json.dumps({"job_id": job_id, "reason": "日本"}).encode()).decode()
    headers = {**HTTP_API["headers"], "Authorization": f"Bearer {project.token(user)}"}
    answer = api({**HTTP_API, "headers": headers, "body": body, "isBase64Encoded": True})
    assert (answer["statusCode"], json.loads(answer["body"])) == (200, {"job_id": job_id, "status": "cancelled"})
