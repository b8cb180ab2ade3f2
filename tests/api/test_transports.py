"""Both transports return the same responses and the same errors, and no call affects the next."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import psycopg
import pytest

from functions._local.postgres import free_port
from functions._shared.caller import Caller
from functions._shared.errors import ApiError, database_unavailable
from functions._shared.transports import DatabaseError
from functions._shared.transports import postgres as rpc_module
from functions._shared.transports.postgres import PostgresTransport, _identify, _identity
from functions._shared.transports.postgrest import PostgrestTransport
from functions.worker import supabase_transport
from tests.support.project import SETUPS, THREADS, Backend, Project, Setup
from tests.support.proxy import Proxy
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from functions._shared.transports import Transport as Rpc
    from tests.support.database import Database, User
    from tests.support.project import Projects, Transport

# Functions that only this test has. They return what reached the database, or raise the given error.
TEST_FUNCTIONS = """
create function public.echo(value text) returns jsonb language sql as
  $$ select jsonb_build_object('value', value) $$;
create function public.echo_json(value jsonb) returns jsonb language sql as
  $$ select jsonb_build_object('value', value) $$;
create function public.nothing() returns jsonb language sql as $$ select null::jsonb $$;
create function public.who() returns jsonb language sql as
  $$ select jsonb_build_object('role', current_user, 'login', session_user,
    'claims', current_setting('request.jwt.claims')::jsonb,
    'request_id', current_setting('request.headers')::jsonb ->> 'x-request-id') $$;
create function public.fail_with(state text, code text, detail_text text, hint_text text) returns jsonb
  language plpgsql as $$ begin
    raise exception using errcode = state, message = code, detail = detail_text, hint = hint_text;
  end $$;
create function public.wait_for(number int) returns jsonb language sql as
  $$ select to_jsonb(pg_advisory_xact_lock(number)::text) $$;
-- Not to make the tests wait: the functions' own limit is seconds.
alter function app.cancel_execution set lock_timeout = '50ms';
"""


@pytest.fixture(scope="module")
def backend(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Backend]:
    with clone() as database:
        database.admin.execute(TEST_FUNCTIONS)
        with contextlib.closing(Backend(database, "ES256")) as made:
            yield made


class AsyncPostgresTransport(PostgresTransport):
    """`call` is `call_async`, in a loop of its own."""

    def call(self, name: str, arguments: Mapping[str, Any], caller: Caller, *headers: Mapping[str, str]) -> bytes:
        return asyncio.run(self.call_async(name, arguments, caller, *headers))


class WorkerTransport:
    """The worker's transport through PostgREST, in a loop of its own for each call."""

    def __init__(self, backend: Backend) -> None:
        self._url, self._key = backend.url, backend.auth.anon_key()

    def call(self, name: str, arguments: Mapping[str, Any], caller: Caller, *headers: Mapping[str, str]) -> bytes:
        return asyncio.run(self._call(name, arguments, caller, *headers))

    async def _call(self, *call: Any) -> bytes:
        async with contextlib.aclosing(await supabase_transport.connect(self._url, self._key)) as transport:
            return await transport.call_async(*call)

    def close(self) -> None:
        pass


TRANSPORT_CLASSES = pytest.mark.parametrize("transport_class", [PostgresTransport, AsyncPostgresTransport])


@pytest.fixture(scope="module", params=["postgres", "loop", "postgrest", "worker"])
def rpc(request: pytest.FixtureRequest, backend: Backend) -> Iterator[Rpc]:
    if request.param == "worker":
        _ = backend.postgrest
        yield WorkerTransport(backend)
        return
    looping = request.param == "loop"
    transport = (
        AsyncPostgresTransport(backend.database.login("authenticator"))
        if looping
        else make_transport(request.param, backend)
    )
    with contextlib.closing(transport):
        yield transport


@pytest.fixture(params=[PostgresTransport, AsyncPostgresTransport])
def direct(request: pytest.FixtureRequest, backend: Backend) -> Iterator[PostgresTransport]:
    with contextlib.closing(request.param(backend.database.login("authenticator"))) as transport:
        yield transport


def make_transport(transport: Transport, backend: Backend) -> Rpc:
    if transport == "postgres":
        return PostgresTransport(backend.database.login("authenticator"))
    _ = backend.postgrest
    return PostgrestTransport(backend.url, backend.auth.anon_key())


def caller_of(token: str) -> Caller:
    return Caller(token, jwt.decode(token, options={"verify_signature": False}))


def member(backend: Backend, user: User | None = None) -> Caller:
    user = user or backend.database.member()
    return caller_of(backend.auth.mint(user.id, session_id=user.session_id))


def result(rpc: Rpc, name: str, caller: Caller, /, request_id: str = "", **arguments: Any) -> Any:
    return json.loads(rpc.call(name, arguments, caller, {"x-request-id": request_id}))


def api_error(rpc: Rpc, name: str, caller: Caller, /, **arguments: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        rpc.call(name, arguments, caller)
    return caught.value


# Arguments arrive unchanged

HOSTILE = [
    "",
    "'",
    "''; drop table app.executions; --",
    "%s %(value)s %%",
    "\\",
    "\\'; select 1; --",
    "$$ $1 $x$",
    '"',
    "null",
    "true",
    "1",
    "{}",
    "[1]",
    "a\nb\r\tc",
    "\u0001\u007f\u2028\u202e",
    "日本語 🛑",
    "x" * 100_000,
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
def test_arguments__text_is_unchanged(backend: Backend, rpc: Rpc, value: str) -> None:
    assert result(rpc, "echo", member(backend), value=value) == {"value": value}


@pytest.mark.parametrize("value", [{}, [], [None, 1, 1.5, True, "x"], {"a": {"b": [{}]}}, HOSTILE, {"'\"\\%s": "🛑"}])
def test_arguments__json_is_unchanged(backend: Backend, rpc: Rpc, value: Any) -> None:
    assert result(rpc, "echo_json", member(backend), value=value) == {"value": value}


def test_response__null(backend: Backend, rpc: Rpc) -> None:
    assert result(rpc, "nothing", member(backend)) is None
    assert result(rpc, "echo", member(backend), value=None) == {"value": None}


def test_arguments__nul_is_rejected(backend: Backend, rpc: Rpc) -> None:
    for name, value in (("echo", "a\0b"), ("echo_json", ["a\0b"])):
        caught = api_error(rpc, name, member(backend), value=value)
        assert (caught.status, caught.code) == (400, "invalid_value")


@pytest.mark.parametrize("claim", HOSTILE[:-1], ids=repr)
def test_claims__are_unchanged(backend: Backend, rpc: Rpc, claim: str) -> None:
    user = backend.database.member()
    token = backend.auth.mint(user.id, session_id=user.session_id, user_metadata={"name": claim, claim: 1})
    claims = caller_of(token).claims
    assert result(rpc, "who", caller_of(token))["claims"] == claims


@pytest.mark.parametrize(
    "name",
    [
        "nope",
        "",
        'echo"(value => null); --',
        "echo(null)",
        "echo?value=x",
        "../agencies",
        "..",
        "echo/",
        "app.raise_error",
        "日",
        "%s",
        "a b",
    ],
)
def test_function_name__cannot_inject(backend: Backend, rpc: Rpc, name: str) -> None:
    with pytest.raises(DatabaseError):
        rpc.call(name, {"value": "x"}, member(backend))


@pytest.mark.parametrize("argument", ["nope", "", "value'", 'value" => null); --', "value) --", "日", "%s", "select"])
def test_argument_name__cannot_inject(backend: Backend, rpc: Rpc, argument: str) -> None:
    with pytest.raises(DatabaseError):
        rpc.call("echo", {argument: "x"}, member(backend))


# The caller's identity


def test_caller__role_claims_and_request_id(backend: Backend, rpc: Rpc) -> None:
    caller = member(backend)
    seen = result(rpc, "who", caller, "request-1")
    assert seen == {
        "role": "authenticated",
        "login": "authenticator",
        "claims": caller.claims,
        "request_id": "request-1",
    }


def test_caller__service_role_acts_for_any_agency(backend: Backend, rpc: Rpc) -> None:
    service = caller_of(backend.auth.service_role_key())
    job_id = backend.database.start(backend.database.member())
    assert result(rpc, "get_historical_sync", service, job_id=job_id)["status"] == "pending"
    assert result(rpc, "cancel_sync_job", service, job_id=job_id)["status"] == "cancelled"
    assert backend.database.execution(job_id)["cancelled_by"] == "service_role"
    assert result(rpc, "worker_claim", service, worker="w", families=[]) == []


@pytest.mark.parametrize(
    "role",
    [
        None,
        "",
        "anon",
        "authenticator",
        "postgres",
        "supabase_admin",
        "none",
        "Authenticated",
        ["authenticated"],
        "authenticated'; --",
    ],
    ids=repr,
)
def test_postgres_transport__other_role_is_rejected(backend: Backend, direct: PostgresTransport, role: Any) -> None:
    caller = member(backend)
    with pytest.raises(DatabaseError):
        direct.call("who", {}, dataclasses.replace(caller, claims={**caller.claims, "role": role}))


def test_postgrest_transport__anonymous_caller_is_forbidden(backend: Backend) -> None:
    with contextlib.closing(make_transport("postgrest", backend)) as rpc:
        caught = api_error(rpc, "cancel_sync_job", caller_of(backend.auth.anon_key()), job_id=None)
    assert (caught.status, caught.code) == (403, "forbidden")


def test_postgrest_transport__rejected_token_is_401(backend: Backend) -> None:
    user = backend.database.member()
    expired = backend.auth.mint(user.id, session_id=user.session_id, lifetime=-3600)
    with contextlib.closing(make_transport("postgrest", backend)) as rpc:
        for token in (expired, expired[:-4] + "AAAA", "abc"):
            assert api_error(rpc, "who", Caller(token, {})).status == 401


# No call affects the next


def test_transport__concurrent_callers_do_not_mix(backend: Backend, rpc: Rpc) -> None:
    callers = [member(backend) for _ in range(THREADS)]

    def one(number: int) -> bool:
        seen = result(rpc, "who", callers[number % THREADS], f"request-{number}")
        return bool(seen["claims"] == callers[number % THREADS].claims and seen["request_id"] == f"request-{number}")

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(one, range(THREADS * 5)))


def test_postgres_transport__pooled_connection_keeps_no_caller(backend: Backend, direct: PostgresTransport) -> None:
    fresh = left_behind(direct)
    for name, arguments in (("who", {}), ("nope", {}), ("echo", {"value": "a\0b"})):
        with contextlib.suppress(DatabaseError, ApiError):
            direct.call(name, arguments, member(backend), {"x-request-id": "r"})
        assert left_behind(direct) == fresh
    with contextlib.suppress(ApiError):
        direct.call(
            "cancel_sync_job",
            {"job_id": "00000000-0000-4000-8000-000000000000"},
            member(backend),
            {"x-request-id": "r"},
        )
    assert left_behind(direct) == fresh
    assert len(direct._idle) == 1


def left_behind(direct: PostgresTransport) -> Any:
    with direct._connection() as connection:
        return connection.execute(
            "select current_user, coalesce(current_setting('request.jwt.claims', true), ''),"
            " coalesce(current_setting('request.headers', true), ''),"
            " current_setting('idle_in_transaction_session_timeout'), current_setting('search_path'),"
            " (select count(*) from pg_prepared_statements)"
        ).fetchone()


def test_postgres_transport__connection_is_reused_after_an_error(backend: Backend, direct: PostgresTransport) -> None:
    caller = member(backend)
    result(direct, "who", caller)
    [(connection, _)] = direct._idle
    for _ in range(3):
        api_error(direct, "fail_with", caller, state="PT400", code="no", detail_text="No.", hint_text="{}")
    assert result(direct, "echo", caller, value="x") == {"value": "x"}
    assert [idle for idle, _ in direct._idle] == [connection]


def test_postgres_transport__file_descriptor_above_1024(backend: Backend, direct: PostgresTransport) -> None:
    """A server with many clients has more than 1024 open files, more than select() supports."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        for _ in range(2):
            assert result(direct, "echo", member(backend), value="x") == {"value": "x"}
    finally:
        direct.close()
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Round trips


def test_postgres_transport__one_round_trip_per_call(backend: Backend) -> None:
    with (
        Proxy(backend.database.server.port) as proxy,
        contextlib.closing(PostgresTransport(through(proxy, backend.database))) as direct,
    ):
        job_id = backend.database.start(user := backend.database.member())
        caller = member(backend, user)
        result(direct, "who", caller)
        for name, arguments in (
            ("echo", {"value": "x"}),
            ("get_historical_sync", {"job_id": job_id}),
            ("cancel_sync_job", {"job_id": job_id}),
        ):
            before = proxy.seen
            result(direct, name, caller, **arguments)
            assert proxy.seen - before == 1
        before = proxy.seen
        api_error(direct, "cancel_sync_job", caller, job_id=job_id)
        assert proxy.seen - before == 1


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_request__no_unnecessary_requests(projects: Projects, setup: Setup) -> None:
    project = projects(setup)
    user = project.database.member()
    job_id, token = project.job(user), project.token(user)
    assert project.get(token, job_id).status_code == 200  # the keys are fetched once
    before = len(project.backend.requests)
    assert project.cancel(token, {"job_id": job_id}).status_code == 200
    auth = [] if (setup.signing, setup.check) == ("ES256", "claims") else ["GET /auth/v1/user"]
    rest = ["POST /rest/v1/rpc/cancel_sync_job"] if setup.transport == "postgrest" else []
    assert project.backend.requests[before:] == auth + rest


def through(proxy: Proxy, database: Database) -> str:
    return database.login("authenticator").replace(f":{database.server.port}/", f":{proxy.port}/")


# Errors of the database

INVALID_VALUE = (400, "invalid_value")
CONFLICT = (409, "conflict")
UNAVAILABLE = (503, "database_unavailable")
SQL_ERRORS = {
    "22P02": INVALID_VALUE,
    "22003": INVALID_VALUE,
    "22023": INVALID_VALUE,
    "22P05": INVALID_VALUE,
    "23502": INVALID_VALUE,
    "23514": INVALID_VALUE,
    "23503": CONFLICT,
    "23505": CONFLICT,
    "42501": (403, "forbidden"),
    "55P03": UNAVAILABLE,
    "57014": UNAVAILABLE,
    "57P01": UNAVAILABLE,
    "57P03": UNAVAILABLE,
    "53300": UNAVAILABLE,
    "53200": UNAVAILABLE,
    "08006": UNAVAILABLE,
    "25006": UNAVAILABLE,  # read-only after a fail-over
}


@pytest.mark.parametrize("state", SQL_ERRORS)
def test_sql_error__shows_nothing_of_the_database(backend: Backend, rpc: Rpc, state: str) -> None:
    caught = api_error(
        rpc, "fail_with", member(backend), state=state, code="t0p", detail_text="t0p s3cret", hint_text='{"a": "t0p"}'
    )
    assert (caught.status, caught.code) == SQL_ERRORS[state]
    assert "t0p" not in repr(caught)
    assert ("retry-after" in caught.headers) == (caught.status == 503)


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_sql_error__lost_race_is_503(backend: Backend, direct: PostgresTransport, state: str) -> None:
    """Not through PostgREST 12, which repeats such a transaction until it succeeds."""
    caught = api_error(direct, "fail_with", member(backend), state=state, code="m", detail_text="d", hint_text="h")
    assert caught == database_unavailable()


@pytest.mark.parametrize(
    "state", ["P0001", "XX000", "42P01", "42703", "42883", "0A000", "21000", "25001", "P0002", "2F005"]
)
def test_sql_error__any_other_is_internal(backend: Backend, rpc: Rpc, state: str) -> None:
    with pytest.raises(DatabaseError, match=f"fail_with: {state} what") as caught:
        rpc.call("fail_with", {"state": state, "code": "what", "detail_text": "d", "hint_text": "h"}, member(backend))
    assert not isinstance(caught.value, ApiError)


@pytest.mark.parametrize(
    ("state", "details", "expected"),
    [
        ("PT400", '{"current_status": "failed", "n": [1]}', {"current_status": "failed", "n": [1]}),
        ("PT401", "{}", {}),
        ("PT403", "", {}),
        ("PT404", "[1]", {}),
        ("PT409", '{"job_id": "日本 🛑 \\" \\\\"}', {"job_id": '日本 🛑 " \\'}),
        ("PT413", "{}", {}),
        ("PT422", "no JSON", {}),
        ("PT503", "{}", {}),
    ],
)
def test_raised_error__status_code_message_and_details(
    backend: Backend, rpc: Rpc, state: str, details: str, expected: dict[str, Any]
) -> None:
    caught = api_error(
        rpc, "fail_with", member(backend), state=state, code="a_code", detail_text="It's 100 % „so“.", hint_text=details
    )
    retry = {"retry-after": "2"} if state == "PT503" else {}
    assert caught == ApiError(int(state[2:]), "a_code", "It's 100 % „so“.", expected, retry)


def test_arguments__value_of_another_type(backend: Backend, rpc: Rpc) -> None:
    assert api_error(rpc, "cancel_sync_job", member(backend), job_id="all").status == 400


def test_caller__user_may_not_call_worker_functions(backend: Backend, rpc: Rpc) -> None:
    for name, arguments in (("worker_reap", {}), ("worker_claim", {"worker": "w", "families": []})):
        caught = api_error(rpc, name, member(backend), **arguments)
        assert (caught.status, caught.code) == (403, "forbidden")


def test_call__locked_row_is_503(backend: Backend, rpc: Rpc) -> None:
    job_id = backend.database.start(user := backend.database.member())
    caller = member(backend, user)
    with backend.database.connect() as holder, holder.transaction():
        holder.execute("select from app.executions where id = %s for update", (job_id,))
        assert api_error(rpc, "cancel_sync_job", caller, job_id=job_id) == database_unavailable()
    assert result(rpc, "cancel_sync_job", caller, job_id=job_id)["status"] == "cancelled"


# Failures


@pytest.fixture
def mortal(mortal_database: Database) -> Iterator[Backend]:
    """A project whose Postgres and PostgREST may be stopped; they are left running."""
    mortal_database.admin.execute(TEST_FUNCTIONS)
    with contextlib.closing(Backend(mortal_database, "ES256")) as made:
        yield made


def test_postgres_transport__server_restarted_between_calls(mortal: Backend) -> None:
    caller = member(mortal)
    with contextlib.closing(PostgresTransport(mortal.database.login("authenticator"))) as direct:
        with direct._connection(), direct._connection(), direct._connection():
            pass  # opens three
        mortal.database.server.restart()
        mortal.database.reconnect()
        assert result(direct, "echo", caller, value="x") == {"value": "x"}
        assert len(direct._idle) == 1


def test_postgres_transport__idle_connection_terminated(backend: Backend, direct: PostgresTransport) -> None:
    caller = member(backend)
    result(direct, "who", caller)
    [(connection, _)] = direct._idle
    gone = "select pg_terminate_backend(%s, 10000)"
    assert backend.database.one(gone, (connection.info.backend_pid,))["pg_terminate_backend"]
    assert result(direct, "echo", caller, value="x") == {"value": "x"}


@pytest.mark.parametrize("transport", ["postgres", "postgrest"])
def test_cancel__postgres_is_down_and_comes_back(mortal: Backend, transport: Transport) -> None:
    with Project(Setup(transport), mortal) as project:
        job_id = project.job(user := project.database.member())
        token = project.token(user)
        assert project.get(token, job_id).status_code == 200

        project.database.server.stop()
        try:
            for _ in range(3):
                response = project.cancel(token, {"job_id": job_id})
                assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
                assert int(response.headers["retry-after"]) > 0
                assert set(response.json()) == {"error", "code", "requestId"}
        finally:
            project.database.server.start()
            project.database.reconnect()

        def again() -> httpx.Response | None:
            response = project.cancel(token, {"job_id": job_id})
            assert response.status_code in {200, 503}, response.text
            return response if response.status_code == 200 else None

        if transport == "postgres":
            assert again()  # the first
        else:
            until(again)  # PostgREST notices only after a while
        assert [event["event"] for event in project.database.events(job_id)] == ["start", "cancel"]


@pytest.mark.parametrize("transport", ["postgres", "postgrest"])
def test_cancel__backend_is_killed(mortal: Backend, transport: Transport) -> None:
    """The connection is lost in the middle of a call, without a SQLSTATE."""
    database = mortal.database
    database.admin.execute("alter function app.cancel_execution set lock_timeout = '30s'")
    job_id = database.start(user := database.member())
    waits = "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with Project(Setup(transport), mortal) as project, ThreadPoolExecutor(1) as thread:
        holder = database.connect()
        holder.execute("begin")
        holder.execute("select from app.executions where id = %s for update", (job_id,))
        cancel = thread.submit(project.cancel, project.token(user), {"job_id": job_id})
        os.kill(until(lambda: database.all(waits))[0]["pid"], signal.SIGKILL)
        response = cancel.result(30)
        until(lambda: is_lost(holder))  # the server ends all other connections, and until then it accepts new ones
    until(lambda: has_recovered(database))
    assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")


def is_lost(connection: psycopg.Connection[Any]) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        connection.execute("select")
    return connection.closed


def has_recovered(database: Database) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        database.reconnect()
        return True
    return False


def test_postgrest_transport__postgrest_is_down_and_comes_back(mortal: Backend) -> None:
    caller = member(mortal)
    with contextlib.closing(make_transport("postgrest", mortal)) as rpc:
        result(rpc, "echo", caller, value="x")
        mortal.postgrest.stop()
        try:
            assert api_error(rpc, "echo", caller, value="x") == database_unavailable()
        finally:
            mortal.postgrest.start()
        assert result(rpc, "echo", caller, value="x") == {"value": "x"}


def test_transport__connection_refused(backend: Backend) -> None:
    port = free_port()
    transports: list[Rpc] = [
        PostgrestTransport(f"http://127.0.0.1:{port}", "k"),
        PostgresTransport(f"postgresql://a@127.0.0.1:{port}/x"),
    ]
    for rpc in transports:
        with contextlib.closing(rpc):
            assert api_error(rpc, "echo", member(backend), value="x") == database_unavailable()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 520, 523])
def test_postgrest_transport__gateway_cannot_reach_postgrest(status: int) -> None:
    for content in (b"", b"<html>", b'{"message": "no"}', b"null", b"[]", b'"x"'):
        assert error_for(status, content) == database_unavailable()


def test_postgrest_transport__its_connection_broke() -> None:
    """If a backend was killed, PostgREST returns 400 without SQLSTATE and message."""
    content = b'{"code":"","details":null,"hint":null,"message":""}'
    assert error_for(400, content) == database_unavailable()


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_postgrest_transport__unexpected_gateway_response(status: int) -> None:
    for content in (b"", b"<html>", b'{"error": "t0p"}', b"\xff"):
        failure = error_for(status, content)
        assert isinstance(failure, DatabaseError)
        assert str(failure) == f"echo: HTTP {status}"


def error_for(status: int, content: bytes) -> Exception:
    """The error that this response of a gateway becomes."""
    length = {"content-length": str(len(content))}
    gateway = httpx.MockTransport(lambda _: httpx.Response(status, headers=length, content=content))
    rpc = PostgrestTransport("http://project.example", "k", http_transport=gateway)
    with pytest.raises((ApiError, DatabaseError)) as caught:
        rpc.call("echo", {}, Caller("t", {}))
    return caught.value


def test_transport__lost_response_is_503_and_the_call_is_not_repeated(backend: Backend) -> None:
    """Only the database can tell whether the call ran: the caller repeats it."""
    database = backend.database
    with Proxy(database.server.port) as postgres, Proxy(httpx.URL(backend.url).port or 0) as rest:
        transports: list[tuple[Proxy, Rpc]] = [
            (postgres, PostgresTransport(through(postgres, database))),
            (rest, PostgrestTransport(f"http://127.0.0.1:{rest.port}", backend.auth.anon_key())),
        ]
        _ = backend.postgrest
        for proxy, rpc in transports:
            with contextlib.closing(rpc):
                check_lost_response(backend, proxy, rpc)


def check_lost_response(backend: Backend, proxy: Proxy, rpc: Rpc) -> None:
    job_id = backend.database.start(user := backend.database.member())
    caller = member(backend, user)
    proxy.lose_response(b"cancel_sync_job")
    assert api_error(rpc, "cancel_sync_job", caller, job_id=job_id) == database_unavailable()
    until(lambda: backend.database.execution(job_id)["status"] == "cancelled")
    again = api_error(rpc, "cancel_sync_job", caller, job_id=job_id)
    assert (again.code, again.details) == ("not_cancellable", {"current_status": "cancelled"})


@TRANSPORT_CLASSES
def test_postgres_transport__frozen_server_times_out(
    backend: Backend, transport_class: type[PostgresTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_module, "CALL_SECONDS", 0.3)
    with (
        Proxy(backend.database.server.port) as proxy,
        contextlib.closing(transport_class(through(proxy, backend.database))) as direct,
    ):
        result(direct, "who", caller := member(backend))
        proxy.freeze()
        assert api_error(direct, "who", caller) == database_unavailable()
        assert not direct._idle
        proxy.thaw()
        result(direct, "who", caller)


def _send(connection: psycopg.Connection[Any], caller: Caller, job_id: str) -> None:
    """Everything of a cancel but the pipeline's end, on its way to the server."""
    raw = connection.pgconn
    raw.enter_pipeline_mode()
    raw.send_query_params(_identify(connection.info.server_version).encode(), _identity(caller, {}))
    raw.send_query_params(b"select public.cancel_sync_job(job_id => $1)", [job_id.encode()])
    raw.send_flush_request()
    raw.flush()


def is_free(backend: Backend, job_id: str) -> bool:
    try:
        return backend.database.all(FREE, (job_id,)) == [{"id": job_id}]
    except psycopg.errors.LockNotAvailable:
        return False


FREE = "select id::text from app.executions where id = %s for update nowait"


def test_postgres_transport__client_stops_after_its_call(backend: Backend, direct: PostgresTransport) -> None:
    job_id = backend.database.start(user := backend.database.member())
    with direct._connection() as connection:
        _send(connection, member(backend, user), job_id)
        connection.pgconn.pipeline_sync()
        connection.pgconn.flush()  # and then reads nothing
        until(lambda: backend.database.execution(job_id)["status"] == "cancelled")
        assert backend.database.all(FREE, (job_id,)) == [{"id": job_id}]
    assert not direct._idle  # an unread response must not be returned to the next caller


def test_postgres_transport__client_stops_before_the_end_of_its_call(
    backend: Backend, direct: PostgresTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Postgres 17 on. Before, the lock lasts as long as the connection."""
    job_id = backend.database.start(user := backend.database.member())
    with direct._connection() as connection:
        if connection.info.server_version < 170000:
            return
        monkeypatch.setattr(rpc_module, "TRANSACTION_TIMEOUT", "200ms")
        _send(connection, member(backend, user), job_id)
        until(lambda: not is_free(backend, job_id))
        until(lambda: is_free(backend, job_id))
        assert backend.database.execution(job_id)["status"] == "queued"
    assert not direct._idle


def test_call_async__other_calls_run_while_one_waits(backend: Backend) -> None:
    async def scenario(direct: PostgresTransport) -> None:
        with backend.database.admin.transaction():
            backend.database.admin.execute("select pg_advisory_xact_lock(7)")
            waiting = asyncio.create_task(direct.call_async("wait_for", {"number": 7}, caller))
            others = [direct.call_async("who", {}, caller, {"x-request-id": str(n)}) for n in range(20)]
            request_ids = [json.loads(body)["request_id"] for body in await asyncio.gather(*others)]
            assert request_ids == [str(n) for n in range(20)]
            assert not waiting.done()
        assert await waiting == b'""'

    caller = member(backend)
    with contextlib.closing(PostgresTransport(backend.database.login("authenticator"))) as direct:
        asyncio.run(scenario(direct))


def test_call_async__cancelled_call_does_not_affect_the_next(backend: Backend) -> None:
    async def scenario(direct: PostgresTransport) -> None:
        await direct.call_async("who", {}, caller)
        with backend.database.admin.transaction():
            backend.database.admin.execute("select pg_advisory_xact_lock(7)")
            waiting = asyncio.create_task(direct.call_async("wait_for", {"number": 7}, caller))
            await asyncio.sleep(0)
            assert not direct._idle
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not direct._idle
        assert json.loads(await direct.call_async("who", {}, caller, {"x-request-id": "next"}))["request_id"] == "next"

    caller = member(backend)
    with contextlib.closing(PostgresTransport(backend.database.login("authenticator"))) as direct:
        asyncio.run(scenario(direct))


def test_transports__same_errors(backend: Backend) -> None:
    database = backend.database
    user, stranger, outsider = database.member(), database.member(), database.user(None)
    gone = database.member()
    database.admin.execute("delete from auth.users where id = %s", (gone.id,))
    mine = database.start(user)
    connection_id = str(database.execution(mine)["connection_id"])
    unknown = "00000000-0000-4000-8000-000000000000"
    january = {"date_from": "2013-01-01", "date_to": "2013-01-31"}
    calls: list[tuple[User, str, dict[str, Any]]] = [
        *(
            (who, name, {"job_id": job_id})
            for who in (stranger, outsider, gone)
            for job_id in (mine, unknown)
            for name in ("cancel_sync_job", "get_historical_sync")
        ),
        (user, "cancel_sync_job", {"job_id": mine, "reason": "x" * 501}),
        (user, "start_historical_sync", {"connection_id": connection_id, **january}),
        (user, "start_historical_sync", {"connection_id": connection_id, **january, "resources": ["nope"]}),
        (user, "start_historical_sync", {"connection_id": connection_id, **january, "resources": []}),
        (user, "start_historical_sync", {"connection_id": connection_id, **january, "date_to": "2012-01-01"}),
        (user, "start_historical_sync", {"connection_id": connection_id, **january, "date_to": "2012-02-31"}),
        (user, "start_historical_sync", {"connection_id": unknown, **january}),
        (stranger, "start_historical_sync", {"connection_id": connection_id, **january}),
    ]
    with (
        contextlib.closing(make_transport("postgres", backend)) as direct,
        contextlib.closing(make_transport("postgrest", backend)) as rest,
    ):
        for who, name, arguments in calls:
            caller = member(backend, who)
            assert api_error(direct, name, caller, **arguments) == api_error(rest, name, caller, **arguments)


def test_postgres_transport__call_after_close(backend: Backend, direct: PostgresTransport) -> None:
    caller = member(backend)
    result(direct, "who", caller)
    direct.close()
    assert not direct._idle
    assert result(direct, "echo", caller, value="x") == {"value": "x"}


def test_postgres_transport__close_after_many_threads(backend: Backend) -> None:
    direct = PostgresTransport(backend.database.login("authenticator"))
    barrier = threading.Barrier(THREADS)
    caller = member(backend)

    def one(_: int) -> Any:
        barrier.wait()
        return result(direct, "echo", caller, value="x")

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(one, range(THREADS))) == [{"value": "x"}] * THREADS
    connections = [connection for connection, _ in direct._idle]
    direct.close()
    assert all(connection.closed for connection in connections)


def test_postgres_transport__wrong_password_is_503(backend: Backend) -> None:
    url = psycopg.conninfo.make_conninfo(backend.database.login("authenticator"), password="wrong")
    with contextlib.closing(PostgresTransport(url)) as direct:
        caught = api_error(direct, "echo", member(backend), value="x")
    assert caught == database_unavailable()
