"""Both ways to the database: the same answers, the same refusals, and nothing of one call in the next."""

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

# Functions that no deployment has: they say what reached the database, or fail as told.
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
create function public.fail_with(state text, code text, sentence text, members text) returns jsonb language plpgsql as
  $$ begin
    raise exception using errcode = state, message = code, detail = sentence, hint = members;
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


class Looping(PostgresTransport):
    """`call` is `call_async`, in a loop of its own."""

    def call(self, name: str, arguments: Mapping[str, Any], caller: Caller, *headers: Mapping[str, str]) -> bytes:
        return asyncio.run(self.call_async(name, arguments, caller, *headers))


class Worker:
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


WAYS = pytest.mark.parametrize("way", [PostgresTransport, Looping])


@pytest.fixture(scope="module", params=["postgres", "loop", "postgrest", "worker"])
def rpc(request: pytest.FixtureRequest, backend: Backend) -> Iterator[Rpc]:
    if request.param == "worker":
        _ = backend.postgrest
        yield Worker(backend)
        return
    looping = request.param == "loop"
    transport = Looping(backend.database.login("authenticator")) if looping else made(request.param, backend)
    with contextlib.closing(transport):
        yield transport


@pytest.fixture(params=[PostgresTransport, Looping])
def direct(request: pytest.FixtureRequest, backend: Backend) -> Iterator[PostgresTransport]:
    with contextlib.closing(request.param(backend.database.login("authenticator"))) as transport:
        yield transport


def made(transport: Transport, backend: Backend) -> Rpc:
    if transport == "postgres":
        return PostgresTransport(backend.database.login("authenticator"))
    _ = backend.postgrest
    return PostgrestTransport(backend.url, backend.auth.anon_key())


def caller_of(token: str) -> Caller:
    return Caller(token, jwt.decode(token, options={"verify_signature": False}))


def member(backend: Backend, user: User | None = None) -> Caller:
    user = user or backend.database.member()
    return caller_of(backend.auth.mint(user.id, session_id=user.session_id))


def answer(rpc: Rpc, name: str, caller: Caller, /, request_id: str = "", **arguments: Any) -> Any:
    return json.loads(rpc.call(name, arguments, caller, {"x-request-id": request_id}))


def problem(rpc: Rpc, name: str, caller: Caller, /, **arguments: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        rpc.call(name, arguments, caller)
    return caught.value


# What is said arrives

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
def test_text_arrives_as_it_is(backend: Backend, rpc: Rpc, value: str) -> None:
    assert answer(rpc, "echo", member(backend), value=value) == {"value": value}


@pytest.mark.parametrize("value", [{}, [], [None, 1, 1.5, True, "x"], {"a": {"b": [{}]}}, HOSTILE, {"'\"\\%s": "🛑"}])
def test_json_arrives_as_it_is(backend: Backend, rpc: Rpc, value: Any) -> None:
    assert answer(rpc, "echo_json", member(backend), value=value) == {"value": value}


def test_null_is_an_answer(backend: Backend, rpc: Rpc) -> None:
    assert answer(rpc, "nothing", member(backend)) is None
    assert answer(rpc, "echo", member(backend), value=None) == {"value": None}


def test_a_nul_is_refused(backend: Backend, rpc: Rpc) -> None:
    for name, value in (("echo", "a\0b"), ("echo_json", ["a\0b"])):
        refused = problem(rpc, name, member(backend), value=value)
        assert (refused.status, refused.code) == (400, "invalid_value")


@pytest.mark.parametrize("claim", HOSTILE[:-1], ids=repr)
def test_claims_arrive_as_they_are(backend: Backend, rpc: Rpc, claim: str) -> None:
    user = backend.database.member()
    token = backend.auth.mint(user.id, session_id=user.session_id, user_metadata={"name": claim, claim: 1})
    claims = caller_of(token).claims
    assert answer(rpc, "who", caller_of(token))["claims"] == claims


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
def test_a_name_is_only_ever_a_name(backend: Backend, rpc: Rpc, name: str) -> None:
    with pytest.raises(DatabaseError):
        rpc.call(name, {"value": "x"}, member(backend))


@pytest.mark.parametrize("argument", ["nope", "", "value'", 'value" => null); --', "value) --", "日", "%s", "select"])
def test_an_argument_is_only_ever_an_argument(backend: Backend, rpc: Rpc, argument: str) -> None:
    with pytest.raises(DatabaseError):
        rpc.call("echo", {argument: "x"}, member(backend))


# Who is calling


def test_the_caller_is_who_the_token_says(backend: Backend, rpc: Rpc) -> None:
    caller = member(backend)
    seen = answer(rpc, "who", caller, "request-1")
    assert seen == {
        "role": "authenticated",
        "login": "authenticator",
        "claims": caller.claims,
        "request_id": "request-1",
    }


def test_the_service_role_acts_for_any_agency(backend: Backend, rpc: Rpc) -> None:
    service = caller_of(backend.auth.service_role_key())
    job_id = backend.database.start(backend.database.member())
    assert answer(rpc, "get_historical_sync", service, job_id=job_id)["status"] == "pending"
    assert answer(rpc, "cancel_sync_job", service, job_id=job_id)["status"] == "cancelled"
    assert backend.database.execution(job_id)["cancelled_by"] == "service_role"
    assert answer(rpc, "worker_claim", service, worker="w", families=[]) == []


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
def test_no_other_role_reaches_the_database_directly(backend: Backend, direct: PostgresTransport, role: Any) -> None:
    caller = member(backend)
    with pytest.raises(DatabaseError):
        direct.call("who", {}, dataclasses.replace(caller, claims={**caller.claims, "role": role}))


def test_an_anonymous_caller_may_call_nothing(backend: Backend) -> None:
    with contextlib.closing(made("postgrest", backend)) as rpc:
        refused = problem(rpc, "cancel_sync_job", caller_of(backend.auth.anon_key()), job_id=None)
    assert (refused.status, refused.code) == (403, "forbidden")


def test_a_token_that_postgrest_refuses_is_401(backend: Backend) -> None:
    user = backend.database.member()
    expired = backend.auth.mint(user.id, session_id=user.session_id, lifetime=-3600)
    with contextlib.closing(made("postgrest", backend)) as rpc:
        for token in (expired, expired[:-4] + "AAAA", "abc"):
            assert problem(rpc, "who", Caller(token, {})).status == 401


# Nothing of one call is in the next


def test_callers_at_once_do_not_mix(backend: Backend, rpc: Rpc) -> None:
    callers = [member(backend) for _ in range(THREADS)]

    def one(number: int) -> bool:
        seen = answer(rpc, "who", callers[number % THREADS], f"request-{number}")
        return bool(seen["claims"] == callers[number % THREADS].claims and seen["request_id"] == f"request-{number}")

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(one, range(THREADS * 5)))


def test_a_pooled_connection_remembers_nobody(backend: Backend, direct: PostgresTransport) -> None:
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


def test_a_refused_call_leaves_its_connection_for_the_next(backend: Backend, direct: PostgresTransport) -> None:
    caller = member(backend)
    answer(direct, "who", caller)
    [(connection, _)] = direct._idle
    for _ in range(3):
        problem(direct, "fail_with", caller, state="PT400", code="no", sentence="No.", members="{}")
    assert answer(direct, "echo", caller, value="x") == {"value": "x"}
    assert [idle for idle, _ in direct._idle] == [connection]


def test_a_connection_of_a_high_number_is_one_too(backend: Backend, direct: PostgresTransport) -> None:
    """A server of many clients has more than 1024 open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        for _ in range(2):
            assert answer(direct, "echo", member(backend), value="x") == {"value": "x"}
    finally:
        direct.close()
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# How much is asked


def test_a_call_is_one_round_trip_to_postgres(backend: Backend) -> None:
    with (
        Proxy(backend.database.server.port) as proxy,
        contextlib.closing(PostgresTransport(through(proxy, backend.database))) as direct,
    ):
        job_id = backend.database.start(user := backend.database.member())
        caller = member(backend, user)
        answer(direct, "who", caller)
        for name, arguments in (
            ("echo", {"value": "x"}),
            ("get_historical_sync", {"job_id": job_id}),
            ("cancel_sync_job", {"job_id": job_id}),
        ):
            before = proxy.seen
            answer(direct, name, caller, **arguments)
            assert proxy.seen - before == 1
        before = proxy.seen
        problem(direct, "cancel_sync_job", caller, job_id=job_id)
        assert proxy.seen - before == 1


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_a_request_asks_no_more_than_it_must(projects: Projects, setup: Setup) -> None:
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


# What is refused

BAD = (400, "invalid_value")
CONFLICT = (409, "conflict")
NOT_NOW = (503, "database_unavailable")
REFUSALS = {
    "22P02": BAD,
    "22003": BAD,
    "22023": BAD,
    "22P05": BAD,
    "23502": BAD,
    "23514": BAD,
    "23503": CONFLICT,
    "23505": CONFLICT,
    "42501": (403, "forbidden"),
    "55P03": NOT_NOW,
    "57014": NOT_NOW,
    "57P01": NOT_NOW,
    "57P03": NOT_NOW,
    "53300": NOT_NOW,
    "53200": NOT_NOW,
    "08006": NOT_NOW,
    "25006": NOT_NOW,  # read-only after a fail-over
}


@pytest.mark.parametrize("state", REFUSALS)
def test_a_native_refusal_shows_nothing_of_the_database(backend: Backend, rpc: Rpc, state: str) -> None:
    refused = problem(
        rpc, "fail_with", member(backend), state=state, code="t0p", sentence="t0p s3cret", members='{"a": "t0p"}'
    )
    assert (refused.status, refused.code) == REFUSALS[state]
    assert "t0p" not in repr(refused)
    assert ("retry-after" in refused.headers) == (refused.status == 503)


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_lost_race_is_not_now(backend: Backend, direct: PostgresTransport, state: str) -> None:
    """Not through PostgREST 12: it repeats such a transaction until it succeeds."""
    refused = problem(direct, "fail_with", member(backend), state=state, code="m", sentence="d", members="h")
    assert refused == database_unavailable()


@pytest.mark.parametrize(
    "state", ["P0001", "XX000", "42P01", "42703", "42883", "0A000", "21000", "25001", "P0002", "2F005"]
)
def test_anything_else_is_ours(backend: Backend, rpc: Rpc, state: str) -> None:
    with pytest.raises(DatabaseError, match=f"fail_with: {state} what") as caught:
        rpc.call("fail_with", {"state": state, "code": "what", "sentence": "d", "members": "h"}, member(backend))
    assert not isinstance(caught.value, ApiError)


@pytest.mark.parametrize(
    ("state", "members", "expected"),
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
def test_our_own_refusals(backend: Backend, rpc: Rpc, state: str, members: str, expected: dict[str, Any]) -> None:
    refused = problem(
        rpc, "fail_with", member(backend), state=state, code="a_code", sentence="It's 100 % „so“.", members=members
    )
    retry = {"retry-after": "2"} if state == "PT503" else {}
    assert refused == ApiError(int(state[2:]), "a_code", "It's 100 % „so“.", expected, retry)


def test_a_value_that_is_none_of_its_type(backend: Backend, rpc: Rpc) -> None:
    assert problem(rpc, "cancel_sync_job", member(backend), job_id="all").status == 400


def test_what_the_role_may_not_call(backend: Backend, rpc: Rpc) -> None:
    for name, arguments in (("worker_reap", {}), ("worker_claim", {"worker": "w", "families": []})):
        refused = problem(rpc, name, member(backend), **arguments)
        assert (refused.status, refused.code) == (403, "forbidden")


def test_a_row_that_another_holds_is_not_now(backend: Backend, rpc: Rpc) -> None:
    job_id = backend.database.start(user := backend.database.member())
    caller = member(backend, user)
    with backend.database.connect() as holder, holder.transaction():
        holder.execute("select from app.executions where id = %s for update", (job_id,))
        assert problem(rpc, "cancel_sync_job", caller, job_id=job_id) == database_unavailable()
    assert answer(rpc, "cancel_sync_job", caller, job_id=job_id)["status"] == "cancelled"


# What breaks


@pytest.fixture
def mortal(mortal_database: Database) -> Iterator[Backend]:
    """A project whose Postgres and PostgREST may be stopped; they are left running."""
    mortal_database.admin.execute(TEST_FUNCTIONS)
    with contextlib.closing(Backend(mortal_database, "ES256")) as made:
        yield made


def test_a_restart_between_two_calls_goes_unnoticed(mortal: Backend) -> None:
    caller = member(mortal)
    with contextlib.closing(PostgresTransport(mortal.database.login("authenticator"))) as direct:
        with direct._connection(), direct._connection(), direct._connection():
            pass  # three of them
        mortal.database.server.restart()
        mortal.database.reconnect()
        assert answer(direct, "echo", caller, value="x") == {"value": "x"}
        assert len(direct._idle) == 1


def test_a_connection_that_was_ended_goes_unnoticed(backend: Backend, direct: PostgresTransport) -> None:
    caller = member(backend)
    answer(direct, "who", caller)
    [(connection, _)] = direct._idle
    gone = "select pg_terminate_backend(%s, 10000)"
    assert backend.database.one(gone, (connection.info.backend_pid,))["pg_terminate_backend"]
    assert answer(direct, "echo", caller, value="x") == {"value": "x"}


@pytest.mark.parametrize("transport", ["postgres", "postgrest"])
def test_postgres_is_down_and_comes_back(mortal: Backend, transport: Transport) -> None:
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
            until(again)  # PostgREST takes its time to notice
        assert [event["event"] for event in project.database.events(job_id)] == ["start", "cancel"]


@pytest.mark.parametrize("transport", ["postgres", "postgrest"])
def test_a_backend_that_is_killed_outright_says_nothing(mortal: Backend, transport: Transport) -> None:
    """Not even a SQLSTATE: the connection is lost in the middle of a call, and that is not now."""
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


def test_postgrest_is_down_and_comes_back(mortal: Backend) -> None:
    caller = member(mortal)
    with contextlib.closing(made("postgrest", mortal)) as rpc:
        answer(rpc, "echo", caller, value="x")
        mortal.postgrest.stop()
        try:
            assert problem(rpc, "echo", caller, value="x") == database_unavailable()
        finally:
            mortal.postgrest.start()
        assert answer(rpc, "echo", caller, value="x") == {"value": "x"}


def test_nobody_listens(backend: Backend) -> None:
    port = free_port()
    transports: list[Rpc] = [
        PostgrestTransport(f"http://127.0.0.1:{port}", "k"),
        PostgresTransport(f"postgresql://a@127.0.0.1:{port}/x"),
    ]
    for rpc in transports:
        with contextlib.closing(rpc):
            assert problem(rpc, "echo", member(backend), value="x") == database_unavailable()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 520, 523])
def test_a_gateway_that_cannot_reach_it(status: int) -> None:
    for content in (b"", b"<html>", b'{"message": "no"}', b"null", b"[]", b'"x"'):
        assert says(status, content) == database_unavailable()


def test_a_connection_that_broke_under_postgrest_is_not_now() -> None:
    """Its own words when a backend was killed: no SQLSTATE, nothing said, and 400."""
    content = b'{"code":"","details":null,"hint":null,"message":""}'
    assert says(400, content) == database_unavailable()


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_a_gateway_that_makes_no_sense(status: int) -> None:
    for content in (b"", b"<html>", b'{"error": "t0p"}', b"\xff"):
        failure = says(status, content)
        assert isinstance(failure, DatabaseError)
        assert str(failure) == f"echo: HTTP {status}"


def says(status: int, content: bytes) -> Exception:
    """What becomes of this answer."""
    length = {"content-length": str(len(content))}
    answering = httpx.MockTransport(lambda _: httpx.Response(status, headers=length, content=content))
    rpc = PostgrestTransport("http://project.example", "k", http_transport=answering)
    with pytest.raises((ApiError, DatabaseError)) as caught:
        rpc.call("echo", {}, Caller("t", {}))
    return caught.value


def test_a_lost_answer_is_not_now_and_nothing_is_sent_twice(backend: Backend) -> None:
    """Whether it happened is not known here: the caller asks again and is told."""
    database = backend.database
    with Proxy(database.server.port) as postgres, Proxy(httpx.URL(backend.url).port or 0) as rest:
        transports: list[tuple[Proxy, Rpc]] = [
            (postgres, PostgresTransport(through(postgres, database))),
            (rest, PostgrestTransport(f"http://127.0.0.1:{rest.port}", backend.auth.anon_key())),
        ]
        _ = backend.postgrest
        for proxy, rpc in transports:
            with contextlib.closing(rpc):
                loses_an_answer(backend, proxy, rpc)


def loses_an_answer(backend: Backend, proxy: Proxy, rpc: Rpc) -> None:
    job_id = backend.database.start(user := backend.database.member())
    caller = member(backend, user)
    proxy.lose_response(b"cancel_sync_job")
    assert problem(rpc, "cancel_sync_job", caller, job_id=job_id) == database_unavailable()
    until(lambda: backend.database.execution(job_id)["status"] == "cancelled")
    again = problem(rpc, "cancel_sync_job", caller, job_id=job_id)
    assert (again.code, again.details) == ("not_cancellable", {"current_status": "cancelled"})


@WAYS
def test_a_frozen_server_is_given_up(
    backend: Backend, way: type[PostgresTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_module, "CALL_SECONDS", 0.3)
    with (
        Proxy(backend.database.server.port) as proxy,
        contextlib.closing(way(through(proxy, backend.database))) as direct,
    ):
        answer(direct, "who", caller := member(backend))
        proxy.freeze()
        assert problem(direct, "who", caller) == database_unavailable()
        assert not direct._idle
        proxy.thaw()
        answer(direct, "who", caller)


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


def test_a_client_that_sent_its_call_and_stops_holds_no_lock(backend: Backend, direct: PostgresTransport) -> None:
    job_id = backend.database.start(user := backend.database.member())
    with direct._connection() as connection:
        _send(connection, member(backend, user), job_id)
        connection.pgconn.pipeline_sync()
        connection.pgconn.flush()  # and then it reads nothing
        until(lambda: backend.database.execution(job_id)["status"] == "cancelled")
        assert backend.database.all(FREE, (job_id,)) == [{"id": job_id}]
    assert not direct._idle  # an answer that nobody read must not be the next caller's


def test_a_client_that_stops_before_the_end_is_cut_off(
    backend: Backend, direct: PostgresTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Postgres 17 on; before, it lasts as long as the connection."""
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


def test_a_loop_goes_on_while_a_call_waits(backend: Backend) -> None:
    async def scenario(direct: PostgresTransport) -> None:
        with backend.database.admin.transaction():
            backend.database.admin.execute("select pg_advisory_xact_lock(7)")
            waiting = asyncio.create_task(direct.call_async("wait_for", {"number": 7}, caller))
            others = [direct.call_async("who", {}, caller, {"x-request-id": str(n)}) for n in range(20)]
            said = [json.loads(answer)["request_id"] for answer in await asyncio.gather(*others)]
            assert said == [str(n) for n in range(20)]
            assert not waiting.done()
        assert await waiting == b'""'

    caller = member(backend)
    with contextlib.closing(PostgresTransport(backend.database.login("authenticator"))) as direct:
        asyncio.run(scenario(direct))


def test_a_call_that_was_given_up_leaves_nothing_to_the_next(backend: Backend) -> None:
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


def test_both_doors_refuse_alike(backend: Backend) -> None:
    database = backend.database
    user, stranger, nobody = database.member(), database.member(), database.user(None)
    gone = database.member()
    database.admin.execute("delete from auth.users where id = %s", (gone.id,))
    mine = database.start(user)
    connection_id = str(database.execution(mine)["connection_id"])
    unknown = "00000000-0000-4000-8000-000000000000"
    january = {"date_from": "2013-01-01", "date_to": "2013-01-31"}
    calls: list[tuple[User, str, dict[str, Any]]] = [
        *(
            (who, name, {"job_id": job_id})
            for who in (stranger, nobody, gone)
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
    with contextlib.closing(made("postgres", backend)) as one, contextlib.closing(made("postgrest", backend)) as other:
        for who, name, arguments in calls:
            caller = member(backend, who)
            assert problem(one, name, caller, **arguments) == problem(other, name, caller, **arguments)


def test_a_closed_door_may_be_opened_again(backend: Backend, direct: PostgresTransport) -> None:
    caller = member(backend)
    answer(direct, "who", caller)
    direct.close()
    assert not direct._idle
    assert answer(direct, "echo", caller, value="x") == {"value": "x"}


def test_many_threads_leave_no_connection_open(backend: Backend) -> None:
    direct = PostgresTransport(backend.database.login("authenticator"))
    barrier = threading.Barrier(THREADS)
    caller = member(backend)

    def one(_: int) -> Any:
        barrier.wait()
        return answer(direct, "echo", caller, value="x")

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(one, range(THREADS))) == [{"value": "x"}] * THREADS
    connections = [connection for connection, _ in direct._idle]
    direct.close()
    assert all(connection.closed for connection in connections)


def test_a_wrong_password_is_the_database_being_out_of_reach(backend: Backend) -> None:
    url = psycopg.conninfo.make_conninfo(backend.database.login("authenticator"), password="wrong")
    with contextlib.closing(PostgresTransport(url)) as direct:
        refused = problem(direct, "echo", member(backend), value="x")
    assert refused == database_unavailable()
