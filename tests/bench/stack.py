"""One database with Auth, PostgREST and a gateway before it, and the contenders that cancel through them."""

from __future__ import annotations

import json
import multiprocessing
import secrets
import shutil
import signal
import tempfile
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from functions._local import schema
from functions._local.fake_auth import AuthServer
from functions._local.orphans import dies_with_parent
from functions._local.postgres import Postgres, free_port
from functions._local.postgrest import Postgrest
from functions._local.web_server import WebServer
from tests.bench import installed
from tests.bench.load import request
from tests.bench.processes import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.process import BaseProcess
    from wsgiref.types import WSGIApplication

CANCEL_PATH = "/functions/v1/cancel-historical-sync"
TOKEN_SECONDS = 24 * 3600
# Durable, and the same for all. Only the cache differs from the defaults: it must hold what a small project's would.
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "synchronous_commit": "on"}


@dataclass(frozen=True)
class Contender:
    """What is measured: it cancels a job for each HTTP request. `pid` is the process whose costs are reported."""

    name: str
    port: int
    pid: int
    path: str
    token: str

    def requests(self, jobs: Sequence[str]) -> list[bytes]:
        headers = {"authorization": f"Bearer {self.token}"}
        return [request(self.path, headers, b'{"job_id": "%b"}' % job.encode()) for job in jobs]


def prepare(postgres: Postgres) -> None:
    """Creates the roles of a project, with passwords."""
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        schema.install(admin, [])
        for role in ("postgres", "authenticator"):
            admin.execute(f"alter role {role} password '{postgres.password}'")


class BenchStack:
    """`fill` fills the database before the services start."""

    def __init__(self, postgres: Postgres, name: str, fill: Callable[[BenchStack], None] | None = None) -> None:
        self.postgres = postgres
        self.name = name
        self.agency_id, self.user_id, self.session_id = (str(uuid.uuid4()) for _ in range(3))
        self._exit = ExitStack()
        try:
            self.admin = self._exit.enter_context(self._database())
            if fill:
                fill(self)
            self._start_services()
        except BaseException:
            self.close()
            raise

    def url(self, role: str = "postgres") -> str:
        return self.postgres.url(self.name, user=role)

    def _database(self) -> psycopg.Connection[Any]:
        with psycopg.connect(self.postgres.url(), autocommit=True) as admin:
            admin.execute(f"create database {self.name} owner postgres")
        connection = psycopg.connect(self.postgres.url(self.name), autocommit=True)
        schema.install(connection, schema.declared())
        connection.execute("insert into public.agencies (id, name) values (%s, 'Bench')", (self.agency_id,))
        connection.execute("insert into auth.users (id, email) values (%s, 'bench@example.com')", (self.user_id,))
        connection.execute("insert into auth.sessions (id, user_id) values (%s, %s)", (self.session_id, self.user_id))
        connection.execute("insert into public.users (id, agency_id) values (%s, %s)", (self.user_id, self.agency_id))
        return connection

    def _start_services(self) -> None:
        gateway_port, auth_port = free_port(), free_port()
        secret = secrets.token_urlsafe(48)
        self.supabase_url = f"http://127.0.0.1:{gateway_port}"
        issuer = f"{self.supabase_url}/auth/v1"
        superuser = self.postgres.url(self.name)
        auth = AuthServer(superuser, issuer_url=issuer, jwt_secret=secret)
        # The same project before it had asymmetric keys.
        legacy = AuthServer(superuser, issuer_url=issuer, jwt_secret=secret, signing="HS256")
        member: dict[str, Any] = {"session_id": self.session_id, "lifetime": TOKEN_SECONDS}
        self.tokens = {"ES256": auth.mint(self.user_id, **member), "HS256": legacy.mint(self.user_id, **member)}
        self.anon_key, self.service_role_key = auth.anon_key(), auth.service_role_key()
        self.postgrest = Postgrest(self.url("authenticator"), auth.jwks_for_postgrest())
        self._exit.callback(self.postgrest.close)
        self.auth = serve_in_process(auth_port, auth)
        self._exit.callback(self.auth.join, 10)
        self._exit.callback(self.auth.terminate)
        routes = {"/auth/v1": f"http://127.0.0.1:{auth_port}/auth/v1", "/rest/v1": self.postgrest.url}
        command: list[str | Path] = [installed.DENO, "run", "--no-check", "--allow-net", "--allow-env", "gateway.ts"]
        self.gateway = Server(command, gateway_port, {"ROUTES": json.dumps(routes)}, installed.HERE)
        self._exit.callback(self.gateway.close)

    # Contenders

    def ours(self, name: str, signing: str = "ES256", transport: str = "postgrest") -> Contender:
        settings = {"RPC_TRANSPORT": transport, "DATABASE_URL": self.url("authenticator")}
        return self._python(name, "ours", ("functions", "waitress"), signing, settings)

    def plain(self, name: str) -> Contender:
        return self._python(name, "plain", ("plain", "waitress"), "ES256", {})

    def _python(
        self, name: str, what: str, folders: Sequence[str], signing: str, settings: Mapping[str, str]
    ) -> Contender:
        command: list[str | Path] = [installed.PYTHON, "-m", "tests.bench.serve", what]
        environment = {**self.environment, **settings, "PYTHONPATH": installed.python_path(*folders)}
        return self._contender(name, Server(command, free_port(), environment), CANCEL_PATH, signing)

    def edge(self, name: str) -> Contender:
        folder = edge_folder()
        self._exit.callback(shutil.rmtree, folder, ignore_errors=True)
        environment = {**self.environment, **deno_environment(folder)}
        return self._contender(name, Server(deno_command(), free_port(), environment, folder), CANCEL_PATH, "ES256")

    def floor(self, name: str, signing: str = "ES256") -> Contender:
        return Contender(name, self.postgrest.port, self.postgrest.pid, "/rpc/cancel_sync_job", self.tokens[signing])

    def _contender(self, name: str, server: Server, path: str, signing: str) -> Contender:
        self._exit.callback(server.close)
        return Contender(name, server.port, server.pid, path, self.tokens[signing])

    @property
    def environment(self) -> dict[str, str]:
        return {"SUPABASE_URL": self.supabase_url, "SUPABASE_ANON_KEY": self.anon_key}

    # Jobs

    def queue(self, number: int, run_at: str = "2999-01-01") -> list[str]:
        """Inserts queued jobs, which are not claimed before `run_at`, and returns their ids."""
        with self.admin.transaction():
            self.admin.execute("set local role postgres")
            rows = self.admin.execute(
                "insert into app.executions (agency_id, family, run_at)"
                " select %s, 'historical_sync', %s from generate_series(1, %s) returning id::text",
                (self.agency_id, run_at, number),
            ).fetchall()
        return [str(row[0]) for row in rows]

    def close(self) -> None:
        self._exit.close()


def serve_in_process(port: int, application: WSGIApplication) -> BaseProcess:
    """Serves a WSGI application in a forked process, so that its costs can be told from those of the load."""

    def serve() -> None:
        dies_with_parent(signal.SIGKILL)()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C too, and stops us in order
        WebServer(application, port, threads=16)
        signal.pause()

    process = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
    process.start()
    return process


def edge_folder() -> Path:
    """The edge function as `supabase functions new` lays it out, with supabase-js from npm beside it."""
    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    shutil.copy(installed.HERE / "peers" / "edge_function.ts", folder / "index.ts")
    shutil.copy(installed.NPM.parent / "package.json", folder)
    (folder / "node_modules").symlink_to(installed.NPM)
    return folder


def deno_command() -> list[str | Path]:
    return [
        installed.DENO, "run", "--quiet", "--no-lock", "--cached-only", "--no-check", "--node-modules-dir=manual",
        "--allow-net", "--allow-env", "index.ts",
    ]  # fmt: skip


def deno_environment(folder: Path) -> dict[str, str]:
    """Deno keeps compiled sources in `folder`, as a deployed function does."""
    return {"DENO_DIR": str(folder / "deno"), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
