"""Plain SQL against executions and their audit, as every role: only transitions change them, each with its event."""

from __future__ import annotations

import json
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from tests.support.database import FAMILIES, TRANSITIONS, TRANSITIONS_TO, TWO_STEPS, SqlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from tests.support.database import Database, Session, User

pytestmark = pytest.mark.sql

USERS = ("member", "stranger", "without_agency", "signed_out")
ROLES = (*USERS, "anon", "service_role", "postgres", "supabase_admin")
TRUSTED = ("service_role", "postgres")
TERMINAL = ("completed", "failed", "cancelled")

# A value that no column of this type has.
FORGED = {
    "text": "coalesce({}, '') || 'x'",
    "uuid": "gen_random_uuid()",
    "timestamp with time zone": "coalesce({}, now()) + interval '1 hour'",
    "bigint": "coalesce({}, 0) + 1",
    "integer": "coalesce({}, 0) + 1",
    "jsonb": """'{{"forged": true}}'""",
}
FORGED_NEW = {
    "text": "forged",
    "uuid": "f0000000-0000-4000-8000-000000000000",
    "timestamp with time zone": "2001-01-01T00:00:00+00:00",
    "bigint": "77",
    "integer": "77",
    "jsonb": '{"forged": true}',
}

# Columns that a trusted role may change without a transition: the worker's progress, and deleted_at after the end.
WORK = {"lease_expires_at", "attempts", "seq", "checkpoint", "records", "progress"}
CHANGEABLE = {"running": WORK, "cancelling": WORK} | {status: {"deleted_at"} for status in TERMINAL}

# Columns that a statement may set, by event. The guard sets all others itself or leaves them alone.
SETTABLE = {
    "start": {
        "id", "agency_id", "family", "definition_id", "connection_id", "destination_id", "concurrency_key", "spec",
        "retry_of", "run_at", "max_attempts", "checkpoint", "progress", "reason",
    },
    "claim": {"reason", "leased_by", "lease_seconds"},
    "cancel": {"reason", "cancel_reason"},  # cancel_reason is copied from reason, not taken from the statement
    "complete": {"reason", "progress", "error", "attempts", "run_at"},
    "fail": {"reason", "progress", "error", "attempts", "run_at"},
    "release": {"reason", "progress", "error", "attempts", "run_at"},
}  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """One execution in every status, in an agency with a member, and attackers of other agencies."""

    database: Database
    member: User
    claims: Mapping[str, Mapping[str, Any]]  # by attacker
    jobs: Mapping[str, str]  # by status

    def attacker(self, name: str) -> Session:
        return self.database.session(self.claims[name])


def make_scenario(database: Database, family: str) -> Scenario:
    member = database.member()
    signed_out = database.user(member.agency_id)
    database.admin.execute("delete from auth.sessions where id = %s", (signed_out.session_id,))
    users = {
        "member": member,
        "stranger": database.member(),
        "without_agency": database.user(None),
        "signed_out": signed_out,
    }
    claims = {name: user.claims for name, user in users.items()} | {role: {"role": role} for role in ROLES[4:]}
    in_two_steps = family in TWO_STEPS
    statuses = [status for status in TRANSITIONS_TO if in_two_steps or status != "cancelling"]
    jobs = {status: database.insert(member.agency_id, family) for status in statuses}
    for status, job_id in jobs.items():
        at_once = in_two_steps and status == "cancelled"
        database.transition(job_id, *([("request_cancel", "cancelled")] if at_once else TRANSITIONS_TO[status]))
        if status in {"running", "cancelling"}:
            database.update(job_id, checkpoint="{}")
    return Scenario(database, member, claims, jobs)


@pytest.fixture(scope="module")
def scenarios(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[dict[str, Scenario]]:
    """By family, for tests that prove that nothing changes. They share one database for each family."""
    with ExitStack() as stack:
        yield {family: make_scenario(stack.enter_context(clone()), family) for family in FAMILIES}


@pytest.fixture
def scenario(scenarios: dict[str, Scenario]) -> Scenario:
    return scenarios["bulk_sync"]


def columns(database: Database) -> dict[str, str]:
    rows = database.all(
        "select attname, format_type(atttypid, null) as type from pg_attribute"
        " where attrelid = 'app.executions'::regclass and attnum > 0 and not attisdropped order by attnum"
    )
    return {row["attname"]: row["type"] for row in rows}


def changed(session: Session, query: str | sql.Composed, parameters: Any = None, *, undo: bool) -> bool:
    """Whether the statement (with RETURNING) touched a row."""
    with session.connection.transaction(force_rollback=undo):
        try:
            with session.connection.transaction():
                return bool(session.execute(query, parameters))
        except psycopg.Error:
            return False


def assert_nothing_happens(scenario: Scenario, role: str, *statements: str) -> None:
    """Every statement fails or changes nothing."""
    with scenario.attacker(role) as session:
        before = scenario.database.fingerprint()
        for statement in statements:
            response = session.attempt(statement)
            assert scenario.database.fingerprint() == before, (statement, response)


@pytest.mark.parametrize("role", ROLES)
def test_guard_update__column_changed_without_transition(scenario: Scenario, role: str) -> None:
    database = scenario.database
    allowed = {(s, c) for s, names in CHANGEABLE.items() for c in names if role in TRUSTED}
    if role == "member":
        allowed = {(status, "deleted_at") for status in TERMINAL}  # marked as deleted, which is final
    succeeded = set()
    with scenario.attacker(role) as session:
        before = database.fingerprint()
        for column, type_ in columns(database).items():
            value = sql.SQL(FORGED[type_]).format(sql.Identifier(column))
            query = sql.SQL("update app.executions set {} = {} where id = %s returning id")
            for status, job_id in scenario.jobs.items():
                is_allowed = (status, column) in allowed
                if changed(session, query.format(sql.Identifier(column), value), (job_id,), undo=is_allowed):
                    succeeded.add((status, column))
    assert succeeded == allowed
    assert database.fingerprint() == before


@pytest.mark.parametrize("role", ROLES)
def test_guard_update__column_emptied_without_transition(scenario: Scenario, role: str) -> None:
    database = scenario.database
    allowed = {(status, "checkpoint") for status in ("running", "cancelling") if role in TRUSTED}
    succeeded = set()
    with scenario.attacker(role) as session:
        before = database.fingerprint()
        for column in columns(database):
            query = sql.SQL("update app.executions set {0} = null where id = %s and {0} is not null returning id")
            for status, job_id in scenario.jobs.items():
                is_allowed = (status, column) in allowed
                if changed(session, query.format(sql.Identifier(column)), (job_id,), undo=is_allowed):
                    succeeded.add((status, column))
    assert succeeded == allowed
    assert database.fingerprint() == before


@pytest.mark.parametrize("column", ["seq", "records"])
@pytest.mark.parametrize("role", TRUSTED)
def test_guard_update__counts_never_decrease(scenario: Scenario, role: str, column: str) -> None:
    with scenario.attacker(role) as session:
        query = f"update app.executions set {column} = {column} + %s where id = %s returning 1"
        error = session.attempt(query, (-1, scenario.jobs["running"]))
    assert isinstance(error, SqlError)
    assert error.code == "not_a_transition"


def may(role: str, family: str, status: str, event: str | None, to_status: str | None) -> bool:
    status = "queued" if status == "requeued" else status
    if role not in (*TRUSTED, "member") or to_status is None or TRANSITIONS.get((status, event or "")) != to_status:
        return False
    if event in {"cancel", "request_cancel"}:
        return event == FAMILIES[family]
    return role in TRUSTED


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("role", ROLES)
def test_guard_transition__not_allowed(scenarios: dict[str, Scenario], role: str, family: str) -> None:
    scenario, database = scenarios[family], scenarios[family].database
    leased = "" if role in USERS else ", leased_by = 'w', lease_seconds = 30"
    query = f"update app.executions set status = %s, event = %s{leased} where id = %s returning id"
    events = [*sorted({event for _, event in TRANSITIONS}), None, "unknown"]
    wrong = []
    with scenario.attacker(role) as session:
        before = database.fingerprint()
        for status, job_id in scenario.jobs.items():
            now = "queued" if status == "requeued" else status
            for event in events:
                for to_status in ("queued", "running", "cancelling", *TERMINAL, None, "unknown"):
                    expected = may(role, family, status, event, to_status)
                    if to_status != now:
                        done = changed(session, query, (to_status, event, job_id), undo=expected)
                        wrong += [(status, event, to_status, done)] if done != expected else []
    assert wrong == []
    assert database.fingerprint() == before


@pytest.mark.parametrize("event", ["claim", "cancel", "complete", "fail", "release"])
def test_guard_transition__takes_its_own_columns_only(database: Database, event: str) -> None:
    types = columns(database)
    job_id = database.put("queued" if event == "claim" else "running", database.agency())
    before = database.execution(job_id)
    status = TRANSITIONS["queued" if event == "claim" else "running", event]
    forged = [c for c in types if c not in {"status", "event", "id", "agency_id"}]
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(c), sql.Literal(FORGED_NEW[types[c]])) for c in forged
    )
    query = sql.SQL("update app.executions set status = %s, event = %s, {} where id = %s").format(assignments)
    with database.worker() as worker:
        worker.execute(query, (status, event, job_id))
        [shown] = worker.execute("select to_jsonb(e) as row from app.executions as e")
    notified = {
        c
        for c in forged
        if database.execution(job_id)[c] != before[c] and written(shown["row"][c]) in FORGED_NEW.values()
    }
    assert notified == SETTABLE[event]


def written(value: Any) -> str:
    """A value of a row's JSON as a statement would write it."""
    return json.dumps(value) if isinstance(value, dict) else str(value)


def test_guard_start__columns_start_empty(database: Database) -> None:
    member = database.member()
    connection_id = database.connection(member.agency_id)
    original = database.put("completed", member.agency_id)
    types = columns(database)
    values = {c: FORGED_NEW[type_] for c, type_ in types.items()} | {
        "agency_id": member.agency_id,
        "family": "bulk_sync",
        "definition_id": database.bulk_sync(member),
        "connection_id": connection_id,
        "destination_id": connection_id,
        "retry_of": original,
        "status": "running",
    }
    query = sql.SQL("insert into app.executions ({}) values ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Literal, values.values()))
    )
    with database.worker() as worker:
        worker.execute(query)
    row = database.one("select to_jsonb(e) as row from app.executions as e where retry_of is not null")["row"]
    kept = {c for c, value in values.items() if written(row[c]) == value}
    assert kept == SETTABLE["start"]
    assert (row["status"], row["event"], row["actor"], row["created_by"]) == (
        "queued", "start", "service_role", "service_role",
    )  # fmt: skip
    assert (row["lease_token"], row["attempts"], row["seq"], row["records"]) == (0, 0, 0, 0)


def test_guard_start__columns_of_a_member(database: Database) -> None:
    member = database.member()
    with database.session(member.claims) as session:
        for column, type_ in columns(database).items():
            query = f'insert into app.executions (agency_id, family, "{column}") values (%s, %s, %s)'
            if column not in SETTABLE["start"] - {"id", "max_attempts"}:
                error = session.attempt(query, (member.agency_id, "historical_sync", FORGED_NEW[type_]))
                assert isinstance(error, SqlError), column
                assert error.sqlstate == "42501", column
    assert database.all("select from app.executions") == []


def test_guard_start__other_agency(database: Database) -> None:
    member, stranger = database.member(), database.member()
    theirs = {
        "agency_id": stranger.agency_id,
        "definition_id": database.bulk_sync(stranger),
        "connection_id": database.connection(stranger.agency_id),
        "destination_id": database.connection(stranger.agency_id),
        "retry_of": database.put("failed", stranger.agency_id),
    }
    before = database.fingerprint()
    with database.session(member.claims) as session:
        for column, value in theirs.items():
            values = {"agency_id": member.agency_id, "family": "bulk_sync", column: value}
            query = sql.SQL("insert into app.executions ({}) values ({})").format(
                sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Literal, values.values()))
            )
            error = session.attempt(query)
            assert isinstance(error, SqlError), column
            assert error.sqlstate == ("42501" if column == "agency_id" else "23503")
    assert database.fingerprint() == before


@pytest.mark.parametrize("role", [name for name in ROLES if name not in ("member", *TRUSTED)])
def test_guard_start__caller_not_allowed(scenario: Scenario, role: str) -> None:
    assert_nothing_happens(
        scenario,
        role,
        f"insert into app.executions (agency_id, family) values ('{scenario.member.agency_id}', 'bulk_sync')",
        "insert into app.executions (agency_id, family) values (null, 'bulk_sync')",
        "insert into app.executions (agency_id, family) select agency_id, family from app.executions",
    )


@pytest.mark.parametrize("role", [*TRUSTED, "member"])
def test_guard_start__unknown_family(scenario: Scenario, role: str) -> None:
    agency = scenario.member.agency_id
    assert_nothing_happens(
        scenario,
        role,
        f"insert into app.executions (agency_id, family) values ('{agency}', 'espionage')",
        f"insert into app.executions (agency_id, family) values ('{agency}', null)",
    )


@pytest.mark.parametrize("role", ROLES)
def test_guard_deletion__unfinished(scenario: Scenario, role: str) -> None:
    assert_nothing_happens(
        scenario,
        role,
        "delete from app.executions",
        *(f"delete from app.executions where id = '{scenario.jobs[s]}'" for s in ("queued", "running", "cancelling")),
        f"delete from public.agencies where id = '{scenario.member.agency_id}'",
    )


@pytest.mark.parametrize("role", [name for name in ROLES if name != "postgres"])
def test_guard_deletion__not_the_owner(scenario: Scenario, role: str) -> None:
    assert_nothing_happens(
        scenario, role, *(f"delete from app.executions where id = '{scenario.jobs[status]}'" for status in TERMINAL)
    )


@pytest.mark.parametrize("role", ROLES)
def test_guard_deletion__truncate(scenario: Scenario, role: str) -> None:
    assert_nothing_happens(
        scenario,
        role,
        "truncate app.executions cascade",
        "truncate app.execution_events",
        "truncate public.agencies cascade",
    )


@pytest.mark.parametrize("role", ROLES)
def test_audit__cannot_be_written(scenario: Scenario, role: str) -> None:
    job_id, agency_id = scenario.jobs["running"], scenario.member.agency_id
    forged = (
        "insert into app.execution_events {}"
        " (agency_id, execution_id, at, event, from_status, to_status, lease_token, actor)"
        " {} values ({}" + f"'{agency_id}', '{job_id}', now(), 'complete', 'running', 'completed', 1, 'worker:forged')"
    )
    assert_nothing_happens(
        scenario,
        role,
        forged.format("", "", ""),
        forged.replace("{} (", "(id, ", 1).format("overriding system value", "1, ")
        + " on conflict (id) do update set actor = 'user:forged'",
        "update app.execution_events set actor = 'user:forged'",
        "update app.execution_events set reason = null, at = now()",
        "delete from app.execution_events",
        "merge into app.execution_events as e using (select 1) as one on true when matched then delete",
    )


@pytest.mark.parametrize("role", ROLES)
def test_guard__sql_tricks(scenarios: dict[str, Scenario], role: str) -> None:
    scenario = scenarios["historical_sync"]
    agency_id, job_id = scenario.member.agency_id, scenario.jobs["running"]
    insert = f"insert into app.executions (id, agency_id, family) values ('{job_id}', '{agency_id}', 'bulk_sync')"
    merge = (
        f"merge into app.executions as e using (select '{job_id}'::uuid as id) as j on e.id = j.id when matched then "
    )
    assert_nothing_happens(
        scenario,
        role,
        insert + " on conflict (id) do update set spec = excluded.spec || '[1]'",
        insert + " on conflict (id) do update set reason = 'forged'",
        insert + " on conflict (id) do update set status = 'completed', event = 'cancel'",
        merge + "update set spec = '{\"forged\": true}'",
        merge + "update set status = 'failed', event = 'cancel'",
        merge + "delete",
        f"update app.executions set status = 'cancelling', event = 'request_cancel' where id = '{job_id}'",
        f"update app.executions set status = 'cancelled', event = 'cancel', reason = repeat('x', 501)"
        f" where id = '{job_id}'",
        f"with x as (update app.executions set reason = 'forged' where id = '{job_id}' returning *) select * from x",
        "update public.historical_sync_jobs set status = 'cancelled'",
        "update public.historical_sync_jobs set agency_id = gen_random_uuid()",
        "insert into public.historical_sync_jobs (agency_id) values (gen_random_uuid())",
        "delete from public.historical_sync_jobs",
        "select app.record_event()",
        "select app.guard_start()",
        "select app.guard_transition()",
        "select app.guard_update()",
        "select app.guard_deletion()",
        "select app.require_table_owner('app.executions'::regclass)",
    )


@pytest.mark.parametrize("role", ["stranger", "without_agency", "signed_out", "anon"])
def test_guard__update_without_where(database: Database, role: str) -> None:
    """Without WHERE and RETURNING only the policy for UPDATE protects the row."""
    scenario = make_scenario(database, "historical_sync")
    with database.owner() as owner:
        owner.execute("delete from app.executions where finished_at is not null")
    assert_nothing_happens(scenario, role, "update app.executions set status = 'cancelled', event = 'cancel'")


@pytest.mark.parametrize("role", USERS)
def test_guard__cannot_be_removed(scenario: Scenario, role: str) -> None:
    database = scenario.database
    triggers = database.all("select tgname, tgenabled from pg_trigger order by tgname")
    policies = database.all("select * from pg_policies order by policyname")
    assert_nothing_happens(
        scenario,
        role,
        "alter table app.executions disable trigger all",
        "alter table app.executions disable row level security",
        "drop trigger guard_transition on app.executions",
        "drop trigger guard_update on app.executions",
        'drop policy "Members cancel executions of their agency" on app.executions',
        "create policy everything on app.executions using (true)",
        "create function app.now() returns int language sql as 'select 1'",
        "create function public.forged() returns int language sql as 'select 1'",
        "create trigger forged after insert on app.executions for each row execute function app.record_event()",
        "grant all on app.executions to authenticated",
    )
    assert database.all("select tgname, tgenabled from pg_trigger order by tgname") == triggers
    assert database.all("select * from pg_policies order by policyname") == policies


def test_guard__table_lock(database: Database) -> None:
    with database.session(database.member().claims) as session:
        error = session.attempt("begin; lock table app.executions in access exclusive mode")
    assert isinstance(error, SqlError)
    assert error.sqlstate == "42501"


@pytest.mark.parametrize(
    "column", ["spec", "actor", "request_id", "lease_token", "finished_at", "cancelled_by", "records"]
)
def test_guard_transition__cancel_with_other_columns(scenarios: dict[str, Scenario], column: str) -> None:
    scenario = scenarios["historical_sync"]
    value = FORGED_NEW[columns(scenario.database)[column]]
    assert_nothing_happens(
        scenario,
        "member",
        f"update app.executions set status = 'cancelled', event = 'cancel', {column} = '{value}'"
        f" where id = '{scenario.jobs['running']}'",
    )


def test_guard_transition__plain_sql_cancel_has_its_actor(database: Database) -> None:
    scenario = make_scenario(database, "historical_sync")
    with scenario.attacker("member") as session:
        session.execute(
            "update app.executions set status = 'cancelled', event = 'cancel', reason = 'mine' where id = %s",
            (scenario.jobs["running"],),
        )
    row = database.execution(scenario.jobs["running"])
    actor = f"user:{scenario.member.id}"
    assert (row["actor"], row["cancelled_by"], row["cancel_reason"], row["request_id"]) == (
        actor,
        actor,
        "mine",
        "test",
    )
    event = database.events(scenario.jobs["running"])[-1]
    assert (event["actor"], event["from_status"], event["to_status"], event["lease_token"]) == (
        actor, "running", "cancelled", 2,
    )  # fmt: skip


@pytest.mark.parametrize("role", TRUSTED)
def test_guard_transition__actor_of_a_cancel(database: Database, role: str) -> None:
    scenario = make_scenario(database, "historical_sync")
    with scenario.attacker(role) as session:
        session.execute(
            "update app.executions set status = 'cancelled', event = 'cancel', actor = 'user:forged' where id = %s",
            (scenario.jobs["queued"],),
        )
    assert database.execution(scenario.jobs["queued"])["cancelled_by"] == role


def test_guard_transition__actor_of_a_worker(database: Database) -> None:
    job_id = database.put("running", database.agency())
    with database.worker() as worker:
        worker.execute("update app.executions set status = 'completed', event = 'complete', actor = 'user:forged'")
    assert database.events(job_id)[-1]["actor"] == "worker:w"


def test_user_deletion__jobs_and_audit_stay(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.session(user.claims) as session:
        session.call("cancel_sync_job", job_id=job_id)
    database.admin.execute("delete from auth.users where id = %s", (user.id,))
    assert database.all("select from public.users") == []
    assert database.execution(job_id)["cancelled_by"] == f"user:{user.id}"
    assert [event["actor"] for event in database.events(job_id)] == [f"user:{user.id}"] * 2


def test_purge_executions__finished_with_events(database: Database) -> None:
    scenario = make_scenario(database, "bulk_sync")
    with database.owner() as owner:
        assert owner.execute("select app.purge_executions('1 day') as n") == [{"n": 0}]
        assert owner.execute("select app.purge_executions('0 s', 2) as n") == [{"n": 2}]
        assert owner.execute("select app.purge_executions('0 s') as n") == [{"n": 1}]
        assert owner.execute("select app.purge_executions('0 s') as n") == [{"n": 0}]
    left = {str(row["id"]) for row in database.all("select id from app.executions")}
    assert left == {scenario.jobs[status] for status in ("queued", "requeued", "running", "cancelling")}
    assert {str(r["id"]) for r in database.all("select distinct execution_id as id from app.execution_events")} == left


def test_purge_executions__started_long_ago_and_finished_now(database: Database) -> None:
    old_id = database.one("select app.uuid_v7_floor(now() - interval '10 days')::text as id")["id"]
    database.put("completed", database.agency(), id=old_id)
    with database.owner() as owner:
        assert owner.execute("select app.purge_executions('1 day') as n") == [{"n": 0}]
        assert owner.execute("select app.purge_executions('0 s') as n") == [{"n": 1}]


@pytest.mark.parametrize("status", TRANSITIONS_TO)
def test_purge_executions__retry_stays(database: Database, status: str) -> None:
    agency = database.agency()
    original = database.put("failed", agency)
    with database.worker() as worker:
        worker.execute("update app.executions set deleted_at = now() where id = %s", (original,))
    retry = database.put(status, agency, retry_of=original)
    before = database.execution(retry)
    with database.owner() as owner:
        query = "delete from app.executions where id = %s returning 1"
        assert owner.execute(query, (original,))
    assert database.execution(retry) == before | {"retry_of": None}
    assert database.events(original) == []


def test_purge_executions__dependent_rows(database: Database) -> None:
    user = database.member()
    jobs = [
        database.put("running", user.agency_id, connection_id=database.connection(user.agency_id)) for _ in range(2)
    ]
    with database.worker() as worker:
        for job_id in jobs:
            assert worker.commit_batch({"id": job_id, "lease_token": 1}, 1, "a") == "continue"
        worker.call("worker_complete", execution_id=jobs[0], lease_token=1)
    with database.owner() as owner:
        assert owner.execute("select app.purge_executions('0 s') as n") == [{"n": 1}]
    assert database.all("select execution_id::text as id from app.execution_resources") == [{"id": jobs[1]}]
    # The records stay.
    assert len(database.all("select from app.records")) == 2
    database.admin.execute("delete from app.records")  # the invariants need their execution


def test_purge_executions__deleted_connections(database: Database) -> None:
    user = database.member()

    def gone(kind: str = "http") -> str:
        return database.connection(user.agency_id, kind, {})

    kept = {
        "alive": gone(),
        "read by an execution": gone(),
        "written by an execution": gone("records"),
        "read by a definition": gone(),
        "written by a definition": gone("records"),
        "deleted just now": gone(),
    }
    dropped = {gone(), gone("records"), database.connection(database.agency())}
    of_execution = {"connection_id": kept["read by an execution"], "destination_id": kept["written by an execution"]}
    database.put("running", user.agency_id, "bulk_sync", **of_execution)
    database.admin.execute(
        "insert into app.definitions (agency_id, kind, name, source_id, destination_id, created_by, updated_by)"
        " values (%s, 'bulk_sync', 'B', %s, %s, 'user:u', 'user:u')",
        (user.agency_id, kept["read by a definition"], kept["written by a definition"]),
    )
    database.admin.execute("update app.connections set deleted_at = now() - interval '2 days'")
    database.admin.execute("update app.connections set deleted_at = null where id = %s", (kept["alive"],))
    database.admin.execute("update app.connections set deleted_at = now() where id = %s", (kept["deleted just now"],))
    before = {str(row["id"]) for row in database.all("select id from app.connections")}
    with database.owner() as owner:
        owner.execute("select app.purge_executions('3 days')")
        assert {str(row["id"]) for row in database.all("select id from app.connections")} == before
        owner.execute("select app.purge_executions('1 day', 2)")
        assert len(database.all("select from app.connections")) == len(before) - 2
        owner.execute("select app.purge_executions('1 day')")
    assert (
        {str(row["id"]) for row in database.all("select id from app.connections")}
        == before - dropped
        == set(kept.values())
    )


def test_purge_executions__deleted_definitions(database: Database) -> None:
    """With them go the connections that only they referred to."""
    user = database.member()

    def gone(days: int, status: str | None = None) -> str:
        """A definition deleted this many days ago with its connections, with an execution in this status."""
        sync_id = database.bulk_sync(user)
        if status is not None:
            database.put(status, user.agency_id, "bulk_sync", definition_id=sync_id)
        database.admin.execute(
            "update app.definitions set deleted_at = now() - make_interval(days => %s) where id = %s", (days, sync_id)
        )
        return sync_id

    def left(table: str) -> set[str]:
        return {str(row["id"]) for row in database.all(f"select id from app.{table}")}

    kept = {database.bulk_sync(user), gone(2, "running")}
    until_it_is_older = {gone(0), gone(2, "completed")}
    dropped = {gone(2), gone(2)}
    database.admin.execute(
        "update app.connections set deleted_at = now() - interval '2 days' where id in"
        " (select unnest(array[source_id, destination_id]) from app.definitions where deleted_at is not null)"
    )
    with database.owner() as owner:
        owner.execute("select app.purge_executions('3 days')")
        assert left("definitions") == kept | until_it_is_older | dropped
        owner.execute("select app.purge_executions('1 day', 1)")
        assert len(left("definitions")) == 5
        owner.execute("select app.purge_executions('1 day')")
        assert left("definitions") == kept | until_it_is_older
        assert len(left("connections")) == 2 * 4
        owner.execute("select app.purge_executions('0 s')")
        assert left("definitions") == kept
        assert len(left("connections")) == 2 * 2


@pytest.mark.parametrize("role", [name for name in ROLES if name != "postgres"])
def test_purge_executions__owner_only(scenario: Scenario, role: str) -> None:
    assert_nothing_happens(scenario, role, "select app.purge_executions('0 s')")


@pytest.mark.parametrize("status", TERMINAL)
def test_guard_update__deleted_at_of_a_finished_execution(database: Database, status: str) -> None:
    user = database.member()
    job_id = database.put(status, user.agency_id)
    with database.worker() as worker, database.session(user.claims) as session:
        worker.execute("update app.executions set deleted_at = now() where id = %s", (job_id,))
        for name in ("get_historical_sync", "cancel_sync_job"):
            assert session.error(name, job_id=job_id).sqlstate == "PT404"
        assert session.execute("select from public.historical_sync_jobs") == []
    assert len(database.events(job_id)) == len(TRANSITIONS_TO[status]) + 1


def test_guard_start__id_in_use(database: Database) -> None:
    job_id = database.put("completed", database.agency())
    with database.worker() as worker:
        error = worker.attempt(
            "insert into app.executions (id, agency_id, family) values (%s, %s, 'bulk_sync')",
            (job_id, database.agency()),
        )
    assert isinstance(error, SqlError)
    assert error.sqlstate == "23505"
    assert uuid.UUID(job_id).version == 7
