"""A hosted project's newer keys (sb_publishable_…, sb_secret_…) are no JWTs: `apikey` alone decides the role."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from functions._local.gateway import gateway
from functions._local.web_server import WebServer
from functions._shared import registry, services
from functions._shared.http import Request
from functions._shared.settings import from_environment
from functions._shared.transports import DatabaseError
from functions.worker.context import make_worker_client
from tests.support.project import Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from wsgiref.types import StartResponse, WSGIEnvironment

    from functions._shared.services import Services
    from tests.support.database import Database

PUBLISHABLE, SECRET = "sb_publishable_t3qj_1xVQ0", "sb_secret_Zl8wC_v4WkX"


class HostedGateway:
    """In front of Auth and PostgREST, as of a hosted project. Records what each request brought."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._roles = {PUBLISHABLE: backend.auth.anon_key(), SECRET: backend.auth.service_role_key()}
        self.seen: list[tuple[str, str | None]] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        key, authorization = environ.get("HTTP_APIKEY", ""), environ.get("HTTP_AUTHORIZATION")
        self.seen.append((key, authorization))
        if key not in self._roles:
            return self._refuse("Invalid API key", start_response)
        if authorization is None:
            environ["HTTP_AUTHORIZATION"] = f"Bearer {self._roles[key]}"
        elif authorization.startswith("Bearer sb_"):
            return self._refuse("Expected 3 parts in JWT; got 1", start_response)
        if environ["PATH_INFO"].startswith("/rest/v1"):
            return self._backend.rest(environ, start_response)
        return self._backend.auth(environ, start_response)

    def _refuse(self, message: str, start_response: StartResponse) -> Iterable[bytes]:
        body = json.dumps({"message": message}).encode()
        start_response("401 Unauthorized", [("content-type", "application/json"), ("content-length", str(len(body)))])
        return [body]


class Hosted:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.database = backend.database
        self.gateway = HostedGateway(backend)
        self._server = WebServer(gateway({"/rest/v1": self.gateway, "/auth/v1": self.gateway}))
        self.url = self._server.url

    def environment(self, **keys: str) -> dict[str, str]:
        return {"SUPABASE_URL": self.url, "AUTH_ISSUER": self.backend.issuer, **keys}

    def close(self) -> None:
        self._server.close()


@pytest.fixture(scope="module")
def hosted(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Hosted]:
    with clone() as database, contextlib.closing(Backend(database, "ES256")) as backend:
        _ = backend.postgrest
        with contextlib.closing(Hosted(backend)) as made:
            yield made


@pytest.fixture
def functions(hosted: Hosted) -> Iterator[Services]:
    made = services.make(from_environment(hosted.environment(SUPABASE_PUBLISHABLE_KEY=PUBLISHABLE)))
    with contextlib.closing(made):
        hosted.gateway.seen.clear()
        yield made


def status(functions: Services, path: str, authorization: str | None) -> int:
    headers = {"authorization": authorization} if authorization else {}
    return registry.handle(Request("GET", path, headers=headers), functions).status


def test_functions__the_users_token_is_bearer_and_the_key_is_apikey(hosted: Hosted, functions: Services) -> None:
    user = hosted.database.member()
    token = hosted.backend.auth.mint(user.id, session_id=user.session_id)
    assert status(functions, "/list-historical-syncs", f"Bearer {token}") == 200
    fetched, called = hosted.gateway.seen
    assert (fetched, called) == ((PUBLISHABLE, None), (PUBLISHABLE, f"Bearer {token}"))


@pytest.mark.parametrize("key", [PUBLISHABLE, SECRET])
def test_functions__a_project_key_is_no_token(hosted: Hosted, functions: Services, key: str) -> None:
    assert status(functions, "/list-historical-syncs", f"Bearer {key}") == 401
    assert status(functions, "/list-historical-syncs", None) == 401
    assert hosted.gateway.seen == []


def test_functions__an_agencys_server_is_anonymous_to_the_gateway(hosted: Hosted, functions: Services) -> None:
    key = hosted.database.api_key(hosted.database.member())
    assert status(functions, "/api/bulk/syncs", f"Bearer {key}") == 200
    assert hosted.gateway.seen == [(PUBLISHABLE, None)]


@pytest.mark.parametrize("name", ["SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"])
def test_worker__the_secret_key_alone_is_the_service_role(hosted: Hosted, name: str) -> None:
    job_id = hosted.database.start(hosted.database.member())
    hosted.gateway.seen.clear()

    async def claim() -> Any:
        async with contextlib.aclosing(await make_worker_client(hosted.environment(**{name: SECRET}))) as client:
            [execution] = await client.claim("w", ["historical_sync"], 1, 30)
            await client.complete(execution)
            return execution.id

    assert asyncio.run(claim()) == job_id
    assert {*hosted.gateway.seen} == {(SECRET, None)}


def test_worker__the_secret_key_wins_over_the_service_role_key(hosted: Hosted) -> None:
    keys = {"SUPABASE_SECRET_KEY": SECRET, "SUPABASE_SERVICE_ROLE_KEY": "an.older.key"}
    hosted.gateway.seen.clear()

    async def reap() -> None:
        async with contextlib.aclosing(await make_worker_client(hosted.environment(**keys))) as client:
            await client.reap()

    asyncio.run(reap())
    assert hosted.gateway.seen == [(SECRET, None)]


def test_worker__a_publishable_key_may_not_claim(hosted: Hosted) -> None:
    async def claim() -> None:
        environment = hosted.environment(SUPABASE_SECRET_KEY=PUBLISHABLE)
        async with contextlib.aclosing(await make_worker_client(environment)) as client:
            await client.claim("w", ["historical_sync"], 1, 30)

    with pytest.raises(Exception, match="forbidden"):
        asyncio.run(claim())


def test_worker__an_unknown_key_is_an_internal_error(hosted: Hosted) -> None:
    async def reap() -> None:
        environment = hosted.environment(SUPABASE_SECRET_KEY="sb_secret_of_another_project")
        async with contextlib.aclosing(await make_worker_client(environment)) as client:
            await client.reap()

    with pytest.raises(DatabaseError, match="HTTP 401"):
        asyncio.run(reap())


@pytest.mark.parametrize(("bearer", "expected"), [({}, 200), ({"authorization": f"Bearer {SECRET}"}, 401)])
def test_gateway__bearer_with_a_project_key_is_refused(hosted: Hosted, bearer: dict[str, str], expected: int) -> None:
    response = httpx.post(f"{hosted.url}/rest/v1/rpc/worker_reap", json={}, headers={"apikey": SECRET, **bearer})
    assert response.status_code == expected
