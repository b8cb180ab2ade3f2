"""Plain SQL against the rows of agencies, as every kind of caller. No row of another agency can be read, written or
referred to, and a member writes only some columns of their own agency's rows. (Executions: test_guard_execution.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.database import SqlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.support.database import Database, Session, User

pytestmark = pytest.mark.sql

TABLES = ("connections", "definitions", "api_keys", "executions", "execution_events", "execution_resources", "records")
OTHERS = ("stranger", "strangers_server", "without_agency", "signed_out", "revoked_server", "anonymous")
ALL_EXECUTIONS = ("member", "server", *OTHERS)
SECRET = "t0p-s3cret"
COLUMNS = {
    "connections": "id, agency_id, kind, name, config, created_at, created_by, updated_at, deleted_at",
    "api_keys": "id, agency_id, name, hint, created_at, created_by, last_used_at, revoked_at, revoked_by",
}


@dataclass(frozen=True)
class Scenario:
    """An agency with a running bulk sync, a stranger's agency with another, and sessions of all kinds of callers."""

    database: Database
    member: User
    ids: dict[str, str]
    sessions: dict[str, Session]

    def attempt(self, caller: str, statement: str) -> SqlError | list[dict[str, object]]:
        """In a transaction in which app.caller() has identified an agency's server."""
        session = self.sessions[caller]
        try:
            with session.connection.transaction():
                if caller.endswith("server"):
                    session.execute("select app.caller()")
                return session.execute(statement)
        except psycopg.Error as error:
            return SqlError.of(error)

    def assert_rejected(self, caller: str, *statements: str) -> None:
        """Every statement fails or changes nothing."""
        before = self.database.fingerprint()
        for statement in statements:
            response = self.attempt(caller, statement)
            assert isinstance(response, SqlError) or response == [], (statement, response)
            assert self.database.fingerprint() == before, (statement, response)


def run(database: Database, user: User) -> dict[str, str]:
    """The ids of a bulk sync with a running execution, records and counts."""
    sync_id = database.bulk_sync(user)
    execution_id = database.execute(user, sync_id)
    with database.worker() as worker:
        execution = worker.claim(family="bulk_sync")
        assert worker.commit_batch(execution, 1, "a", "b") == "continue"
    sync = database.one("select source_id::text, destination_id::text from app.definitions where id = %s", (sync_id,))
    return {
        "sync": sync_id,
        "execution": execution_id,
        "source": sync["source_id"],
        "destination": sync["destination_id"],
    }


@pytest.fixture(scope="module")
def scenario(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Scenario]:
    """One database for all tests, because they prove that nothing changes."""
    with clone() as database:
        member, stranger = database.member(), database.member()
        colleague, nowhere = database.user(member.agency_id), database.user(None)
        ids = {"agency": str(member.agency_id), **run(database, member)}
        run(database, stranger)
        for row in database.all("select id, agency_id from app.connections"):
            secret_id = database.store_secret(row["agency_id"], {"token": SECRET})
            database.admin.execute("update app.connections set secret_id = %s where id = %s", (secret_id, row["id"]))
        keys = {
            name: database.api_key(user) for name, user in (("mine", member), ("gone", member), ("theirs", stranger))
        }
        database.admin.execute("update app.api_keys set revoked_at = now() where hint = %s", (keys["gone"][-4:],))
        database.admin.execute("delete from auth.sessions where id = %s", (colleague.session_id,))
        # A key's use is recorded once a minute, which would be a change in the middle of a test.
        database.admin.execute("update app.api_keys set last_used_at = now() + interval '1 day'")
        sessions = {
            "member": database.session(member.claims),
            "server": database.agency_server(keys["mine"]),
            "stranger": database.session(stranger.claims),
            "strangers_server": database.agency_server(keys["theirs"]),
            "without_agency": database.session(nowhere.claims),
            "signed_out": database.session(colleague.claims),
            "revoked_server": database.agency_server(keys["gone"]),
            "anonymous": database.session({"role": "anon"}),
        }
        yield Scenario(database, member, ids, sessions)
        for session in sessions.values():
            session.close()


@pytest.mark.parametrize("caller", ["member", "server"])
@pytest.mark.parametrize("table", TABLES)
def test_tenants__see_their_own_rows(scenario: Scenario, caller: str, table: str) -> None:
    rows = scenario.attempt(caller, f"select {COLUMNS.get(table, '*')} from app.{table}")
    assert isinstance(rows, list)
    assert rows
    assert {str(row["agency_id"]) for row in rows} == {scenario.ids["agency"]}
    assert len(rows) < scenario.database.one(f"select count(*) as n from app.{table}")["n"]


@pytest.mark.parametrize("caller", OTHERS)
@pytest.mark.parametrize("table", TABLES)
def test_tenants__others_see_nothing(scenario: Scenario, caller: str, table: str) -> None:
    for columns in (COLUMNS.get(table, "*"), "agency_id", "count(*) as n"):
        response = scenario.attempt(caller, f"select {columns} from app.{table}")
        if caller in {"stranger", "strangers_server"}:
            assert isinstance(response, list)
            assert scenario.ids["agency"] not in {str(row.get("agency_id")) for row in response}
        else:
            assert isinstance(response, SqlError) or response in ([], [{"n": 0}]), response


@pytest.mark.parametrize("caller", OTHERS)
def test_tenants__others_write_nothing(scenario: Scenario, caller: str) -> None:
    mine = f"'{scenario.ids['agency']}'"
    as_key = "sha256('x'), 'xxxx', 'user:forged'"
    scenario.assert_rejected(
        caller,
        "update app.connections set deleted_at = now() where agency_id = " + mine,
        "update app.connections set secret_id = null where agency_id = " + mine,
        f"insert into app.secrets (agency_id, storage, value) values ({mine}, 'database', '{{}}')",
        "update app.secrets set used_at = null where agency_id = " + mine,
        f'select app.store_secret({mine}, \'{{"token": "forged"}}\')::text',
        f"insert into app.connections (agency_id, kind, name) values ({mine}, 'http', 'Forged')",
        "update app.definitions set deleted_at = now() where agency_id = " + mine,
        f"insert into app.definitions (agency_id, kind, name, created_by, updated_by)"
        f" values ({mine}, 'bulk_sync', 'Forged', 'user:f', 'user:f')",
        "update app.api_keys set revoked_at = now() where agency_id = " + mine,
        "update app.api_keys set revoked_at = null where agency_id = " + mine,
        f"insert into app.api_keys (agency_id, name, hash, hint, created_by) values ({mine}, 'Forged', {as_key})",
        f"insert into app.executions (agency_id, family) values ({mine}, 'bulk_sync')",
        f"select app.copy_secret_for_check('{scenario.ids['source']}', '{scenario.ids['destination']}')::text"
        " where false",
        *(f"delete from app.{table} where agency_id = {mine}" for table in TABLES),
    )


@pytest.mark.parametrize("caller", ["stranger", "strangers_server"])
def test_tenants__no_reference_to_another_agency(scenario: Scenario, caller: str) -> None:
    """Foreign keys ignore policies, so they carry the agency."""
    own = "(select id from public.agencies)"
    for column in ("source_id", "destination_id"):
        for connection in ("source", "destination"):
            scenario.assert_rejected(
                caller,
                f"insert into app.definitions (agency_id, kind, name, {column}, created_by, updated_by)"
                f" values ({own}, 'bulk_sync', 'Forged', '{scenario.ids[connection]}', 'user:f', 'user:f')",
            )
    for column, other in (
        ("definition_id", "sync"),
        ("connection_id", "source"),
        ("destination_id", "destination"),
        ("retry_of", "execution"),
    ):
        scenario.assert_rejected(
            caller,
            f"insert into app.executions (agency_id, family, {column})"
            f" values ({own}, 'bulk_sync', '{scenario.ids[other]}')",
        )


@pytest.mark.parametrize("caller", ALL_EXECUTIONS)
def test_tenants__secrets_and_hashes_are_unreadable(scenario: Scenario, caller: str) -> None:
    for statement in (
        "select secret_id from app.connections",
        "select value from app.secrets",
        "select * from app.secrets",
        "select count(*) from app.secrets",
        "select app.get_secret(id) from app.connections",
        "update app.secrets set used_at = used_at",
        "delete from app.secrets",
        "select * from app.connections",
        "select c from app.connections as c",
        "select to_jsonb(c) as c from app.connections as c",
        "select id from app.connections where secret_id is not null",
        "select id from app.connections order by secret_id",
        "update app.connections set deleted_at = null where secret_id is not null returning id",
        "update app.connections set deleted_at = deleted_at returning secret_id",
        "update app.connections set secret_id = null",
        "insert into app.connections (name) values ('x') returning secret_id",
        "select hash from app.api_keys",
        "select k from app.api_keys as k",
        "select id from app.api_keys where hash > sha256('x')",
        "update app.api_keys set revoked_at = revoked_at where hash is not null returning id",
        "update app.api_keys set revoked_at = revoked_at returning hash",
    ):
        response = scenario.attempt(caller, statement)
        assert isinstance(response, SqlError), (statement, response)
        assert response.sqlstate == ("PT401" if caller == "revoked_server" else "42501"), (statement, response)
    found = scenario.attempt(caller, "select app.find_connection(id)::text as row from app.connections")
    assert SECRET not in str(found)


@pytest.mark.parametrize("caller", ["member", "server"])
def test_tenants__columns_of_a_member(scenario: Scenario, caller: str) -> None:
    new = "gen_random_uuid()"
    scenario.assert_rejected(
        caller,
        *(
            f"update app.connections set {change}"
            for change in (f"id = {new}", f"agency_id = {new}", "kind = 'records'", "name = 'x'")
        ),
        *(
            f"update app.definitions set {change}"
            for change in (
                f"id = {new}", f"agency_id = {new}", "kind = 'model'",
                "active = false",
                "source_id = null", "destination_id = null", "created_by = 'user:f'",
            )
        ),
        *(
            f"update app.api_keys set {change}"
            for change in (
                f"id = {new}", f"agency_id = {new}", "name = 'x'", "hash = sha256('x')", "hint = 'x'",
                "last_used_at = null", "created_by = 'user:f'",
            )
        ),
        "update app.execution_resources set records = 0",
        "update app.execution_resources set finished_at = now()",
        f"insert into app.execution_resources (agency_id, execution_id, resource, started_at)"
        f" values ('{scenario.ids['agency']}', '{scenario.ids['execution']}', 'forged', now())",
        "update app.records set data = '{}'",
        f"insert into app.records values ('{scenario.ids['agency']}', '{scenario.ids['destination']}', 'r', 'k',"
        f" '{{}}', '{scenario.ids['execution']}', now())",
        *(f"delete from app.{table}" for table in TABLES),
        *(f"truncate app.{table} cascade" for table in TABLES),
    )  # fmt: skip


@pytest.mark.parametrize("caller", ["member", "server"])
def test_tenants__row_to_another_agency(scenario: Scenario, caller: str) -> None:
    stranger = scenario.database.one("select id from public.agencies where id <> %s", (scenario.ids["agency"],))["id"]
    scenario.assert_rejected(caller, *(f"update app.{table} set agency_id = '{stranger}'" for table in TABLES))


def test_copy_secret_for_check__within_the_agency_only(
    clone: Callable[[], AbstractContextManager[Database]],
) -> None:
    with clone() as database:
        user, other = database.member(), database.member()
        bearer = {"base_url": "https://a.example", "auth": {"type": "bearer"}}
        stored = database.connection(user.agency_id, "http", bearer, {"token": SECRET})
        theirs = database.connection(other.agency_id, "http", bearer, {"token": SECRET})
        alive = database.connection(user.agency_id, "http", bearer)
        tested = database.connection(user.agency_id, "http", bearer)
        brings_its_own = database.connection(user.agency_id, "http", bearer, {"other": 2})
        elsewhere = database.connection(user.agency_id, "http", bearer | {"base_url": "https://b.example"})
        otherwise = database.connection(user.agency_id, "http", bearer | {"auth": {"type": "none"}})
        for one in (tested, elsewhere, otherwise):
            database.admin.execute("update app.connections set deleted_at = now() where id = %s", (one,))
        with database.admin.transaction():  # as a connection under test, which still has its secret
            database.admin.execute("set local session_replication_role = replica")
            database.admin.execute("update app.connections set deleted_at = now() where id = %s", (brings_its_own,))
        with database.session(user.claims) as session:
            for from_, to in (
                (theirs, tested),
                (stored, alive),
                (tested, alive),
                (stored, theirs),
                (stored, brings_its_own),
                *((stored, one) for one in (elsewhere, otherwise)),
            ):
                before = database.fingerprint()
                session.execute("select app.copy_secret_for_check(%s, %s)", (from_, to))
                assert database.fingerprint() == before
            session.execute("select app.copy_secret_for_check(%s, %s)", (stored, tested))
        assert database.secret(tested) == {"token": SECRET}
        assert database.secret(brings_its_own) == {"other": 2}
        with database.session(other.claims) as session:
            before = database.fingerprint()
            session.execute("select app.copy_secret_for_check(%s, %s)", (stored, tested))
            assert database.fingerprint() == before


def test_tenants__reads_take_no_locks(database: Database) -> None:
    """Not even for a delete of the row that is read."""
    user = database.member()
    connection_id = database.connection(user.agency_id)
    with database.session(user.claims) as session, database.connect() as holder, holder.transaction():
        holder.execute("select from app.connections for update")
        session.execute("set lock_timeout = '1ms'")
        with session.connection.transaction():
            session.execute("set transaction read only")
            assert session.call("get_connection", connection_id=connection_id)["data"]["id"] == connection_id
            assert [one["id"] for one in session.call("list_connections")["data"]] == [connection_id]
