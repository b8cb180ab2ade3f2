"""app.identify(), app.agency_id() and app.caller(): the caller that a token identifies, in RPCs, views and tables."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support.database import SERVICE, SqlError, rpc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.database import Database, Session, User

pytestmark = pytest.mark.sql

MALFORMED = ("", "x", "00000000", "{}", "' or true --", "00000000-0000-0000-0000-00000000000g", "\n", "0" * 32)


def sign_out(database: Database, user: User) -> Mapping[str, Any]:
    database.admin.execute("delete from auth.sessions where id = %s", (user.session_id,))
    return user.claims


def delete_user(database: Database, user: User) -> Mapping[str, Any]:
    database.admin.execute("delete from auth.users where id = %s", (user.id,))
    return user.claims


def delete_softly(database: Database, user: User) -> Mapping[str, Any]:
    database.admin.execute("update auth.users set deleted_at = now() where id = %s", (user.id,))
    return user.claims


def anothers_session(database: Database, user: User) -> Mapping[str, Any]:
    return user.claims | {"session_id": database.user(user.agency_id).session_id}


def anothers_sub(database: Database, user: User) -> Mapping[str, Any]:
    return user.claims | {"sub": database.user(user.agency_id).id}


def no_such_session(_: Database, user: User) -> Mapping[str, Any]:
    return user.claims | {"session_id": str(uuid.uuid4())}


def no_such_user(_: Database, user: User) -> Mapping[str, Any]:
    return {"sub": str(uuid.uuid4()), "role": "authenticated", "agency_id": user.agency_id}


def no_claims(_: Database, __: User) -> Mapping[str, Any]:
    return {}


def no_sub(_: Database, user: User) -> Mapping[str, Any]:
    return {key: value for key, value in user.claims.items() if key != "sub"}


def a_list_as_sub(_: Database, user: User) -> Mapping[str, Any]:
    return user.claims | {"sub": [user.id]}


def service_role_in_the_claims_only(_: Database, __: User) -> Mapping[str, Any]:
    return SERVICE


NO_CALLER = {"user_id": None, "api_key_id": None, "agency_id": None, "is_live": False}
NOT_LIVE = [
    sign_out, delete_user, delete_softly, anothers_session, anothers_sub, no_such_session, no_such_user, no_claims,
    no_sub, a_list_as_sub, service_role_in_the_claims_only,
]  # fmt: skip


def caller(session: Session) -> Any:
    response = session.attempt("select (app.caller()).*")
    return response if isinstance(response, SqlError) else (str(response[0]["agency_id"]), response[0]["actor"])


@pytest.mark.parametrize("make", NOT_LIVE, ids=lambda make: make.__name__)
def test_caller__not_live_is_rejected_everywhere(
    database: Database, make: Callable[[Database, User], Mapping[str, Any]]
) -> None:
    user = database.member()
    job_id = database.start(user)
    claims = make(database, user)
    before = database.fingerprint()
    with database.session(claims, role="authenticated") as session:
        error = caller(session)
        assert (error.sqlstate, error.code) == ("PT401", "revoked_token")
        assert session.execute("select app.agency_id() as id") == [{"id": None}]
        assert session.execute("select * from app.identify()") == [NO_CALLER]
        assert visible(session) == {}
        for name, arguments in rpcs(database, job_id).items():
            assert session.error(name, **arguments).sqlstate == "PT401", name
    assert database.fingerprint() == before


@pytest.mark.parametrize("claim", ["sub", "session_id"])
def test_caller__malformed_claim(database: Database, claim: str) -> None:
    user = database.member()
    with database.session(user.claims) as session:
        for value in MALFORMED:
            claims = json.dumps(user.claims | {claim: value})
            session.execute("select set_config('request.jwt.claims', %s, false)", (claims,))
            assert caller(session).sqlstate == "PT401", value
            assert visible(session) == {}, value


def visible(session: Session) -> dict[str, int]:
    """The number of rows that this session sees in each table and view, if it sees any."""
    relations = session.execute(
        "select oid::regclass::text as name from pg_class where relkind in ('r', 'v', 'm') and relname <> 'families'"
        " and relnamespace in (select oid from pg_namespace where nspname in ('app', 'public'))"
        " and has_any_column_privilege(oid, 'SELECT')"
    )
    counts = {}
    for relation in relations:
        response = session.attempt(f"select count(*) as n from {relation['name']}")
        if isinstance(response, SqlError):
            assert response.code in {"revoked_token", "no_agency"}, relation["name"]
        else:
            counts[relation["name"]] = response[0]["n"]
    return {name: n for name, n in counts.items() if n}


def rpcs(database: Database, job_id: str, role: str = "authenticated") -> dict[str, dict[str, Any]]:
    """Calls of every RPC that this role may execute, with this job's id for every uuid argument."""
    rows = database.all(
        "select proname, proargnames[1:pronargs] as names, proargtypes::regtype[]::text[] as types from pg_proc"
        " where pronamespace = 'public'::regnamespace and has_function_privilege(%s, oid, 'EXECUTE')",
        (role,),
    )
    return {
        row["proname"]: {
            name: job_id if type_ == "uuid" else None
            for name, type_ in zip(row["names"] or [], row["types"], strict=True)
        }
        for row in rows
    }


def test_caller__member_sees_the_agency(database: Database) -> None:
    user = database.member()
    database.start(user)
    database.start(database.member())
    with database.session(user.claims) as session:
        assert caller(session) == (user.agency_id, f"user:{user.id}")
        assert visible(session) == {
            "agencies": 1, "users": 1, "app.connections": 1, "app.executions": 1, "app.execution_events": 1,
            "historical_sync_jobs": 1,
        }  # fmt: skip


def test_caller__token_without_session(database: Database) -> None:
    user = database.member()
    for session_id in ({}, {"session_id": None}):
        claims = {"sub": user.id, "role": "authenticated"} | session_id
        with database.session(claims) as session:
            assert caller(session) == (user.agency_id, f"user:{user.id}")


def test_caller__uppercase_sub(database: Database) -> None:
    user = database.member()
    with database.session(user.claims | {"sub": user.id.upper()}) as session:
        assert caller(session) == (user.agency_id, f"user:{user.id}")


def test_caller__user_without_agency(database: Database) -> None:
    job_id = database.start(database.member())
    with database.session(database.user(None).claims) as session:
        error = caller(session)
        assert (error.sqlstate, error.code) == ("PT403", "no_agency")
        assert visible(session) == {"users": 1}
        for name, arguments in rpcs(database, job_id).items():
            assert session.error(name, **arguments).code == "no_agency", name


def test_caller__unregistered_user(database: Database) -> None:
    user = database.member()
    database.admin.execute("delete from public.users where id = %s", (user.id,))
    with database.session(user.claims) as session:
        assert caller(session).code == "no_agency"
        assert visible(session) == {}


def test_caller__claims_cannot_name_an_agency(database: Database) -> None:
    user, other = database.user(None), database.member()
    forged = {"agency_id": other.agency_id, "user_metadata": {"agency_id": other.agency_id}}
    database.admin.execute(
        "update auth.users set raw_user_meta_data = jsonb_build_object('agency_id', %s::text) where id = %s",
        (other.agency_id, user.id),
    )
    with database.session(user.claims | forged | {"app_metadata": forged}) as session:
        assert caller(session).code == "no_agency"


def test_caller__user_moved_to_another_agency(database: Database) -> None:
    user, other = database.member(), database.member()
    job_id, their_job_id = database.start(user), database.start(other)
    with database.session(user.claims) as session:
        assert session.call("get_historical_sync", job_id=job_id)["job_id"] == job_id
        database.admin.execute("update public.users set agency_id = %s where id = %s", (other.agency_id, user.id))
        assert caller(session) == (other.agency_id, f"user:{user.id}")
        assert session.error("cancel_sync_job", job_id=job_id).code == "job_of_another_agency"
        assert session.call("cancel_sync_job", job_id=their_job_id)["status"] == "cancelled"
    # The invariants assume that today's members were always members.
    database.admin.execute("delete from public.users where id = %s", (user.id,))


def test_caller__session_ends_during_transaction(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.session(user.claims) as session, session.connection.transaction():
        assert session.call("get_historical_sync", job_id=job_id)
        sign_out(database, user)
        assert session.execute("select * from public.historical_sync_jobs") == []
        with pytest.raises(psycopg.Error, match="revoked_token"), session.connection.transaction():
            session.call("cancel_sync_job", job_id=job_id)
    assert database.execution(job_id)["status"] == "queued"


def test_caller__service_role_acts_for_any_agency(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.worker() as worker:
        assert caller(worker) == ("None", "service_role")
        assert worker.call("cancel_sync_job", job_id=job_id)["status"] == "cancelled"
    assert database.events(job_id)[-1]["actor"] == "service_role"


def test_caller__service_role_is_no_user(database: Database) -> None:
    user = database.member()
    with database.session(user.claims, role="service_role") as session:
        assert caller(session) == ("None", "service_role")
        assert session.attempt("select app.identify()") == SqlError(
            "42501", "permission denied for function identify", {}
        )


@pytest.mark.parametrize("claimed", ["anon", "authenticated", "service_role", None])
def test_caller__anon_has_no_user(database: Database, claimed: str | None) -> None:
    user = database.member()
    job_id = database.start(user)
    for_keys = rpcs(database, job_id, "anon")
    assert for_keys
    before = database.fingerprint()
    with database.session(user.claims | {"role": claimed}, role="anon") as session:
        assert caller(session).sqlstate == "PT401"
        for query in ("select app.agency_id()", "select app.request_id()", "select from app.families"):
            error = session.attempt(query)
            assert isinstance(error, SqlError)
            assert error.sqlstate == "42501"
        assert visible(session) == {}
        for name, arguments in rpcs(database, job_id).items():
            assert session.error(name, **arguments).sqlstate == ("PT401" if name in for_keys else "42501"), name
    assert database.fingerprint() == before


# An agency's server


def revoke(database: Database, key: str) -> str:
    database.admin.execute("update app.api_keys set revoked_at = now() where hint = %s", (key[-4:],))
    return key


WRONG_KEYS: dict[str, Callable[[Database, str], str]] = {
    "revoked": revoke,
    "none": lambda *_: "",
    "unknown": lambda *_: f"sync_{'0' * 64}",
    "its hash": lambda _, key: hashlib.sha256(key.encode()).hexdigest(),
    "its hash, as Postgres writes it": lambda _, key: f"\\x{hashlib.sha256(key.encode()).hexdigest()}",
    "in capitals": lambda _, key: key.upper(),
    "with a space": lambda _, key: f"{key} ",
    "cut off": lambda _, key: key[:-1],
    "its hint": lambda _, key: key[-4:],
    "a pattern": lambda *_: "%",
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_caller__invalid_api_key(database: Database, name: str) -> None:
    user = database.member()
    sync_id = database.bulk_sync(user)
    key = WRONG_KEYS[name](database, database.api_key(user))
    before = database.fingerprint()
    with database.agency_server(key) as session:
        error = caller(session)
        assert (error.sqlstate, error.code) == ("PT401", "invalid_api_key")
        assert session.execute("select * from app.identify()") == [NO_CALLER]
        for function, arguments in rpcs(database, sync_id, "anon").items():
            error = session.error(function, **arguments)
            assert (error.sqlstate, error.code) == ("PT401", "invalid_api_key"), function
        assert visible(session) == {}
    assert database.fingerprint() == before


def test_caller__valid_api_key_opens_calls_only(database: Database) -> None:
    user, other = database.member(), database.member()
    sync_id, theirs = database.bulk_sync(user), database.bulk_sync(other)
    key = database.api_key(user)
    key_id = database.one("select id::text from app.api_keys")["id"]
    with database.agency_server(key) as session:
        assert caller(session) == (user.agency_id, f"api_key:{key_id}")
        assert visible(session) == {}  # outside a call it is still anon
        for name, arguments in rpcs(database, theirs, "anon").items():
            response = session.attempt(*rpc(name, **arguments))
            assert theirs not in str(response), name
            assert isinstance(response, SqlError) or name.startswith(("list_", "preview_", "reserve_", "test_")), (
                name,
                response,
            )
        for name in rpcs(database, sync_id).keys() - rpcs(database, sync_id, "anon").keys():
            assert session.error(name, **rpcs(database, sync_id)[name]).sqlstate == "42501", name
        assert session.call("get_bulk_sync", sync_id=sync_id)["data"]["id"] == sync_id
        started = session.call("start_bulk_sync", sync_id=sync_id)["data"]["id"]
    assert database.events(started)[0]["actor"] == f"api_key:{key_id}"


def test_caller__server_within_a_call(database: Database) -> None:
    user = database.member()
    database.bulk_sync(user)
    database.bulk_sync(database.member())
    with database.agency_server(database.api_key(user)) as session, session.connection.transaction():
        session.execute("select app.caller()")
        assert session.execute("select current_user::text as name") == [{"name": "authenticated"}]
        assert visible(session) == {"agencies": 1, "app.connections": 2, "app.definitions": 1, "app.api_keys": 1}


def test_caller__user_token_with_api_key(database: Database) -> None:
    user, other = database.member(), database.member()
    key = database.api_key(other)
    with database.session(user.claims) as session:
        session.set_headers(**{"x-agency-key": key})
        assert caller(session) == (user.agency_id, f"user:{user.id}")
    gone = sign_out(database, user)
    with database.session(gone) as session:
        session.set_headers(**{"x-agency-key": key})
        assert caller(session).code == "revoked_token"
    with database.worker() as worker:
        worker.set_headers(**{"x-agency-key": key})
        assert caller(worker) == ("None", "service_role")


def test_touch_api_key__to_the_minute_without_waiting(database: Database) -> None:
    user = database.member()
    key = database.api_key(user)
    query = "select last_used_at from app.api_keys"
    assert database.one(query)["last_used_at"] is None
    with database.agency_server(key) as session, database.connect() as holder:
        with session.connection.transaction():
            session.execute("set transaction read only")
            assert session.call("list_connections")["data"] == []
        assert database.one(query)["last_used_at"] is None  # a read-only transaction writes nothing
        with holder.transaction():
            holder.execute("select from app.api_keys for update")
            assert session.call("list_connections")["data"] == []
        assert database.one(query)["last_used_at"] is None
        session.call("list_connections")
        first = database.one(query)["last_used_at"]
        assert first is not None
        session.call("list_connections")
        assert database.one(query)["last_used_at"] == first
        database.admin.execute("update app.api_keys set last_used_at = now() - interval '61 s'")
        session.call("list_connections")
        assert database.one(query)["last_used_at"] > first


def test_caller__cannot_read_sessions(database: Database) -> None:
    with database.session(database.member().claims) as session:
        for query in (
            "select from auth.users",
            "select from auth.sessions",
            "select value from app.secrets",
            "select hash from app.api_keys",
        ):
            error = session.attempt(query)
            assert isinstance(error, SqlError)
            assert error.sqlstate == "42501"


def test_request_id__missing(database: Database) -> None:
    with database.worker() as worker:
        for headers in ("", "{}", '{"x-request-id": null}', "[]", '"x"'):
            worker.execute("select set_config('request.headers', %s, false)", (headers,))
            assert worker.execute("select app.request_id() as id") == [{"id": None}], headers


def test_request_id__long_is_truncated(database: Database) -> None:
    with database.worker() as worker:
        worker.execute("select set_config('request.headers', %s, false)", ('{"x-request-id": "' + "x" * 101 + '"}',))
        assert worker.execute("select app.request_id() as id") == [{"id": "x" * 100}]
