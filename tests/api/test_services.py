"""A process that may be frozen between two requests: its connections and settings are renewed without an error."""

from __future__ import annotations

import contextlib
import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from functions._local.web_server import WebServer
from functions._shared import services, signing_keys
from functions._shared.auth import Authenticator
from functions._shared.caller import Caller
from functions._shared.secret_store import SecretUnavailable
from functions._shared.services import PAUSE_SECONDS, SETTINGS_SECONDS, Services, services_for_invocation
from functions._shared.settings import Settings
from functions._shared.transports.postgres import IDLE_SECONDS, PostgresTransport
from functions._shared.transports.postgrest import PostgrestTransport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from tests.support.database import Database

CALLER = Caller("a.b.c", {"role": "authenticated"})


class Project:
    """Responds to every path. `connections` are those of the requests, and `fetched` counts the fetches of keys."""

    def __init__(self) -> None:
        self.connections: list[str] = []
        self.fetched = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        self.connections.append(environ["REMOTE_PORT"])
        self.fetched += environ["PATH_INFO"].endswith("jwks.json")
        body = json.dumps({"keys": []}).encode()
        start_response("200 OK", [("content-type", "application/json"), ("content-length", str(len(body)))])
        return [body]


@pytest.fixture
def project() -> Project:
    return Project()


@pytest.fixture
def server(project: Project) -> Iterator[WebServer]:
    made = WebServer(project)
    yield made
    made.close()


class WallClock:
    """The wall clock. The monotonic clock does not advance."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    made = WallClock()
    monkeypatch.setattr(services, "time", made)
    monkeypatch.setattr(signing_keys, "time", made.time)
    monkeypatch.setattr(signing_keys, "monotonic", lambda: 1000.0)
    return made


@pytest.fixture
def made(server: WebServer, wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    settings = Settings(server.url, "k")
    authenticator = Authenticator(server.url, api_key="k")
    made = Services(settings, authenticator, PostgrestTransport(server.url, "k"))
    monkeypatch.setattr(services, "_process", services._Process(made, wall_clock.now, wall_clock.now))
    yield made
    made.close()


@pytest.mark.parametrize(("pause", "renewed"), [(0, False), (PAUSE_SECONDS - 1, False), (PAUSE_SECONDS, True)])
def test_transport__pause__new_connection(
    project: Project, made: Services, wall_clock: WallClock, pause: float, renewed: bool
) -> None:
    services_for_invocation().transport.call("f", {}, CALLER)
    services_for_invocation().transport.call("f", {}, CALLER)
    wall_clock.now += pause
    services_for_invocation().transport.call("f", {}, CALLER)
    first, second, third = project.connections
    assert first == second
    assert (second != third) is renewed


def test_transport__clock_set_back__new_connection(project: Project, made: Services, wall_clock: WallClock) -> None:
    services_for_invocation().transport.call("f", {}, CALLER)
    wall_clock.now -= 3600
    services_for_invocation().transport.call("f", {}, CALLER)
    assert len(set(project.connections)) == 2


def fetch(keys: signing_keys.SigningKeys) -> None:
    with contextlib.suppress(signing_keys.UnknownKey):
        keys.find("a")


def test_signing_keys__pause__new_connection(project: Project, made: Services, wall_clock: WallClock) -> None:
    keys = made.authenticator._keys
    fetch(keys)
    wall_clock.now += signing_keys.LIFETIME_SECONDS
    services_for_invocation()
    fetch(keys)
    assert project.fetched == len(set(project.connections)) == 2


@pytest.mark.parametrize(("pause", "fetches"), [(PAUSE_SECONDS, 1), (signing_keys.LIFETIME_SECONDS, 2)])
def test_signing_keys__age_by_the_wall_clock(
    project: Project, made: Services, wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch, pause: float, fetches: int
) -> None:
    """The monotonic clock has not advanced."""
    keys = made.authenticator._keys
    fetch(keys)
    keys._by_id = {"a": {"kid": "a"}}
    wall_clock.now += pause
    services_for_invocation()
    fetch(keys)
    assert project.fetched == fetches


def test_postgrest_transport__connection_closed_by_the_server__not_reused(project: Project) -> None:
    """At once, so that the connection is still in the pool."""
    first = WebServer(project)
    transport = PostgrestTransport(first.url, "k")
    transport.call("f", {}, CALLER)
    first.close()
    second = WebServer(project, first.port)
    try:
        transport.call("f", {}, CALLER)
    finally:
        transport.close()
        second.close()
    assert len(set(project.connections)) == 2


@pytest.fixture
def direct(database: Database) -> Iterator[PostgresTransport]:
    with database.connect() as owner:
        owner.execute(
            "create function public.backend() returns int language sql as 'select pg_backend_pid()';"
            "grant execute on function public.backend to authenticated"
        )
    transport = PostgresTransport(database.login("authenticator"))
    yield transport
    transport.close()


def backend(transport: PostgresTransport) -> Any:
    return json.loads(transport.call("backend", {}, CALLER))


@pytest.mark.fresh_database
@pytest.mark.parametrize(("idle", "same"), [(IDLE_SECONDS - 1, True), (IDLE_SECONDS, False), (-1, False)])
def test_postgres_transport__idle_connection__not_reused(
    direct: PostgresTransport, monkeypatch: pytest.MonkeyPatch, idle: float, same: bool
) -> None:
    before = backend(direct)
    [(connection, used_at)] = direct._idle
    idle_connections = "functions._shared.transports.idle_connections.time"
    monkeypatch.setattr(idle_connections, SimpleNamespace(time=lambda: used_at + idle))
    assert (backend(direct) == before) is same
    assert connection.closed is not same


@pytest.mark.fresh_database
def test_postgres_transport__closed__connects_again(direct: PostgresTransport) -> None:
    before = backend(direct)
    direct.close()
    assert backend(direct) != before


@pytest.mark.fresh_database
def test_postgres_transport__pause__new_connection(
    direct: PostgresTransport, wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = Authenticator("http://127.0.0.1:9", api_key="k")
    made = Services(Settings("http://127.0.0.1:9", "k"), authenticator, direct)
    monkeypatch.setattr(services, "_process", services._Process(made, wall_clock.now, wall_clock.now))
    before = backend(direct)
    services_for_invocation()
    assert backend(direct) == before
    wall_clock.now += PAUSE_SECONDS
    services_for_invocation()
    assert backend(direct) != before


class Secret:
    """The secret that SETTINGS_SECRET names. `reads` counts how often it was read."""

    def __init__(self) -> None:
        self.value: dict[str, str] | Exception = {"SUPABASE_PUBLISHABLE_KEY": "first"}
        self.reads = 0

    def read(self, name: str) -> dict[str, str]:
        assert name == "the-settings"
        self.reads += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.fixture
def secret(wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Secret]:
    made = Secret()
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SETTINGS_SECRET", "the-settings")
    monkeypatch.setattr("functions._shared.secret_store.read", made.read)
    monkeypatch.setattr(services, "_process", services._Process())
    yield made
    if services._process.services:
        services._process.services.close()


def test_settings_secret__read_once_per_interval(secret: Secret, wall_clock: WallClock) -> None:
    first = services_for_invocation()
    wall_clock.now += SETTINGS_SECONDS - 1
    assert services_for_invocation() is first
    assert secret.reads == 1
    wall_clock.now += 1
    assert services_for_invocation() is first  # nothing has changed
    assert secret.reads == 2


def test_settings_secret__changed(secret: Secret, wall_clock: WallClock) -> None:
    services_for_invocation()
    secret.value = {"SUPABASE_PUBLISHABLE_KEY": "second"}
    wall_clock.now += SETTINGS_SECONDS
    assert services_for_invocation().settings.supabase_publishable_key == "second"


def test_settings_secret__unavailable(secret: Secret, wall_clock: WallClock) -> None:
    first = services_for_invocation()
    secret.value = SecretUnavailable("unavailable")
    wall_clock.now += SETTINGS_SECONDS
    assert services_for_invocation() is first
    assert services_for_invocation() is first
    assert secret.reads == 2  # read again after the next interval


def test_settings_secret__unavailable_at_the_start(secret: Secret) -> None:
    secret.value = SecretUnavailable("unavailable")
    with pytest.raises(SecretUnavailable):
        services_for_invocation()
    secret.value = {"SUPABASE_PUBLISHABLE_KEY": "first"}
    assert services_for_invocation().settings.supabase_publishable_key == "first"
