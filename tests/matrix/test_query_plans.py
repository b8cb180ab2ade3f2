"""How much each call reads beside a million finished executions, as Postgres counts it.

The tests read counters, not plans, because counters include the reads of the function's statements, the policies, the
triggers and the foreign keys, on every version of Postgres and without an extension. Each call is made eight times in
one session, so that custom plans and the generic plans that may follow after the fifth call are both measured.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
import pytest

from functions._local import schema
from functions._local.postgres import THROW_AWAY, Postgres
from tests.support import bulk_actions
from tests.support.database import SERVICE, Database, rpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.support.database import Session

pytestmark = pytest.mark.sql

FINISHED = 1_000_000
AGENCIES = 1000
CONNECTIONS = 250  # of the first agency, to which every fourth execution belongs
QUEUED, RUNNING = 10_000, 300  # and the same number of another family are queued before them
TIMES = 8
DEFINITIONS = 2000  # of each kind, in the first agency
OF_DEFINITIONS = 200_000  # finished executions of a hundred of them
KEYS = 100_000
WARM = 2  # calls of a session; until then it reads the catalogs, thousands of pages
ROWS = 100  # the most that a call usually reads from one table; the first agency has 250,000 executions
PAGES = 800  # the most pages of 8 KiB that it touches in all; an index of the million has thousands

ROOMY = {"wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "4GB", "shared_buffers": "1GB"}

# Every agency has a member, a session and a connection of its own id. Executions came one every 80 seconds until now,
# with ids in order of time; one in ten has failed, one in a hundred was cancelled.
HISTORY = f"""
insert into public.agencies (id, name) select md5(n::text)::uuid, 'A' from generate_series(1, {AGENCIES}) as n;
insert into auth.users (id) select id from public.agencies;
insert into auth.sessions (id, user_id) select id, id from auth.users;
insert into public.users (id, agency_id) select id, id from public.agencies;
insert into app.secrets (id, agency_id, storage, value, used_at)
select id, id, 'database', '{{}}', now() from public.agencies;
insert into app.secrets (agency_id, storage, name, used_at, delete_at)
select id, 'external', id || '/' || n, now(), now() + n * interval '1 day'
from public.agencies, generate_series(1, 50) as n;
insert into app.secrets (agency_id, storage, name, used_at, delete_at)
select id, 'external', id || '/0', now(), now() - interval '1 min' from public.agencies order by id limit 50;
insert into app.connections (id, agency_id, kind, name, config, secret_id)
select id, id, 'http', 'C', '{{"resources": {{"flights": {{}}}}}}', id from public.agencies;
insert into app.connections (id, agency_id, kind, name)
select md5('connection' || n)::uuid, min(id::text)::uuid, 'http', 'C'
from public.agencies, generate_series(0, {CONNECTIONS} - 1) as n group by n;
insert into app.connections (agency_id, kind, name) -- many of other agencies, so that the table is not read in full
select max(id::text)::uuid, 'http', 'C' from public.agencies, generate_series(1, 5000) as n group by n;

insert into app.executions
  (id, agency_id, family, connection_id, concurrency_key, spec, status, event, actor, created_by, created_at, run_at,
   started_at, finished_at, cancelled_by, cancel_requested_at)
select
  (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '70008' || right(md5(n::text), 15))::uuid,
  agency, 'historical_sync', connection, connection,
  '{{"date_from": "2013-01-01", "date_to": "2013-12-31", "resources": ["flights"]}}',
  status, 'complete', 'worker:w', 'user:u', at, at, at, at, 'user:u', at
from (select array_agg(id order by id) as ids from public.agencies) as agencies,
  generate_series(1, %(finished)s) as n,
  lateral (select
    agencies.ids[1 + case when n %% 4 = 0 then 0 else n %% {AGENCIES} end] as agency,
    now() - (%(finished)s - n + 1) * interval '80 s' as at,
    case when n / 7 %% 100 = 99 then 'cancelled' when n / 7 %% 10 = 5 then 'failed' else 'completed' end as status
  ) as one,
  lateral (select
    case when n %% 4 = 0 then md5('connection' || n / 4 %% {CONNECTIONS})::uuid else agency end as connection) as its;

insert into app.definitions
  (id, agency_id, kind, name, source_id, destination_id, settings, created_by, updated_by, updated_at)
select md5(kind || n)::uuid, agency, kind, 'D', agency, agency,
  '{{"mode": "replicate", "schemas": [{{"id": "flights", "output_name": "flights"}}]}}', 'user:u', 'user:u',
  now() - n * interval '1 min'
from (select min(id::text)::uuid as agency from public.agencies) as a,
  unnest(array['bulk_sync', 'model', 'model_sync', 'sync_job']) as kind, generate_series(1, {DEFINITIONS}) as n;
insert into app.executions
  (id, agency_id, family, definition_id, connection_id, destination_id, concurrency_key, spec, status, event, actor,
   created_by, created_at, run_at, started_at, finished_at, cancelled_by, cancel_requested_at)
select
  (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '70009' || right(md5(n::text), 15))::uuid,
  agency, family, definition, agency, agency, definition::text,
  '{{"schemas": [{{"id": "flights", "output_name": "flights"}}], "is_partial": false}}',
  case when n %% 10 = 1 then 'failed' else 'completed' end, 'complete', 'worker:w', 'user:u', at, at, at, at,
  'user:u', at
from (select min(id::text)::uuid as agency from public.agencies) as a,
  generate_series(1, {OF_DEFINITIONS}) as n,
  lateral (select case when n %% 2 = 0 then 'bulk_sync' else 'model_sync' end as family) as f,
  lateral (select md5(family || 1 + n / 2 %% 50)::uuid as definition,
    now() - ({OF_DEFINITIONS} - n + 1) * interval '80 s' as at) as its;
insert into app.execution_resources (agency_id, execution_id, resource, started_at, finished_at)
select agency_id, id, 'flights', started_at, finished_at from app.executions where definition_id is not null;
insert into app.deliveries (agency_id, execution_id, number, event, status, finished_at)
select agency_id, id, 1, 'records', 'delivered', finished_at from app.executions where definition_id is not null;
insert into app.bulk_actions (agency_id, execution_id, horizon, is_collected, matched, done)
select agency_id, id, id, true, 1, 1 from app.executions limit 20000;
insert into app.bulk_action_items (agency_id, execution_id, item_id, outcome)
select agency_id, id, id, 'done' from app.executions limit 200000;
insert into app.api_keys (agency_id, name, hash, hint, created_by)
select agencies.ids[1 + n %% {AGENCIES}], 'K', sha256(convert_to(n::text, 'UTF8')), 'x', 'user:u'
from (select array_agg(id order by id) as ids from public.agencies) as agencies, generate_series(1, {KEYS}) as n;

insert into app.execution_events (agency_id, execution_id, at, event, to_status, lease_token, actor)
select agency_id, id, created_at, 'start', 'queued', 0, 'user:u' from app.executions;
insert into app.records (agency_id, connection_id, resource, key, data, execution_id, stored_at)
select a.id, a.id, 'flights', n::text, '{{}}', a.id, now() from public.agencies as a, generate_series(1, 100) as n;
insert into app.idempotency_keys (agency_id, actor, function, key, request, response, created_at)
select a.id, 'user:u', 'cancel_sync_job', n::text, '{{}}', '{{}}', now() - n * interval '14 min'
from public.agencies as a, generate_series(1, 100) as n;
insert into app.idempotency_keys (agency_id, actor, function, key, request, response, created_at)
select id, 'user:u', 'cancel_sync_job', 'old', '{{}}', '{{}}', now() - interval '2 days' from public.agencies limit 20;
"""
ALIVE = f"""
insert into app.executions
  (agency_id, family, connection_id, concurrency_key, spec, status, event, actor, created_by, created_at, run_at,
   started_at, lease_token, leased_by, lease_seconds, lease_expires_at)
select
  agency, case when n > {QUEUED} then 'bulk_sync' else 'historical_sync' end, agency,
  case when n between 1 and {AGENCIES} then agency::text else n::text end, '{{}}', status, 'start', 'user:u',
  'user:u', now(), now() - n * interval '1 s', case status when 'running' then now() end, 0,
  case status when 'running' then 'w' end, 30, case status when 'running' then now() + interval '1 h' end
from (select array_agg(id order by id) as ids from public.agencies) as agencies,
  generate_series(1 - {RUNNING}, 2 * {QUEUED}) as n,
  lateral (select agencies.ids[1 + abs(n) %% {AGENCIES}] as agency,
    case when n > 0 then 'queued' else 'running' end as status) as one
"""
# Runs a call, which may raise an error, as one statement that can be explained.
ATTEMPT = """
create function public.attempt(statement text) returns text language plpgsql as $$
declare
  response text;
begin
  begin
    execute statement into response;
  exception when others then
    response := sqlerrm;
  end;
  return set_config('test.result', coalesce(response, ''), true);
end $$
"""
COUNTERS = """
select relname as name, coalesce(seq_scan, 0) as scans, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) as rows
from pg_stat_xact_user_tables
"""


def fill(database: Database, finished: int = FINISHED) -> None:
    """As a superuser, without triggers and log. The indexes are built afterwards, which takes half the time."""
    of_executions = database.all(
        "select i.indexrelid::regclass::text as name, pg_get_indexdef(i.indexrelid) as definition from pg_index as i"
        " where i.indrelid = 'app.executions'::regclass"
        " and not exists (select from pg_constraint as c where c.conindid = i.indexrelid)"
    )
    admin = database.admin
    with admin.transaction():
        admin.execute("set local session_replication_role = replica; set local maintenance_work_mem = '256MB'")
        naming = ("execution_events", "execution_resources", "deliveries", "bulk_actions", "bulk_action_items")
        for table in (*naming, "executions"):
            admin.execute(f"alter table app.{table} set unlogged")
        admin.execute(f"drop index {', '.join(index['name'] for index in of_executions)}")
        cursor = psycopg.ClientCursor(admin)
        for statements in (HISTORY, ALIVE):
            cursor.execute(statements, {"finished": finished})
        for index in of_executions:
            admin.execute(index["definition"])
    admin.execute(ATTEMPT)
    admin.execute("vacuum analyze")


@dataclass(frozen=True)
class Reads:
    response: str
    rows: Mapping[str, int]  # by table
    scanned: frozenset[str]  # tables read in full
    pages: int
    milliseconds: float


def reads(session: Session, statement: str) -> Reads:
    """What this statement reads. Its changes are rolled back."""
    session.execute("begin")
    before = {row["name"]: row for row in session.execute(COUNTERS)}
    [explained] = session.execute("explain (analyze, buffers, format json) select public.attempt(%s)", (statement,))
    after = {row["name"]: row for row in session.execute(COUNTERS)}
    [response] = session.execute("select current_setting('test.result') as result")
    session.execute("rollback")

    def more(name: str, counter: str) -> int:
        return int(after[name][counter] - (before[name][counter] if name in before else 0))

    [whole] = explained["QUERY PLAN"]
    return Reads(
        response["result"],
        {name: more(name, "rows") for name in after},
        frozenset(name for name in after if more(name, "scans")),
        whole["Plan"]["Shared Hit Blocks"] + whole["Plan"]["Shared Read Blocks"],
        whole["Execution Time"],
    )


PENDING_ONES = {"family": "historical_sync", "status": "pending"}


class History:
    """The filled database, with the users and ids that the calls use."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.agency = self._first("select min(id::text) as id from public.agencies")
        self.connection = self._first("select md5('connection0')::uuid as id")
        self.user = database.user(self.agency)
        self.stranger = database.member()
        self.idle_connection = database.connection(self.agency)
        self.foreign_connection = database.connection(self.stranger.agency_id)
        self.unused_connection = database.connection(self.agency)
        self.records = database.connection(self.agency, "records", {})
        self.deleted_secret = self._first("select id from app.secrets order by delete_at limit 1")
        self.key = database.api_key(self.user)
        self.key_id = self._first("select id from app.api_keys where hint = %s", self.key[-4:])
        self.sync = self._first("select md5('bulk_sync7')::uuid as id")
        self.model = self._first("select md5('model7')::uuid as id")
        self.sync_job = self._first("select md5('sync_job7')::uuid as id")
        self.model_sync = self._first("select md5('model_sync7')::uuid as id")
        self.idle_sync = self._first("select md5('bulk_sync77')::uuid as id")
        self.active_sync = database.bulk_sync(self.user)
        database.execute(self.user, self.active_sync)
        ofs = "select id from app.executions where definition_id = %s order by id desc limit 1 offset 500"
        self.execution = self._first(ofs, self.sync)
        self.model_execution = self._first(ofs, self.model_sync)
        newest = "select id from app.executions where agency_id = %s order by id desc limit 10"
        self.ids = [str(row["id"]) for row in database.all(newest, (self.agency,))]
        self.bulk_action = bulk_actions.create(database, self.user, criteria=bulk_actions.these(self.ids))
        self.ended_bulk_action = bulk_actions.put(
            database, self.user, "bulk_action", "completed", spec=bulk_actions.spec()
        )
        self.collecting = self._begun(PENDING_ONES, 100)
        self.applying = self._begun(PENDING_ONES, 50)
        with database.worker() as worker:
            worker.call("worker_run_bulk_action_step", execution_id=self.applying, lease_token=1)
        with database.session(self.user.claims) as session:
            self.source_check = session.source_check(self.idle_connection)
            self.page = session.call("list_bulk_syncs")["pagination"]["next_page_token"]

    def _begun(self, criteria: dict[str, Any], max_limit: int) -> str:
        """A running bulk action (lease token 1) before its first step."""
        job_id = bulk_actions.create(self.database, self.user, criteria=criteria, max_limit=max_limit)
        self.database.transition(job_id, ("claim", "running"))
        return job_id

    def _first(self, query: str, *parameters: Any) -> str:
        return str(self.database.one(query, parameters)["id"])

    def job(self, status: str) -> str:
        """A job of the first agency: the 500th newest with this status, or the oldest."""
        query = "select id from app.executions where agency_id = %s and family = 'historical_sync' and status = %s"
        jobs = self.database.all(f"{query} order by id desc limit 500", (self.agency, status))
        return str(jobs[-1]["id"])


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    with Postgres(THROW_AWAY | ROOMY) as server:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute("create database project")
        with psycopg.connect(server.url("project"), autocommit=True) as connection:
            schema.install(connection, schema.declared())
        database = Database(server, "project")
        try:
            fill(database)
            yield History(database)
        finally:
            database.close()


Claims: TypeAlias = "Callable[[History], Mapping[str, Any]]"


@dataclass(frozen=True)
class Call:
    """`response`: a part of its result or of its error. `rows`: the most that it may read from one table."""

    claims: Claims
    function: str
    arguments: Callable[[History], dict[str, Any]]
    response: str
    rows: int = ROWS
    pages: int = PAGES
    idempotency_key: str | None = None
    by_key: bool = False  # as the agency's server


def user(history: History) -> Mapping[str, Any]:
    return history.user.claims


def stranger(history: History) -> Mapping[str, Any]:
    return history.stranger.claims


def service(_: History) -> Mapping[str, Any]:
    return SERVICE


def leased(lease_token: int = 0, **arguments: Any) -> Callable[[History], dict[str, Any]]:
    return lambda history: {"execution_id": history.job("running"), "lease_token": lease_token, **arguments}


def dates(connection: str) -> Callable[[History], dict[str, Any]]:
    days = {"date_from": "2013-01-01", "date_to": "2013-01-31"}
    return lambda history: {"connection_id": getattr(history, connection), **days}


def job(status: str, **arguments: Any) -> Callable[[History], dict[str, Any]]:
    return lambda history: {"job_id": history.job(status), **arguments}


def claiming(limit: int, *families: str) -> Callable[[History], dict[str, Any]]:
    return lambda _: {"worker": "w", "families": list(families), "max_executions": limit}


def going_on(limit: int) -> Callable[[History], dict[str, Any]]:
    next_ = claiming(limit, "historical_sync")
    return lambda history: {"leases": {history.job("running"): 0}, **next_(history)}


BATCH: dict[str, Any] = {
    "seq": 1,
    "resource": "flights",
    "records": [{"key": str(n), "data": {}} for n in range(100)],
    "checkpoint": {},
    "progress": {},
}
ERROR = {"code": "gone", "message": "The source is gone."}
# A claim and the tick reap the executions of dead workers, so they read all leased executions.
ALL_LEASED = RUNNING + ROWS

CALLS = {
    "start": Call(user, "start_historical_sync", dates("idle_connection"), "pending"),
    "start, one is active": Call(user, "start_historical_sync", dates("agency"), "already_active"),
    "start, not mine": Call(user, "start_historical_sync", dates("foreign_connection"), "connection_of_another_agency"),
    "start, with a key": Call(user, "start_historical_sync", dates("idle_connection"), "pending", idempotency_key="k"),
    "cancel, queued": Call(user, "cancel_sync_job", job("queued", reason="mine"), "cancelled"),
    "cancel, running": Call(user, "cancel_sync_job", job("running"), "cancelled"),
    "cancel, finished": Call(user, "cancel_sync_job", job("completed"), "not_cancellable"),
    "cancel, not mine": Call(stranger, "cancel_sync_job", job("running"), "job_of_another_agency"),
    "cancel, not there": Call(user, "cancel_sync_job", lambda h: {"job_id": h.agency}, "job_not_found"),
    "cancel, with a key": Call(user, "cancel_sync_job", job("running"), "cancelled", idempotency_key="k"),
    "cancel, as a trusted server": Call(service, "cancel_sync_job", job("running"), "cancelled"),
    "get": Call(user, "get_historical_sync", job("completed"), "completed"),
    "get, not mine": Call(stranger, "get_historical_sync", job("completed"), "job_of_another_agency"),
    "retry": Call(user, "retry_historical_sync", job("failed"), "pending"),
    "retry, completed": Call(user, "retry_historical_sync", job("completed"), "not_retryable"),
    "claim": Call(service, "worker_claim", claiming(1, "historical_sync"), "historical_sync"),
    "claim, many": Call(service, "worker_claim", claiming(100, "historical_sync"), '"lease_token": 1', 600, 100 * 100),
    "claim, any": Call(service, "worker_claim", claiming(1, "historical_sync", "bulk_sync"), "bulk_sync"),
    "claim, nothing there": Call(service, "worker_claim", claiming(100, "model_sync"), "[]", ALL_LEASED),
    "heartbeat": Call(service, "worker_heartbeat", leased(), "continue"),
    "heartbeat, late": Call(service, "worker_heartbeat", leased(7), "lost"),
    "worker_commit_batch": Call(service, "worker_commit_batch", leased(**BATCH), "continue", pages=2000),
    "worker_commit_batch, late": Call(service, "worker_commit_batch", leased(7, **BATCH), "lost"),
    "worker_commit_batch, wrong seq": Call(
        service, "worker_commit_batch", leased(**BATCH | {"seq": 3}), "unexpected_seq"
    ),
    "finish": Call(service, "worker_complete", leased(), "completed"),
    "finish, all": Call(service, "worker_complete_all", lambda history: {"leases": {history.job("running"): 0}}, "["),
    "finish and claim": Call(service, "worker_complete_and_claim", going_on(1), '"lease_token": 1'),
    "finish and claim, many": Call(
        service, "worker_complete_and_claim", going_on(100), '"lease_token": 1', 600, 100 * 100
    ),
    "fail": Call(service, "worker_fail", leased(error=ERROR), "queued"),
    "fail for good": Call(service, "worker_fail", leased(error=ERROR, retry=False), "failed"),
    "release": Call(service, "worker_release", leased(), "queued"),
    "stop": Call(service, "worker_stop", leased(reason="rejected"), "cancelled"),
    "stop, late": Call(service, "worker_stop", leased(7, reason="rejected"), "lost"),
    "worker_claim_events": Call(service, "worker_claim_events", lambda _: {}, "[]"),
    "waiting": Call(service, "worker_queue_stats", lambda _: {"families": ["historical_sync"]}, '"executions": 20'),
    "waiting, nothing there": Call(
        service, "worker_queue_stats", lambda _: {"families": ["model_sync"]}, '"executions": 0'
    ),
    "reap": Call(service, "worker_reap", lambda _: {}, '"released": 0', ALL_LEASED),
}


def given(**arguments: Any) -> Callable[[History], dict[str, Any]]:
    """Values in braces are attributes of the history."""

    def of(history: History) -> dict[str, Any]:
        found = dict(arguments)
        for name, value in arguments.items():
            if isinstance(value, str) and value[:1] == "{":
                found[name] = getattr(history, value[1:-1])
        return found

    return of


PAGE_OF_EXECUTIONS = 310  # each with its resources
BY_MEMBERS = {
    "bulk: get": Call(user, "get_bulk_sync", given(sync_id="{sync}"), '"name": "D"'),
    "bulk: get, not mine": Call(stranger, "get_bulk_sync", given(sync_id="{sync}"), "bulk_sync_not_found"),
    "bulk: status": Call(user, "get_bulk_sync_status", given(sync_id="{sync}"), '"last_execution": {'),
    "bulk: status, active": Call(user, "get_bulk_sync_status", given(sync_id="{active_sync}"), '"created"'),
    "bulk: status, never started": Call(user, "get_bulk_sync_status", given(sync_id="{idle_sync}"), "null"),
    "bulk: execution": Call(
        user, "get_bulk_sync_execution", given(sync_id="{sync}", execution_id="{execution}"), '"completed_at"'
    ),
    "bulk: executions": Call(
        user, "list_bulk_sync_executions", given(sync_id="{sync}"), '"data": [{', PAGE_OF_EXECUTIONS, 4000
    ),
    "bulk: executions, a page": Call(
        user, "list_bulk_sync_executions", given(sync_id="{sync}", page_token="{execution}", limit=20), '"data": [{'
    ),
    "bulk: executions, the first": Call(
        user, "list_bulk_sync_executions", given(sync_id="{sync}", ascending=True, limit=20), '"data": [{'
    ),
    "bulk: executions, ended": Call(
        user, "list_bulk_sync_executions", given(sync_id="{sync}", only_terminal=True, limit=20), '"data": [{'
    ),
    "bulk: list": Call(user, "list_bulk_syncs", given(), '"data": [{', 200),
    "bulk: list, a page": Call(user, "list_bulk_syncs", given(page_token="{page}", limit=20), '"data": [{', 200),
    "bulk: list, active": Call(user, "list_bulk_syncs", given(active=True, limit=20), '"data": [{', 200),
    "bulk: list, none": Call(stranger, "list_bulk_syncs", given(), '"data": []'),
    "bulk: create": Call(
        user,
        "create_bulk_sync",
        given(name="B", source_connection_id="{idle_connection}", destination_connection_id="{records}"),
        '"name": "B"',
    ),
    "bulk: start": Call(user, "start_bulk_sync", given(sync_id="{idle_sync}"), '"created"'),
    "bulk: start, active": Call(user, "start_bulk_sync", given(sync_id="{active_sync}"), "already_active"),
    "bulk: cancel": Call(user, "cancel_bulk_sync", given(sync_id="{active_sync}"), '"canceled"'),
    "bulk: cancel, nothing": Call(user, "cancel_bulk_sync", given(sync_id="{sync}"), "Nothing is running"),
    "bulk: delete": Call(user, "delete_bulk_sync", given(sync_id="{active_sync}"), ""),
    "model sync: get": Call(user, "get_model_sync", given(sync_id="{model_sync}"), '"name": "D"'),
    "model sync: status": Call(user, "get_model_sync_status", given(sync_id="{model_sync}"), '"status"'),
    "model sync: execution": Call(
        user, "get_model_sync_execution", given(sync_id="{model_sync}", execution_id="{model_execution}"), '"status"'
    ),
    "model sync: executions": Call(
        user, "list_model_sync_executions", given(sync_id="{model_sync}", limit=20), '"data": [{'
    ),
    "model sync: list": Call(user, "list_model_syncs", given(), '"data": [{', 200),
    "model sync: cancel": Call(user, "cancel_model_sync", given(sync_id="{model_sync}"), "Nothing is running"),
    "model: get": Call(user, "get_model", given(model_id="{model}"), '"name": "D"'),
    "model: list": Call(user, "list_models", given(), '"data": [{', 200),
    "model sync: delete": Call(user, "delete_model_sync", given(sync_id="{model_sync}"), ""),
    "sync job: get": Call(user, "get_sync_job", given(job_id="{sync_job}"), '"label"'),
    "sync job: list": Call(user, "list_sync_jobs", given(), '"result": [{', 300, 2000),
    "sync job: runs": Call(user, "list_sync_job_runs", given(), '"result": []'),
    "sync job: run": Call(user, "get_sync_job_run", given(run_id="{execution}"), "not_found"),
    "sync job: stop": Call(user, "stop_sync_job_run", given(run_id="{execution}"), "not_found"),
    # Webhooks are filtered from the agency's other connections one by one.
    "webhook: list": Call(user, "list_webhooks", given(), '"result": []', CONNECTIONS + ROWS),
    "webhook: get": Call(user, "get_webhook", given(webhook_id="{records}"), "not_found"),
    "connection: get": Call(user, "get_connection", given(connection_id="{idle_connection}"), '"name": "A"'),
    "connection: list": Call(user, "list_connections", given(), '"data": [{', 300),
    "connection: create, with a secret": Call(
        user,
        "create_connection",
        given(name="N", type="http", configuration={"resources": {}, "secret": {"token": "t"}}),
        '"name": "N"',
    ),
    "secret: reserve": Call(user, "reserve_secret", given(), "secret_id"),
    "secrets: claim deleted": Call(service, "worker_claim_deleted_secrets", lambda _: {"max_secrets": 10}, "name"),
    "secrets: acknowledge deleted": Call(service, "worker_ack_deleted_secret", given(secret_id="{deleted_secret}"), ""),
    "connection: create": Call(user, "create_connection", given(name="N", type="records"), '"name": "N"'),
    "connection: delete": Call(user, "delete_connection", given(connection_id="{unused_connection}"), "", 300),
    "connection: delete, in use": Call(user, "delete_connection", given(connection_id="{records}"), "", 300),
    "connection: test": Call(user, "test_connection", given(type="records", configuration={}), ""),
    "source check: create": Call(
        user,
        "create_model",
        given(name="N", connection_id="{idle_connection}", configuration={"resource": "flights"}),
        "check_id",
    ),
    "source check: get": Call(user, "get_source_check", given(check_id="{source_check}"), '"created"'),
    "source check: cancel": Call(user, "cancel_source_check", given(check_id="{source_check}"), '"cancelled"'),
    "key: create": Call(user, "create_api_key", given(name="K"), "sync_"),
    # The policy identifies the caller for each key.
    "key: list": Call(user, "list_api_keys", given(), '"api_keys": [{', 250, 2000),
    "key: revoke": Call(user, "revoke_api_key", given(api_key_id="{key_id}"), "revoked_by"),
}
CALLS |= BY_MEMBERS
# The same calls by the agency's own server: its key is looked up among a hundred thousand.
CALLS |= {
    f"{name}, by key": replace(call, by_key=True)
    for name, call in BY_MEMBERS.items()
    if call.claims is user and not name.startswith("key")
}

FAMILY = {"family": "historical_sync"}
# How many of a million executions a bulk action reads to find the first twenty: as many as it finds, for all criteria.
CRITERIA: dict[str, dict[str, Any]] = {
    "of a family": FAMILY,
    **{
        f"{status} ones": FAMILY | {"status": status}
        for status in ("pending", "in_progress", "completed", "failed", "cancelled")
    },
    "of a connection": {"connection_id": "{connection}"},
    "of a connection, failed": FAMILY | {"status": "failed", "connection_id": "{connection}"},
    "of a connection, pending": FAMILY | {"status": "pending", "connection_id": "{connection}"},
    "of the last hour": {"created_after": "-1 hour"},
    "of the last hour, completed": FAMILY | {"status": "completed", "created_after": "-1 hour"},
    "of a connection, of the last day": {"connection_id": "{connection}", "created_after": "-1 day"},
    "older than a year": {"created_before": "-1 year"},
    "of one hour": {"created_after": "-100 days", "created_before": "-2399 hours"},
    "older than all": {"created_before": "-100 years"},
    "these": {"ids": "{ids}"},
    "of another family": {"family": "model_sync", "status": "running"},
}


def with_criteria(name: str, **arguments: Any) -> Callable[[History], dict[str, Any]]:
    def of(history: History) -> dict[str, Any]:
        found = {}
        for key, value in CRITERIA[name].items():
            if key.startswith("created"):
                query = "select to_jsonb(now() + %s::interval) #>> '{}' as at"
                found[key] = history.database.one(query, (value,))["at"]
            else:
                found[key] = getattr(history, value[1:-1]) if value[:1] == "{" else value
        return {"criteria": found, **arguments}

    return of


def stepping(job: str) -> Callable[[History], dict[str, Any]]:
    return lambda history: {"execution_id": getattr(history, job), "lease_token": 1}


CALLS |= {
    # The public status of queued executions is computed one by one. The index orders a connection's executions by
    # family, so a preview for all families reads all executions of that connection (a thousand here), and no others.
    f"bulk action: preview {name}": Call(
        user,
        "preview_bulk_action",
        with_criteria(name, max_limit=20),
        '"is_exact"',
        1200 if name == "of a connection" else 200,
        4000 if name == "of a connection" else 800,
    )
    for name in CRITERIA
}
CALLS |= {
    f"bulk action: preview {name}, by an agency without executions": Call(
        stranger, "preview_bulk_action", with_criteria(name), '"total_count": 0'
    )
    for name in CRITERIA
}
CALLS |= {
    "bulk action: create": Call(
        user, "create_bulk_action", with_criteria("failed ones", action_type="retry", max_limit=20), '"scheduled"', 200
    ),
    "bulk action: get": Call(user, "get_bulk_action", given(job_id="{bulk_action}"), '"scheduled"'),
    "bulk action: list": Call(user, "list_bulk_actions", given(), '"jobs": [{'),
    "bulk action: list, running": Call(user, "list_bulk_actions", given(status="running"), '"jobs": [{'),
    "bulk action: cancel": Call(user, "cancel_bulk_action", given(job_id="{bulk_action}"), '"cancelled"'),
    "bulk action: delete": Call(user, "delete_bulk_action", given(job_id="{ended_bulk_action}"), '"completed"'),
    # One step collects a hundred executions, or cancels fifty; each row is written.
    "bulk action: collect": Call(
        service, "worker_run_bulk_action_step", stepping("collecting"), '"more": true', 400, 3000
    ),
    "bulk action: apply": Call(
        service, "worker_run_bulk_action_step", stepping("applying"), '"more": false', 600, 6000
    ),
}

STATUSES = (None, "pending", "in_progress", "completed", "failed", "cancelled")


def listing(**arguments: Any) -> Callable[[History], dict[str, Any]]:
    """`connection`: an attribute of the history; `cursor`: the status of the job after which the page begins."""

    def of(history: History) -> dict[str, Any]:
        found = dict(arguments)
        if "connection" in found:
            found["connection_id"] = getattr(history, found.pop("connection"))
        if "cursor" in found:
            found["cursor"] = history.job(found["cursor"])
        return found

    return of


def lists() -> Iterator[tuple[str, Call]]:
    connections = (None, "connection", "agency", "idle_connection")
    for status, connection, cursor in itertools.product(STATUSES, connections, (None, "completed")):
        chosen = {"status": status, "connection": connection, "cursor": cursor}
        filters = {name: value for name, value in chosen.items() if value}
        # A trusted server that names no connection lists all agencies' executions, which no index serves.
        for claims in (user, service) if connection else (user,):
            name = f"list as {claims.__name__} {' '.join(f'{k}={v}' for k, v in filters.items())}"
            yield name, Call(claims, "list_historical_syncs", listing(**filters), '"jobs": [')
    yield "list, many", Call(user, "list_historical_syncs", listing(limit=100), '"jobs": [', 300)


LISTS = dict(lists())


CALLED = {call.function for call in (CALLS | LISTS).values()}
# Functions that are not called here: all but delete_model write one row. To delete a model reads the agency's model
# syncs, because no index names the model. `make conventions` compares both sets with the declared functions.
NOT_CALLED = {
    "delete_model", "worker_begin_delivery", "worker_ack_event", "create_model_sync", "start_model_sync",
    "create_sync_job", "create_sync_job_run",
    "update_sync_job", "delete_sync_job", "create_webhook", "update_webhook", "delete_webhook",
}  # fmt: skip


def statement(call: Call, history: History) -> str:
    return str(psycopg.ClientCursor(history.database.admin).mogrify(*rpc(call.function, **call.arguments(history))))


def session_of(call: Call, history: History) -> Session:
    if call.by_key:
        return history.database.agency_server(history.key)
    session = history.database.session(call.claims(history))
    if call.idempotency_key:
        headers = f'{{"idempotency-key": "{call.idempotency_key}"}}'
        session.execute("select set_config('request.headers', %s, false)", (headers,))
    return session


@pytest.mark.parametrize("name", CALLS | LISTS)
def test_query_plan__call_reads_its_own_rows(history: History, name: str) -> None:
    call = (CALLS | LISTS)[name]
    query = statement(call, history)
    with session_of(call, history) as session:
        all_reads = [reads(session, query) for _ in range(TIMES)]
    # Before Postgres 17, worker_queue_stats passes over the other families' rows one by one.
    passes_over = call.function == "worker_queue_stats" and history.database.admin.info.server_version < 170000
    passed_over = QUEUED if passes_over else 0
    for found in all_reads:
        assert call.response in found.response
        check(found, call.rows + passed_over)
    assert max(found.pages for found in all_reads[WARM:]) <= call.pages


def check(found: Reads, rows: int = ROWS) -> None:
    assert found.scanned == frozenset()
    assert {table: count for table, count in found.rows.items() if count > rows} == {}


@pytest.mark.fresh_database
def test_query_plan__made_while_the_table_is_empty(database: Database) -> None:
    """A worker's session may be older than the queue, and statistics come a minute later than rows."""
    database.admin.execute(ATTEMPT)
    database.admin.execute("alter table app.executions set (autovacuum_enabled = false)")
    agency = database.agency()
    first = database.put("running", agency)
    calls = [
        "select public.worker_claim('w', '[\"historical_sync\"]', 10)",
        f"select public.worker_complete_all('{{\"{first}\": 1}}')",
        f"select public.worker_complete_and_claim('{{\"{first}\": 1}}', 'w', '[\"historical_sync\"]', 10)",
        f"select public.worker_heartbeat('{first}', 1)",
        f"select public.worker_complete('{first}', 1)",
        "select public.worker_reap()",
    ]
    with database.worker() as worker:
        for statement_, _ in itertools.product(calls, range(TIMES)):
            reads(worker, statement_)
        with database.admin.transaction():
            database.admin.execute("set local role postgres")
            database.admin.execute(
                "insert into app.executions (agency_id, family)"
                " select %s, 'historical_sync' from generate_series(1, 2000)",
                (agency,),
            )
        for statement_ in calls:
            found = reads(worker, statement_)
            assert "executions" not in found.scanned, statement_
            assert found.rows["executions"] <= ROWS, statement_


@pytest.mark.parametrize(
    ("older_than", "limit", "dropped"), [("10 years", 1000, 0), ("100 days", 0, 0), ("100 days", 50, 50)]
)
def test_purge_executions__reads_only_what_it_deletes(
    history: History, older_than: str, limit: int, dropped: int
) -> None:
    with history.database.owner() as owner:
        all_reads = [reads(owner, f"select app.purge_executions('{older_than}', {limit})") for _ in range(TIMES)]
    for found in all_reads:
        assert found.response == str(dropped)
        # The planner of each of the three deletes may read both ends of its indexes.
        check(found, rows=4 * dropped + 3 * 4)
    # Planning three deletes reads some 200 pages for any history, for each table that may refer to the rows.
    assert max(found.pages for found in all_reads[WARM:]) <= 250 + 40 * dropped


STATEMENTS: Mapping[str, tuple[Claims, str]] = {
    "one job": (user, "select job_id from public.historical_sync_jobs where job_id = '{completed}'"),
    "the newest jobs": (
        user,
        "select count(*) from (select * from public.historical_sync_jobs order by job_id desc limit 20) as newest",
    ),
    "an audit": (user, "select count(*) from app.execution_events where execution_id = '{completed}'"),
    # Foreign keys search for rows that still refer to the deleted row.
    "delete a connection": (service, "delete from app.connections where id = '{connection}' returning id"),
    "delete an agency": (service, "delete from public.agencies where id = '{agency}' returning id"),
    "delete a user": (service, "delete from public.users where id = '{user}' returning id"),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_query_plan__statement_reads_its_own_rows(history: History, name: str) -> None:
    claims, template = STATEMENTS[name]
    query = template.format(
        completed=history.job("completed"),
        connection=history.unused_connection,
        agency=history.database.agency(),
        user=history.user.id,
    )
    with history.database.session(claims(history)) as session:
        for _ in range(TIMES):
            found = reads(session, query)
            assert len(found.response) > 0
            assert "violates" not in found.response
            check(found)
