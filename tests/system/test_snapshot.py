"""A process that a snapshot is made of: what is in it, and what happens to restores of it when secrets are rotated."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from functions._local.schema import ROOT
from functions._shared import aws
from tests.support.lambda_events import HTTP_API
from tests.support.project import Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.support.database import Database, User

PAUSE_SECONDS = 0.3
SECRET = "the-settings-of-a-snapshot"  # the stand-in for AWS is one for all tests of a process

# Imports the handler, and then does what it reads: {"state": …}, {"restore": name} forks, {"to": name, "event": …}.
SCRIPT = """
import gc, json, os, socket, stat, sys, threading
from functions._shared import http_client, services
services.PAUSE_SECONDS = services.SETTINGS_SECONDS = http_client.KEEP_SECONDS = float(sys.argv[1])
from functions._shared.registry import handler

CLIENTS = ("Authenticator", "SigningKeys", "SyncGoTrueClient", "SyncPostgrestClient", "httpx.Client", "HTTPTransport",
    "PostgresTransport", "PostgrestTransport", "psycopg.Connection", "Timer", "BotocoreHTTPSession", "Services")

def state():
    gc.unfreeze()
    types = [f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects()]
    found = sorted({name for name in types if name.endswith(CLIENTS) and not name.startswith("builtins")})
    descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    def is_socket(descriptor):
        try:
            return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        except OSError:
            return False
    return {"clients": found, "sockets": sum(map(is_socket, descriptors)), "threads": threading.active_count(),
        "modules": sorted(sys.modules)}

def serve(events, results):
    for line in events:
        results.write(json.dumps(handler(json.loads(line), None)) + chr(10))
        results.flush()
    os._exit(0)

restored = {}
for line in sys.stdin:
    asked = json.loads(line)
    if "restore" in asked:
        (events_out, events_in), (results_out, results_in) = os.pipe(), os.pipe()
        if not os.fork():
            others = [pipe.fileno() for pipes in restored.values() for pipe in pipes]
            for descriptor in (0, 1, events_in, results_out, *others):
                os.close(descriptor)
            serve(os.fdopen(events_out), os.fdopen(results_in, "w"))
        os.close(events_out), os.close(results_in)
        restored[asked["restore"]] = os.fdopen(events_in, "w"), os.fdopen(results_out)
        result = {}
    elif "to" in asked:
        to, back = restored[asked["to"]]
        to.write(json.dumps(asked["event"]) + chr(10))
        to.flush()
        result = json.loads(back.readline())
    else:
        result = state()
    print(json.dumps(result), flush=True)
"""


class Snapshot:
    """The process after its initialization. `restore` makes another one of it, as often as asked."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(PAUSE_SECONDS)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, **command: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def state(self) -> Any:
        return self._ask(state=True)

    def restore(self, name: str) -> None:
        self._ask(restore=name)

    def status(self, name: str, token: str) -> int:
        """That of a list of jobs, by the restored process of this name."""
        event = {
            **HTTP_API,
            "rawPath": "/functions/v1/list-historical-syncs",
            "requestContext": {"http": {"method": "GET"}},
            "headers": {"authorization": f"Bearer {token}"},
            "body": None,
        }
        return int(self._ask(to=name, event=event)["statusCode"])

    def holds(self, secret: str) -> bool:
        """Whether the text is anywhere in the process's memory."""
        process = Path("/proc", str(self.process.pid))
        with (process / "maps").open() as maps, (process / "mem").open("rb", 0) as memory:
            for line in maps:
                area, permissions, *_ = line.split()
                if "r" not in permissions or "[v" in line:
                    continue
                start, end = (int(part, 16) for part in area.split("-"))
                memory.seek(start)
                with contextlib.suppress(OSError):
                    if secret.encode() in memory.read(end - start):
                        return True
        return False

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def backend(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Backend]:
    with clone() as database, contextlib.closing(Backend(database, "ES256")) as made:
        _ = made.postgrest
        yield made


class Login:
    """A role as `authenticator`, with a password of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.name, self.password = f"login_{secrets.token_hex(8)}", secrets.token_hex(32)
        database.admin.execute(
            f"create role {self.name} login noinherit password '{self.password}'"
            " in role anon, authenticated, service_role"
        )
        self.url = database.login(self.name).replace(database.server.password, self.password)

    def end(self) -> None:
        self._database.admin.execute(f"alter role {self.name} nologin")
        gone = "select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = %s"
        self._database.admin.execute(gone, (self.name,))

    def drop(self) -> None:
        self.end()
        self._database.admin.execute(f"drop role {self.name}")


@pytest.fixture
def logins(backend: Backend) -> Iterator[tuple[Login, Login]]:
    made = (Login(backend.database), Login(backend.database))
    yield made
    for login in made:
        login.drop()


def store(url: str) -> None:
    value = json.dumps({"DATABASE_URL": url})
    client = aws.client("secretsmanager")
    try:
        client.create_secret(Name=SECRET, SecretString=value)
    except client.exceptions.ResourceExistsException:
        client.put_secret_value(SecretId=SECRET, SecretString=value)


@pytest.fixture
def environment(backend: Backend, account: None, aws_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws_endpoint)
    return {
        "AWS_LAMBDA_FUNCTION_NAME": "api",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
        "SUPABASE_URL": backend.url,
        "SUPABASE_PUBLISHABLE_KEY": backend.auth.anon_key(),
        "AUTH_ISSUER": backend.issuer,
    }


def token(backend: Backend, user: User) -> str:
    return backend.auth.mint(user.id, session_id=user.session_id)


@pytest.mark.parametrize("transport", ["postgres", "postgrest"])
def test_snapshot__holds_neither_client_nor_secret(
    backend: Backend, environment: dict[str, str], logins: tuple[Login, Login], transport: str
) -> None:
    store(logins[0].url)
    given = environment | {"RPC_TRANSPORT": transport, "SETTINGS_SECRET": SECRET}
    with contextlib.closing(Snapshot(given)) as snapshot:
        state = snapshot.state()
        assert (state["clients"], state["sockets"], state["threads"]) == ([], 0, 1)
        assert not snapshot.holds(logins[0].password)
        assert snapshot.holds(environment["SUPABASE_PUBLISHABLE_KEY"])  # the search finds what is there
        # What takes long to import is in it.
        client = {"postgres": "psycopg", "postgrest": "postgrest"}[transport]
        assert {client, "supabase_auth", "cryptography.hazmat.primitives.asymmetric.ec"} <= {*state["modules"]}
        snapshot.restore("first")
        assert snapshot.status("first", token(backend, backend.database.member())) == 200


@pytest.mark.parametrize("transport", ["postgres", "postgrest"])
def test_restored_process__after_a_pause_and_a_rotation_of_all_secrets(
    backend: Backend, environment: dict[str, str], logins: tuple[Login, Login], transport: str
) -> None:
    user = backend.database.member()
    before, after = logins
    store(before.url)
    given = environment | {"RPC_TRANSPORT": transport, "SETTINGS_SECRET": SECRET}
    with contextlib.closing(Snapshot(given)) as snapshot:
        snapshot.restore("warm")
        old = token(backend, user)
        assert snapshot.status("warm", old) == 200
        if transport == "postgres":
            store(after.url)
            before.end()
            backend.auth.rotate_key()  # PostgREST was started with the keys of its time
        time.sleep(2 * PAUSE_SECONDS)
        for name in ("warm", "restored later"):
            if name != "warm":
                snapshot.restore(name)
            for each in (token(backend, user), old):
                assert snapshot.status(name, each) == 200, name
