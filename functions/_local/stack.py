"""The embedded stack: Postgres from a wheel, the Auth stand-in, the local data API, the functions, and a worker.

Clients use the gateway. The functions reach the Auth server by another address, as they would inside a project, so that
a request never waits for a thread of the server that it occupies.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from functions._local import schema, seed
from functions._local.fake_auth import AuthServer
from functions._local.gateway import gateway
from functions._local.postgres import Postgres
from functions._local.source import Source
from functions._local.source import table as load
from functions._local.web_server import WebServer
from functions._local.worker_process import WorkerProcess
from functions._shared import registry, services
from functions._shared.http import PREFIX
from functions._shared.settings import Settings
from functions._shared.wsgi_adapter import wsgi

if TYPE_CHECKING:
    from types import TracebackType

    from functions._shared.http import Request, Response

DATABASE = "postgres"


class Stack:
    """Starts everything except the worker. `close` stops it in order. `port` 0 takes a free one."""

    def __init__(
        self, *, port: int = 0, source_delay_seconds: float = 0, signing: Literal["ES256", "HS256"] = "ES256"
    ) -> None:
        self.jwt_secret = secrets.token_urlsafe(48)
        self._exit = ExitStack()
        try:
            self._start(port, source_delay_seconds, signing)
        except BaseException:
            self.close()
            raise

    def _start(self, port: int, source_delay_seconds: float, signing: Literal["ES256", "HS256"]) -> None:
        # The port first, so that the error of a taken port comes at once.
        self._functions: services.Services | None = None
        self.auth: AuthServer | None = None
        public = WebServer(gateway({"/functions/v1": wsgi(self._handle), "/auth/v1": self._auth}), port)
        self._exit.callback(public.close)
        self.url = public.url
        # Loaded while Postgres starts, so that the first sync does not wait for it.
        threading.Thread(target=load, args=("flights",), daemon=True).start()
        self.postgres = Postgres()
        self._exit.callback(self.postgres.close)
        self.source = Source(delay_seconds=source_delay_seconds).start()
        self._exit.callback(self.source.close)
        self._build_database(signing)

    def _build_database(self, signing: Literal["ES256", "HS256"]) -> None:
        superuser_url = self.postgres.url(DATABASE)
        issuer = f"{self.url}/auth/v1"
        auth = AuthServer(superuser_url, issuer_url=issuer, jwt_secret=self.jwt_secret, signing=signing)
        self._exit.callback(auth.close)
        with psycopg.connect(superuser_url, autocommit=True) as connection:
            schema.install(connection, schema.declared())
            for role in ("postgres", "authenticator"):
                connection.execute(f"alter role {role} password '{self.postgres.password}'")
            self.users = seed.create(connection, auth, self.source)
        self.auth = auth
        inner = WebServer(gateway({"/auth/v1": auth}))
        self._exit.callback(inner.close)
        settings = Settings(
            supabase_url=inner.url,
            supabase_publishable_key=auth.anon_key(),
            rpc_transport="postgres",
            database_url=self.authenticator_url,
            auth_issuer=issuer,
        )
        self._functions = services.make(settings)
        self._exit.callback(self._functions.transport.close)
        self._exit.callback(self._functions.authenticator.close)

    def _handle(self, request: Request) -> Response:
        assert self._functions is not None
        return registry.handle(request, self._functions)

    def _auth(self, environ: Any, start_response: Any) -> Any:  # noqa: ANN401 (a WSGI application)
        assert self.auth is not None
        return self.auth(environ, start_response)

    @property
    def database_url(self) -> str:
        """As the role that owns the schema and is not a superuser, like the one that a hosted project offers."""
        return self.postgres.url(DATABASE, user="postgres")

    @property
    def authenticator_url(self) -> str:
        return self.postgres.url(DATABASE, user="authenticator")

    def ready(self) -> dict[str, Any]:
        """The fields of the `ready` line."""
        assert self.auth is not None
        first, last = self.source.dates
        return {
            "url": self.url,
            "functions_url": f"{self.url}{PREFIX}",
            "database_url": self.database_url,
            "jwt_secret": self.jwt_secret,
            "anon_key": self.auth.anon_key(),
            "service_role_key": self.auth.service_role_key(),
            "source_url": self.source.url,
            "source_dates": [first.isoformat(), last.isoformat()],
            "resources": list(self.source.resources),
            "users": self.users,
        }

    def worker(self, *, log: bool = False, **options: str) -> WorkerProcess:
        # The source has a private address.
        needed = {"DATABASE_URL": self.authenticator_url, "WORKER_ALLOW_PRIVATE_ADDRESSES": "true"}
        return WorkerProcess(log=log, **needed | options)

    def close(self) -> None:
        self._exit.close()

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
