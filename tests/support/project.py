"""A whole project for tests: a database, the fake Auth server, the gateway below the functions, and the functions.

Tests share a project and its database, because each makes agencies of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx
import pytest

from functions._local.fake_auth import AuthServer
from functions._local.gateway import forward, gateway
from functions._local.web_server import WebServer
from functions._shared import registry, services
from functions._shared.http import PREFIX
from functions._shared.settings import Settings
from functions._shared.wsgi_adapter import wsgi
from tests.support import documented, postgrest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    from functions._local.postgrest import Postgrest
    from functions._shared.http import Request, Response
    from functions._shared.services import Services
    from tests.support.database import Database, User

Transport = Literal["postgres", "postgrest"]
Signing = Literal["ES256", "HS256"]
Check = Literal["claims", "user"]
Status = Literal["pending", "in_progress", "released", "completed", "failed", "cancelled"]

JANUARY = {"date_from": "2013-01-01", "date_to": "2013-01-31"}
THREADS = 16


@dataclass(frozen=True)
class Setup:
    transport: Transport = "postgres"
    signing: Signing = "ES256"
    check: Check = "claims"

    def __str__(self) -> str:
        return f"{self.transport}-{self.signing}-{self.check}"


EVERY_SETUP = [
    Setup(transport, signing, check)
    for transport in ("postgres", "postgrest")
    for signing in ("ES256", "HS256")
    for check in ("claims", "user")
]
# Each transport with each kind of token and with each kind of check.
SETUPS = [
    Setup("postgres", "ES256", "claims"),
    Setup("postgrest", "ES256", "claims"),
    Setup("postgrest", "HS256", "claims"),
    Setup("postgres", "HS256", "user"),
    Setup("postgrest", "ES256", "user"),
]
BOTH_TRANSPORTS = SETUPS[:2]
both_transports = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
one_transport = pytest.mark.parametrize("project", SETUPS[:1], indirect=True, ids=str)


class Backend:
    """The servers that a project's functions call, behind one address: Auth and, once it is needed, PostgREST."""

    def __init__(self, database: Database, signing: Signing) -> None:
        self.database = database
        self.requests: list[str] = []  # each request to Auth or PostgREST, as "METHOD /path"
        self._exit = contextlib.ExitStack()
        self._postgrest: Postgrest | None = None
        self._rest: Callable[..., Iterable[bytes]] | None = None
        self._inner = WebServer(gateway({"/auth/v1": self._ask_auth, "/rest/v1": self._ask_rest}))
        self._exit.callback(self._inner.close)
        self.url = self._inner.url
        self.issuer = f"{self.url}/auth/v1"
        self.jwt_secret = secrets.token_urlsafe(48)
        self.auth = AuthServer(database.url, issuer_url=self.issuer, jwt_secret=self.jwt_secret, signing=signing)
        self._exit.callback(self.auth.close)

    @property
    def postgrest(self) -> Postgrest:
        if self._postgrest is None:
            self._postgrest = postgrest.serve(self.database, self.auth.jwks_for_postgrest())
            self._exit.callback(self._postgrest.close)
            client = httpx.Client(timeout=30)
            self._exit.callback(client.close)
            self._rest = forward("/rest/v1", self._postgrest.url, client)
        return self._postgrest

    def _ask_auth(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._record(environ)
        return self.auth(environ, start_response)

    def _ask_rest(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._record(environ)
        return self.rest(environ, start_response)

    def rest(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """PostgREST, below the project's own URL."""
        assert self._rest is not None
        return self._rest(environ, start_response)

    def _record(self, environ: WSGIEnvironment) -> None:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")

    def close(self) -> None:
        self._exit.close()


class Project:
    """The functions of a project in one setup, over HTTP, and helpers for tests."""

    def __init__(self, setup: Setup, backend: Backend, **settings: Any) -> None:
        self.setup = setup
        self.backend = backend
        self.database = backend.database
        self.auth = backend.auth
        if setup.transport == "postgrest":
            _ = backend.postgrest  # started now, not within a request
        self.settings = dataclasses.replace(
            Settings(
                supabase_url=backend.url,
                supabase_publishable_key=backend.auth.anon_key(),
                rpc_transport=setup.transport,
                database_url=self.database.login("authenticator") if setup.transport == "postgres" else None,
                auth_check=setup.check,
                auth_issuer=backend.issuer,
            ),
            **settings,
        )
        self.services: Services = services.make(self.settings)
        self.requests: deque[Request] = deque(maxlen=100)  # the last requests to the functions
        functions = wsgi(self._handle)
        self._server = WebServer(gateway({PREFIX: functions, "/auth/v1": backend.auth, "/rest/v1": backend.rest}))
        self.url = f"{self._server.url}{PREFIX}"
        self._client = httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=THREADS))

    def _handle(self, request: Request) -> Response:
        self.requests.append(request)
        return registry.handle(request, self.services)

    def close(self) -> None:
        self._client.close()
        self._server.close()
        self.services.authenticator.close()
        self.services.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Callers

    def token(self, user: User, **overrides: Any) -> str:
        """An access token of the user's session; `overrides` as AuthServer.mint."""
        return self.auth.mint(user.id, **({"session_id": user.session_id} | overrides))

    # Calls

    def request(
        self,
        method: str,
        path: str,
        token: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Sends a request to a function. Checks what every response must have."""
        sent = {**({"authorization": f"Bearer {token}"} if token is not None else {}), **(headers or {})}
        response = self._client.request(
            method, f"{self.url}{path}", headers=httpx.Headers(sent, encoding="latin-1"), **options
        )
        check_response(response, token)
        return response

    def start(self, token: str | None, body: object = None, **options: Any) -> httpx.Response:
        return self._send("POST", "/start-historical-sync", token, body, options)

    def cancel(self, token: str | None, body: object = None, **options: Any) -> httpx.Response:
        return self._send("POST", "/cancel-historical-sync", token, body, options)

    def get(self, token: str | None, job_id: object = None, **options: Any) -> httpx.Response:
        options.setdefault("params", {} if job_id is None else {"job_id": job_id})
        return self.request("GET", "/get-historical-sync", token, **options)

    def jobs(self, token: str | None, **query: Any) -> httpx.Response:
        return self.request("GET", "/list-historical-syncs", token, params=query)

    def retry(self, token: str | None, body: object = None, **options: Any) -> httpx.Response:
        return self._send("POST", "/retry-historical-sync", token, body, options)

    def _send(self, method: str, path: str, token: str | None, body: object, options: Any) -> httpx.Response:
        """`body` is sent unchanged if it is bytes, else as JSON."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        return self.request(method, path, token, **content, **options)

    def concurrently(self, call: Callable[[], httpx.Response]) -> list[httpx.Response]:
        """Makes the same call in many threads that start at the same moment."""
        barrier = threading.Barrier(THREADS)

        def one(_: int) -> httpx.Response:
            barrier.wait()
            return call()

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(one, range(THREADS)))

    # Data

    def job(self, user: User, status: Status = "pending") -> str:
        """A job of this user's agency in this status."""
        job_id = self.database.start(user)
        if status == "pending":
            return job_id
        if status == "cancelled":
            with self.database.session(user.claims) as session:
                session.call("cancel_sync_job", job_id=job_id, reason="earlier")
            return job_id
        execution = self.claim(job_id)
        calls = {
            "completed": ("worker_complete", {}),
            "failed": ("worker_fail", {"error": {"code": "gone", "message": "The source is gone."}, "retry": False}),
            "released": ("worker_release", {}),
        }
        if status in calls:
            name, arguments = calls[status]
            with self.database.worker() as worker:
                worker.call(name, execution_id=job_id, lease_token=execution["lease_token"], **arguments)
        return job_id

    def claim(self, job_id: str) -> dict[str, Any]:
        """Claims the job's execution, together with what earlier tests left in the queue."""
        with self.database.worker() as worker:
            while True:
                claimed = worker.call(
                    "worker_claim", worker="w", families=["historical_sync"], max_executions=100, lease_seconds=3600
                )
                assert claimed, "the job is not in the queue"
                for execution in claimed:
                    if execution["id"] == job_id:
                        return dict(execution)

    @contextlib.contextmanager
    def without(self, function: str) -> Iterator[None]:
        """Hides this function of the database, as in the middle of a deployment."""
        schema, _, name = function.partition(".")
        self.database.admin.execute(f"alter function {function} rename to {name}_away")
        try:
            yield
        finally:
            self.database.admin.execute(f"alter function {schema}.{name}_away rename to {name}")

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Checks that the block changes no row and writes no audit event."""
        before = checksums(self.database)
        yield
        assert checksums(self.database) == before


class Projects:
    """A project for each setup over one database, created when it is first needed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._backends: dict[Signing, Backend] = {}
        self._projects: dict[Setup, Project] = {}

    def __call__(self, setup: Setup) -> Project:
        if setup not in self._projects:
            self._projects[setup] = Project(setup, self.backend(setup.signing))
        return self._projects[setup]

    def backend(self, signing: Signing) -> Backend:
        if signing not in self._backends:
            self._backends[signing] = Backend(self._database, signing)
        return self._backends[signing]

    def close(self) -> None:
        for project in self._projects.values():
            project.close()
        for backend in self._backends.values():
            backend.close()


def checksums(database: Database) -> dict[str, Any]:
    """A checksum of each table: where each row stands and which transaction wrote it, so that rewriting a row with the
    same values is a change too. Quicker than Database.fingerprint where tests share rows.
    """
    tables = database.all(
        "select c.oid::regclass::text as name from pg_class c"
        " where c.relkind in ('r', 'p') and c.relnamespace in ('app'::regnamespace, 'public'::regnamespace)"
    )
    one = "select '{0}' as name, count(*) as rows, sum(hashtidextended(ctid, xmin::text::bigint)) as written from {0}"
    rows = database.all(" union all ".join(one.format(table["name"]) for table in tables))
    return {row["name"]: (row["rows"], row["written"]) for row in rows}


def check_response(response: httpx.Response, token: str | None = None) -> None:
    """Checks what holds for every response, errors included."""
    assert response.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in response.headers["access-control-expose-headers"]
    assert response.headers["x-request-id"]
    assert response.headers["cache-control"] == "no-store"
    assert "x-relay-error" not in response.headers
    if response.content:
        assert response.headers["content-type"] == "application/json"
    documented.check(response)
    if token:
        assert token not in response.text
        assert token not in str(response.headers)


def expect_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Checks an error in the format of its API. Returns the fields that are its own."""
    body: dict[str, Any] = response.json()
    assert (response.status_code, documented.code(body)) == (status, code), response.text
    sentence, number, _ = documented.error_format(body)
    members = documented.members(body)
    assert body[sentence].endswith(".")
    assert number is None or body[number] == status
    assert body["requestId"] == response.headers["x-request-id"]
    assert ("allow" in response.headers) == (status == 405)
    assert ("retry-after" in response.headers) == (status == 503)
    if "key" in body:
        assert body["error"] == body["message"]
        assert body.get("status") == (None if status == 401 else status)
    if "statusCode" in body:
        assert body["error"] == HTTPStatus(status).phrase
    if "instance" in body:
        assert (body["type"], body["title"]) == ("about:blank", HTTPStatus(status).phrase)
        assert body["error"] == body["detail"]
        assert body["instance"] == f"urn:request:{body['requestId']}"
        texts = {
            name: text if isinstance(members[name], str) else json.loads(text) for name, text in body["details"].items()
        }
        assert texts == members
    return members
