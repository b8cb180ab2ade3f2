"""The stack under attack: Postgres, the Auth stand-in, the source, PostgREST if it is installed, and the functions."""

from __future__ import annotations

import secrets
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx
import jwt
import psycopg
from psycopg.rows import dict_row

from functions._local import postgrest, schema, seed
from functions._local.fake_auth import AuthServer
from functions._local.gateway import forward, gateway
from functions._local.postgres import Postgres
from functions._local.source import Source
from functions._local.web_server import WebServer
from functions._shared import registry, services
from functions._shared.http import PREFIX
from functions._shared.settings import Settings
from functions._shared.wsgi_adapter import wsgi

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

DATABASE = "postgres"
AUTHENTICATOR = "authenticator"


@dataclass(frozen=True)
class Person:
    """A user with a session. `claims` are those of the token."""

    agency_id: str | None
    token: str = field(repr=False)

    @property
    def claims(self) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(self.token, options={"verify_signature": False})
        return claims


class Target:
    """`function_urls`: addresses of the functions by setup. `direct` calls Postgres. `deployed` calls PostgREST, and
    the Auth server for each token.
    """

    def __init__(self) -> None:
        self._exit = ExitStack()
        self.auth_response: tuple[str, bytes] | None = None  # replaces its responses: status and body
        self.function_urls: dict[str, str] = {}
        self.postgrest: postgrest.Postgrest | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self.postgres = Postgres()
        self._exit.callback(self.postgres.close)
        self.url = self.postgres.url(DATABASE)
        self.authenticator_url = self.postgres.url(DATABASE, user=AUTHENTICATOR)
        with self.admin() as admin:
            schema.install(admin, schema.declared())
            for role in ("postgres", AUTHENTICATOR):
                admin.execute(f"alter role {role} password '{self.postgres.password}'")
        self.source = Source().start()
        self._exit.callback(self.source.close)
        applications = {"/auth/v1": self._call_auth, "/rest/v1": self._call_rest}
        project = WebServer(gateway(applications))
        self._exit.callback(project.close)
        self.project_url = project.url
        issuer = f"{self.project_url}/auth/v1"
        self.jwt_secret = secrets.token_urlsafe(48)
        self.auth = AuthServer(self.url, issuer_url=issuer, jwt_secret=self.jwt_secret)
        self._exit.callback(self.auth.close)
        self._open("direct", "postgres", "claims")
        if postgrest.binary().exists():
            self.postgrest = postgrest.Postgrest(self.authenticator_url, self.auth.jwks_for_postgrest())
            self._exit.callback(self.postgrest.close)
            client = self._exit.enter_context(httpx.Client(timeout=30))
            self._rest = forward("/rest/v1", self.postgrest.url, client)
            self._open("deployed", "postgrest", "user")

    def _open(
        self, name: str, rpc_transport: Literal["postgres", "postgrest"], check: Literal["claims", "user"]
    ) -> None:
        settings = Settings(
            supabase_url=self.project_url,
            supabase_publishable_key=self.auth.anon_key(),
            rpc_transport=rpc_transport,
            database_url=self.authenticator_url if rpc_transport == "postgres" else None,
            auth_check=check,
        )
        made = services.make(settings)
        self._exit.callback(made.transport.close)
        self._exit.callback(made.authenticator.close)
        functions = wsgi(lambda request: registry.handle(request, made))
        server = WebServer(gateway({PREFIX: functions}))
        self._exit.callback(server.close)
        self.function_urls[name] = f"{server.url}{PREFIX}"

    def _call_auth(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self.auth_response is None:
            return self.auth(environ, start_response)
        status, body = self.auth_response
        start_response(status, [("content-type", "application/json"), ("content-length", str(len(body)))])
        return [body]

    def _call_rest(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._rest(environ, start_response)

    def admin(self) -> psycopg.Connection[dict[str, Any]]:
        """A superuser's connection, to set up attacks and to check invariants."""
        return psycopg.connect(self.url, autocommit=True, row_factory=dict_row)

    def agency(self, name: str = "Agency") -> str:
        with self.admin() as admin:
            row = admin.execute("insert into public.agencies (name) values (%s) returning id", (name,)).fetchone()
        assert row
        return str(row["id"])

    def person(self, agency_id: str | None) -> Person:
        with self.admin() as admin:
            agency = uuid.UUID(agency_id) if agency_id else None
            return Person(agency_id, seed.user(admin, self.auth, f"{uuid.uuid4()}@example.com", agency))

    def connection(
        self, agency_id: str, kind: str = "http", config: Mapping[str, Any] | None = None, secret: object = None
    ) -> str:
        with psycopg.connect(self.url, autocommit=True) as admin:
            return str(seed.connect(admin, agency_id, kind, config or {}, secret or {}))

    def close(self) -> None:
        self._exit.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
