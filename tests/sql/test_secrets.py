"""Secrets in the database, in Supabase Vault and in an external store: the roles that may use, read and delete them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support.connections import CONFIG, SECRET, everything_stored
from tests.support.database import VAULT, SqlError

if TYPE_CHECKING:
    from tests.support.database import Database, Session, User

pytestmark = pytest.mark.sql

GOOD: dict[str, Any] = {"name": "Flights", "type": "http"}


@pytest.fixture
def user(database: Database) -> User:
    return database.member()


@pytest.fixture
def vault(database: Database) -> Database:
    database.admin.execute(VAULT.read_bytes())
    return database


def create(database: Database, user: User, **arguments: Any) -> str:
    """A connection with the secret, or with the given arguments."""
    configuration = CONFIG if "secret_id" in arguments else {**CONFIG, "secret": SECRET}
    with database.session(user.claims) as session:
        response = session.call("create_connection", **GOOD, **{"configuration": configuration, **arguments})
    return str(response["data"]["id"])


def reserve(database: Database, user: User, **arguments: Any) -> dict[str, str]:
    with database.session(user.claims) as session:
        return dict(session.call("reserve_secret", **arguments))


def claimed(database: Database, user: User, connection_id: str) -> dict[str, Any]:
    """The connection as the worker receives it."""
    job_id = database.start(user, connection_id)
    with database.worker() as worker:
        execution = worker.claim()
        assert execution["id"] == job_id
        worker.call("worker_complete", execution_id=job_id, lease_token=execution["lease_token"])
    return dict(execution["connection"])


def delete(database: Database, user: User, connection_id: str) -> None:
    with database.session(user.claims) as session:
        session.call("delete_connection", connection_id=connection_id)


def to_delete(database: Database) -> list[dict[str, str]]:
    with database.worker() as worker:
        return list(worker.call("worker_claim_deleted_secrets"))


def age(database: Database, hours: float) -> None:
    database.admin.execute("update app.secrets set delete_at = delete_at - make_interval(secs => %s)", (hours * 3600,))


# In the database


def test_secret__in_the_database(database: Database, user: User) -> None:
    connection_id = create(database, user)
    [row] = database.all("select * from app.secrets")
    assert (row["storage"], row["value"], row["name"]) == ("database", SECRET, None)
    assert claimed(database, user, connection_id) == {"kind": "http", "config": CONFIG, "secret": SECRET}
    for role, claims in (("authenticated", user.claims), ("anon", {"role": "anon"}), ("service_role", {})):
        with database.session(claims, role) as session:
            for columns in ("value", "vault_id", "*"):
                error = session.attempt(f"select {columns} from app.secrets")
                assert isinstance(error, SqlError)
                assert error.sqlstate == "42501"


def test_secret__none(database: Database, user: User) -> None:
    for secret in ("{}", "null"):
        configuration = CONFIG | {"auth": {"type": "none"}, "secret": json.loads(secret)}
        assert claimed(database, user, create(database, user, configuration=configuration))["secret"] == {}
    assert database.all("select from app.secrets") == []


def test_secret__deleted_with_its_connection(database: Database, user: User) -> None:
    connection_id = create(database, user)
    with database.session(user.claims) as session:
        with session.connection.transaction(force_rollback=True):
            session.call("delete_connection", connection_id=connection_id)
        assert database.secret(connection_id) == SECRET
        session.call("delete_connection", connection_id=connection_id)
    assert SECRET["token"] not in everything_stored(database)


def test_secret__deleted_by_plain_sql(database: Database, user: User) -> None:
    """By plain SQL too, as an operator may delete it."""
    for statement in ("delete from app.connections", "update app.connections set deleted_at = now(), config = '{}'"):
        create(database, user)
        with database.session({}, "service_role") as operator:
            operator.execute(statement)
        assert database.all("select from app.secrets") == []


def test_store_secret__another_agency(database: Database, user: User) -> None:
    stranger = database.member()
    query = "select app.store_secret(%s, %s)"
    with database.session(stranger.claims) as session:
        for agency in (user.agency_id, None):
            error = session.attempt(query, (agency, json.dumps(SECRET)))
            assert isinstance(error, SqlError)
            assert error.sqlstate == "PT403"
    assert database.all("select from app.secrets") == []


def test_secret__fingerprint_depends_on_the_key(database: Database, user: User) -> None:
    with database.session(user.claims) as session:
        for key in ("a", "b"):
            session.set_headers(**{"idempotency-key": key})
            session.call("create_connection", **GOOD, configuration={**CONFIG, "secret": SECRET})
    first, second = (
        row["request"]["configuration"] for row in database.all("select request from app.idempotency_keys")
    )
    assert first != second
    assert SECRET["token"] not in first + second


# In Supabase Vault


@pytest.mark.fresh_database
def test_secret__in_the_vault(vault: Database, user: User) -> None:
    connection_id = create(vault, user)
    assert SECRET["token"] not in everything_stored(vault)
    [kept] = vault.all("select name, decrypted_secret from vault.decrypted_secrets")
    assert json.loads(kept["decrypted_secret"]) == SECRET
    assert kept["name"].startswith(f"{user.agency_id}/")
    assert claimed(vault, user, connection_id)["secret"] == SECRET
    delete(vault, user, connection_id)
    assert vault.all("select from vault.secrets") + vault.all("select from app.secrets") == []


@pytest.mark.fresh_database
def test_secret__replaced_in_the_vault(vault: Database, user: User) -> None:
    connection_id = create(vault, user)
    for secret, seen in (
        ('{"token": "new"}', {"token": "new"}),
        ('"new"', {}),
        ("no json", {}),
        ('{"token": "newer"}', {"token": "newer"}),
    ):
        vault.admin.execute("update vault.secrets set secret = reverse(%s)", (secret,))
        assert claimed(vault, user, connection_id)["secret"] == seen
    vault.admin.execute("delete from vault.secrets")
    assert claimed(vault, user, connection_id)["secret"] == {}


@pytest.mark.fresh_database
def test_secret__of_a_webhook_in_the_vault(vault: Database, user: User) -> None:
    with vault.session(user.claims) as session:
        webhook = session.call("create_webhook", target_url="https://127.0.0.1/never")
        job = session.call("create_sync_job", resources=[{"resource": "flights", "method": "list"}])
        account = vault.connection(user.agency_id)
        run = session.call(
            "create_sync_job_run",
            sync_job_id=job["id"],
            integrated_account_id=account,
            webhook_id=webhook["id"],
        )
        assert webhook["secret"] not in everything_stored(vault)
        with vault.worker() as worker:
            claim = worker.claim(family="sync_job_run")
            assert claim["destination"]["secret"] == {"secret": webhook["secret"]}
            session.call("stop_sync_job_run", run_id=run["id"])
            [event] = worker.call("worker_claim_events")
        assert event["secret"] == webhook["secret"]
        session.call("delete_webhook", webhook_id=webhook["id"])
    assert vault.all("select from vault.secrets") == []


# In an external store


def test_reserve_secret__used_once(database: Database, user: User) -> None:
    reserved = reserve(database, user)
    assert reserved["name"] == f"{user.agency_id}/{reserved['secret_id']}"
    connection_id = create(database, user, secret_id=reserved["secret_id"])
    assert claimed(database, user, connection_id) == {
        "kind": "http",
        "config": CONFIG,
        "secret_ref": reserved["name"],
    }
    age(database, 2)
    assert to_delete(database) == []


def rejected_ids(database: Database, user: User) -> dict[str, str]:
    """Secrets that this user's connections cannot use."""
    used, late = reserve(database, user)["secret_id"], reserve(database, user)["secret_id"]
    create(database, user, secret_id=used)
    database.admin.execute("update app.secrets set delete_at = now() where id = %s", (late,))
    assert [secret["id"] for secret in to_delete(database)] == [late]
    own = database.store_secret(user.agency_id, SECRET)
    database.admin.execute("update app.secrets set used_at = null where id = %s", (own,))
    return {
        "another agency's": reserve(database, database.member())["secret_id"],
        "another connection's": used,
        "being deleted": late,
        "the database's": own,
        "unknown": "00000000-0000-4000-8000-000000000000",
    }


def test_use_secret__not_usable(database: Database, user: User) -> None:
    given = rejected_ids(database, user)
    before = database.fingerprint()
    with database.session(user.claims) as session:
        for whose, secret_id in given.items():
            for name, arguments in (("create_connection", GOOD), ("test_connection", {"type": "http"})):
                error = session.error(name, **arguments, configuration=CONFIG, secret_id=secret_id)
                assert (error.sqlstate, error.code) == ("PT400", "unknown_secret"), whose
    assert database.fingerprint() == before


def test_use_secret__given_in_two_ways(database: Database, user: User) -> None:
    secret_id = reserve(database, user)["secret_id"]
    before = database.fingerprint()
    with database.session(user.claims) as session:
        for type_, configuration in (("http", {**CONFIG, "secret": SECRET}), ("records", {})):
            arguments = {"name": "x", "type": type_, "configuration": configuration, "secret_id": secret_id}
            assert session.error("create_connection", **arguments).code == "invalid_configuration"
        assert session.error("reserve_secret", fingerprint="x").code == "invalid_fingerprint"
    with database.worker() as server:
        assert server.error("reserve_secret").code == "no_agency"
    assert database.fingerprint() == before


def test_use_secret__two_at_once(database: Database, user: User) -> None:
    secret_id = reserve(database, user)["secret_id"]

    def attempt(_: int) -> str:
        try:
            create(database, user, secret_id=secret_id)
        except psycopg.Error as error:
            return SqlError.of(error).code
        return "created"

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(attempt, range(8))) == ["created", *["unknown_secret"] * 7]


def keyed(session: Session, secret_id: str, key: str = "k") -> dict[str, Any]:
    session.set_headers(**{"idempotency-key": key})
    return dict(session.call("create_connection", **GOOD, configuration=CONFIG, secret_id=secret_id))


def test_reserve_secret__repeated_request(database: Database, user: User) -> None:
    first, again, other, without = (
        reserve(database, user, **({"fingerprint": fingerprint * 64} if fingerprint else {}))["secret_id"]
        for fingerprint in ("a", "a", "b", "")
    )
    with database.session(user.claims) as session:
        response = keyed(session, first)
        assert keyed(session, again) == keyed(session, first) == response
        for one in (other, without):
            session.set_headers(**{"idempotency-key": "k"})
            error = session.error("create_connection", **GOOD, configuration=CONFIG, secret_id=one)
            assert (error.sqlstate, error.code) == ("PT422", "idempotency_key_reused")
    age(database, 2)
    assert {secret["id"] for secret in to_delete(database)} == {again, other, without}


def test_claim_deleted_secrets__unused_reservation(database: Database, user: User) -> None:
    reserved = reserve(database, user)
    age(database, 0.9)
    assert to_delete(database) == []
    age(database, 0.2)
    assert to_delete(database) == [{"id": reserved["secret_id"], "name": reserved["name"]}]


def test_claim_deleted_secrets__until_acknowledged(database: Database, user: User) -> None:
    reserved = reserve(database, user)
    connection_id = create(database, user, secret_id=reserved["secret_id"])
    with database.worker() as worker:
        worker.call("worker_ack_deleted_secret", secret_id=reserved["secret_id"])  # it was not claimed
    delete(database, user, connection_id)
    assert to_delete(database) == [{"id": reserved["secret_id"], "name": reserved["name"]}]
    assert to_delete(database) == []  # for five minutes
    age(database, 0.1)
    assert len(to_delete(database)) == 1
    with database.worker() as worker:
        for _ in range(2):
            worker.call("worker_ack_deleted_secret", secret_id=reserved["secret_id"])
    assert database.all("select from app.secrets") == []
    row = database.one("select secret_id from app.connections where id = %s", (connection_id,))
    assert row["secret_id"] is None


def test_claim_deleted_secrets__two_workers(database: Database, user: User) -> None:
    reserved = {reserve(database, user)["secret_id"] for _ in range(4)}
    age(database, 2)
    with database.worker() as one, database.worker() as another:
        with one.connection.transaction():
            first = one.call("worker_claim_deleted_secrets", max_secrets=2)
            second = another.call("worker_claim_deleted_secrets", max_secrets=100)
        assert one.error("worker_claim_deleted_secrets", max_secrets=0).code == "invalid_limit"
    assert (len(first), len(second)) == (2, 2)
    assert {secret["id"] for secret in first + second} == reserved


# Tests of connections


def start_test(session: Session, **arguments: Any) -> str:
    """The id of the connection under test."""
    check_id = session.call("test_connection", type="http", **arguments)["check_id"]
    [row] = session.execute("select connection_id from app.executions where id = %s", (check_id,))
    return str(row["connection_id"])


def minutes_later(database: Database) -> None:
    """Six minutes, for connections under test."""
    with database.admin.transaction():
        database.admin.execute("set local session_replication_role = replica")
        database.admin.execute("update app.connections set deleted_at = deleted_at - interval '6 minutes'")
    with database.worker() as worker:
        worker.call("worker_reap")


@pytest.mark.parametrize("external", [False, True])
def test_test_connection__secret(database: Database, user: User, external: bool) -> None:
    stored = create(database, user, **({"secret_id": reserve(database, user)["secret_id"]} if external else {}))
    of = "select secret_id from app.connections where id = %s"
    secret_id = database.one(of, (stored,))["secret_id"]
    own: dict[str, Any] = {"configuration": {"secret": {"token": "its own"}}}
    if external:
        own = {"configuration": {}, "secret_id": reserve(database, user)["secret_id"]}
    with database.session(user.claims) as session:
        borrowing = start_test(session, connection_id=stored, configuration={"timeout_seconds": 3})
        bringing = start_test(session, connection_id=stored, **own)
        without = start_test(session, connection_id=stored, configuration={"secret": {}})
        elsewhere = start_test(session, connection_id=stored, configuration={"base_url": "https://elsewhere.example"})
    assert database.one(of, (borrowing,))["secret_id"] == secret_id
    assert database.one(of, (bringing,))["secret_id"] not in {secret_id, None}
    for one in (without, elsewhere):
        assert database.one(of, (one,))["secret_id"] is None
    database.check_invariants()
    minutes_later(database)
    assert database.one(of, (stored,))["secret_id"] == secret_id
    for one in (borrowing, bringing):
        assert database.one(of, (one,))["secret_id"] is None
    assert [secret["id"] for secret in to_delete(database)] == ([own["secret_id"]] if external else [])
    kept = database.all("select id from app.secrets where delete_at is null")
    assert [row["id"] for row in kept] == [secret_id]


def test_test_connection__stored_connection_deleted(database: Database, user: User) -> None:
    stored = create(database, user)
    with database.session(user.claims) as session:
        tested = start_test(session, connection_id=stored, configuration={})
        session.call("delete_connection", connection_id=stored)
    assert database.secret(tested) == {}
    assert database.all("select from app.secrets") == []


def test_test_connection__no_deadlock(database: Database) -> None:
    for _ in range(5):
        user = database.member()
        stored = create(database, user)

        def test(_: int, user: User = user, stored: str = stored) -> str:
            with database.session(user.claims) as session:
                try:
                    tested = start_test(session, connection_id=stored, configuration={})
                    change = "update app.connections set deleted_at = now() - interval '6 minutes' where id = %s"
                    session.execute(change, (tested,))
                    return "tested"
                except psycopg.Error as error:
                    return SqlError.of(error).code

        def reap(_: int) -> str:
            with database.worker() as worker:
                worker.call("worker_reap")
            return "reaped"

        def end(_: int, user: User = user, stored: str = stored) -> str:
            with database.session(user.claims) as session:
                response = session.attempt("select public.delete_connection(%s)", (stored,))
                return response.code if isinstance(response, SqlError) else "deleted"

        with ThreadPoolExecutor(8) as threads:
            tasks = [threads.submit(task, 0) for task in (test, test, test, reap, end, test, reap, end)]
            reported = [task.result(30) for task in tasks]
        assert set(reported) <= {"tested", "reaped", "deleted", "connection_not_found"}
        assert database.all("select from app.secrets") == []
