"""Who a token stands for: app.identify(), app.agency_id(), app.caller(), and what RPCs, views and tables make of it."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.house import SERVICE, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.house import Database, Session, User

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


NOT_LIVE = [
    sign_out, delete_user, delete_softly, anothers_session, anothers_sub, no_such_session, no_such_user, no_claims,
    no_sub, a_list_as_sub, service_role_in_the_claims_only,
]  # fmt: skip


def caller(session: Session) -> Any:
    answer = session.attempt("select (app.caller()).*")
    return answer if isinstance(answer, Refusal) else (str(answer[0]["agency_id"]), answer[0]["actor"])


@pytest.mark.parametrize("make", NOT_LIVE, ids=lambda make: make.__name__)
def test_who_is_not_live_is_nobody_everywhere(
    database: Database, make: Callable[[Database, User], Mapping[str, Any]]
) -> None:
    user = database.member()
    job_id = database.start(user)
    claims = make(database, user)
    before = database.fingerprint()
    with database.session(claims, role="authenticated") as session:
        refusal = caller(session)
        assert (refusal.sqlstate, refusal.code) == ("PT401", "revoked_token")
        assert session.execute("select app.agency_id() as id") == [{"id": None}]
        assert session.execute("select user_id, agency_id, is_live from app.identify()") == [
            {"user_id": None, "agency_id": None, "is_live": False}
        ]
        assert visible(session) == {}
        for name, arguments in rpcs(database, job_id).items():
            assert session.refusal(name, **arguments).sqlstate == "PT401", name
    assert database.fingerprint() == before


@pytest.mark.parametrize("claim", ["sub", "session_id"])
def test_a_malformed_claim_is_no_claim(database: Database, claim: str) -> None:
    user = database.member()
    with database.session(user.claims) as session:
        for value in MALFORMED:
            claims = json.dumps(user.claims | {claim: value})
            session.execute("select set_config('request.jwt.claims', %s, false)", (claims,))
            assert caller(session).sqlstate == "PT401", value
            assert visible(session) == {}, value


def visible(session: Session) -> dict[str, int]:
    """How many rows of each table and view this session sees, where it sees any."""
    relations = session.execute(
        "select oid::regclass::text as name from pg_class where relkind in ('r', 'v', 'm') and relname <> 'families'"
        " and relnamespace in (select oid from pg_namespace where nspname in ('app', 'public'))"
        " and has_any_column_privilege(oid, 'SELECT')"
    )
    counts = {}
    for relation in relations:
        answer = session.attempt(f"select count(*) as n from {relation['name']}")
        if isinstance(answer, Refusal):
            assert answer.code in {"revoked_token", "no_agency"}, relation["name"]
        else:
            counts[relation["name"]] = answer[0]["n"]
    return {name: n for name, n in counts.items() if n}


def rpcs(database: Database, job_id: str) -> dict[str, dict[str, Any]]:
    """Every RPC that a user may call, with this job's id wherever an argument asks for one."""
    rows = database.all(
        "select proname, proargnames[1:pronargs] as names, proargtypes::regtype[]::text[] as types from pg_proc"
        " where pronamespace = 'public'::regnamespace and has_function_privilege('authenticated', oid, 'EXECUTE')"
    )
    return {
        row["proname"]: {
            name: job_id if type_ == "uuid" else None for name, type_ in zip(row["names"], row["types"], strict=True)
        }
        for row in rows
    }


def test_a_member_is_their_agencys_and_sees_what_is_the_agencys(database: Database) -> None:
    user = database.member()
    database.start(user)
    database.start(database.member())
    with database.session(user.claims) as session:
        assert caller(session) == (user.agency_id, f"user:{user.id}")
        assert visible(session) == {
            "agencies": 1, "users": 1, "app.connections": 1, "app.executions": 1, "app.execution_events": 1,
            "historical_sync_jobs": 1,
        }  # fmt: skip


def test_a_token_without_a_session_is_the_users(database: Database) -> None:
    user = database.member()
    for session_id in ({}, {"session_id": None}):
        claims = {"sub": user.id, "role": "authenticated"} | session_id
        with database.session(claims) as session:
            assert caller(session) == (user.agency_id, f"user:{user.id}")


def test_an_uppercase_sub_is_the_same_user(database: Database) -> None:
    user = database.member()
    with database.session(user.claims | {"sub": user.id.upper()}) as session:
        assert caller(session) == (user.agency_id, f"user:{user.id}")


def test_a_user_without_an_agency_is_told_so_by_every_rpc_and_sees_only_themselves(database: Database) -> None:
    job_id = database.start(database.member())
    with database.session(database.user(None).claims) as session:
        refusal = caller(session)
        assert (refusal.sqlstate, refusal.code) == ("PT403", "no_agency")
        assert visible(session) == {"users": 1}
        for name, arguments in rpcs(database, job_id).items():
            assert session.refusal(name, **arguments).code == "no_agency", name


def test_a_user_that_was_never_registered_here_has_no_agency(database: Database) -> None:
    user = database.member()
    database.admin.execute("delete from public.users where id = %s", (user.id,))
    with database.session(user.claims) as session:
        assert caller(session).code == "no_agency"
        assert visible(session) == {}


def test_claims_and_metadata_cannot_name_an_agency(database: Database) -> None:
    user, other = database.user(None), database.member()
    forged = {"agency_id": other.agency_id, "user_metadata": {"agency_id": other.agency_id}}
    database.admin.execute(
        "update auth.users set raw_user_meta_data = jsonb_build_object('agency_id', %s::text) where id = %s",
        (other.agency_id, user.id),
    )
    with database.session(user.claims | forged | {"app_metadata": forged}) as session:
        assert caller(session).code == "no_agency"


def test_a_user_who_moves_to_another_agency_leaves_the_old_one_at_once(database: Database) -> None:
    user, other = database.member(), database.member()
    job_id, their_job_id = database.start(user), database.start(other)
    with database.session(user.claims) as session:
        assert session.call("get_historical_sync", job_id=job_id)["job_id"] == job_id
        database.admin.execute("update public.users set agency_id = %s where id = %s", (other.agency_id, user.id))
        assert caller(session) == (other.agency_id, f"user:{user.id}")
        assert session.refusal("cancel_sync_job", job_id=job_id).code == "job_of_another_agency"
        assert session.call("cancel_sync_job", job_id=their_job_id)["status"] == "cancelled"
    # The invariants take a member of today for one of always.
    database.admin.execute("delete from public.users where id = %s", (user.id,))


def test_a_session_that_ends_during_a_transaction_is_over_with_the_next_statement(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.session(user.claims) as session, session.connection.transaction():
        assert session.call("get_historical_sync", job_id=job_id)
        sign_out(database, user)
        assert session.execute("select * from public.historical_sync_jobs") == []
        with pytest.raises(psycopg.Error, match="revoked_token"), session.connection.transaction():
            session.call("cancel_sync_job", job_id=job_id)
    assert database.execution(job_id)["status"] == "queued"


def test_the_service_role_acts_for_any_agency_under_its_own_name(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.worker() as worker:
        assert caller(worker) == ("None", "service_role")
        assert worker.call("cancel_sync_job", job_id=job_id)["status"] == "cancelled"
    assert database.events(job_id)[-1]["actor"] == "service_role"


def test_the_service_role_is_not_a_user_whatever_its_claims_say(database: Database) -> None:
    user = database.member()
    with database.session(user.claims, role="service_role") as session:
        assert caller(session) == ("None", "service_role")
        assert session.attempt("select app.identify()") == Refusal(
            "42501", "permission denied for function identify", {}
        )


@pytest.mark.parametrize("claimed", ["anon", "authenticated", "service_role"])
def test_anon_is_nobody_whatever_the_claims_say(database: Database, claimed: str) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.session(user.claims | {"role": claimed}, role="anon") as session:
        for query in ("select app.caller()", "select app.identify()", "select app.agency_id()"):
            refusal = session.attempt(query)
            assert isinstance(refusal, Refusal)
            assert refusal.sqlstate == "42501"
        assert visible(session) == {}
        for name, arguments in rpcs(database, job_id).items():
            assert session.refusal(name, **arguments).sqlstate == "42501", name


def test_a_user_reads_no_sessions_of_anybody(database: Database) -> None:
    with database.session(database.member().claims) as session:
        for query in ("select from auth.users", "select from auth.sessions", "select secret from app.connections"):
            refusal = session.attempt(query)
            assert isinstance(refusal, Refusal)
            assert refusal.sqlstate == "42501"


def test_a_request_without_an_id_has_none(database: Database) -> None:
    with database.worker() as worker:
        for headers in ("", "{}", '{"x-request-id": null}', "[]", '"x"'):
            worker.execute("select set_config('request.headers', %s, false)", (headers,))
            assert worker.execute("select app.request_id() as id") == [{"id": None}], headers


def test_a_long_request_id_is_cut(database: Database) -> None:
    with database.worker() as worker:
        worker.execute("select set_config('request.headers', %s, false)", ('{"x-request-id": "' + "x" * 101 + '"}',))
        assert worker.execute("select app.request_id() as id") == [{"id": "x" * 100}]
