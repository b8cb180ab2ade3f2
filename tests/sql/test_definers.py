"""Every SECURITY DEFINER function bypasses row-level security. Here each is called for another agency's row."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.database import SqlError
from tests.support.definers import DEFINERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.database import Database, Session, User

pytestmark = pytest.mark.sql

BEARER = {"base_url": "https://a.example", "resources": {}, "auth": {"type": "bearer"}}


@dataclass(frozen=True)
class Agencies:
    """A stranger, and what belongs to the owner's agency."""

    database: Database
    owner: User
    stranger: User
    session: Session  # the stranger's
    connection: str
    secret: str
    reserved: str
    owners_key: str
    strangers_key: str

    def attempt(self, call: str, *parameters: object) -> SqlError | object:
        response = self.session.attempt(f"select {call} as result", parameters)
        return response if isinstance(response, SqlError) else response[0]["result"]


@pytest.fixture
def agencies(database: Database) -> Iterator[Agencies]:
    owner, stranger = database.member(), database.member()
    connection = database.connection(owner.agency_id, "http", BEARER, {"token": "t"})
    secret = str(database.one("select secret_id from app.connections where id = %s", (connection,))["secret_id"])
    with database.session(owner.claims) as session:
        reserved = session.call("reserve_secret", fingerprint="a" * 64)["secret_id"]
    keys = database.api_key(owner), database.api_key(stranger)
    with database.session(stranger.claims) as session:
        yield Agencies(database, owner, stranger, session, connection, secret, reserved, *keys)


def copy_secret_for_check(a: Agencies) -> None:
    mine = a.database.connection(a.stranger.agency_id, "http", BEARER)
    a.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (mine,))
    a.attempt("app.copy_secret_for_check(%s, %s)", a.connection, mine)
    assert a.database.secret(mine) == {}
    theirs = a.database.connection(a.owner.agency_id, "http", BEARER)
    a.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (theirs,))
    a.attempt("app.copy_secret_for_check(%s, %s)", a.connection, theirs)
    assert a.database.secret(theirs) == {}


def delete_secret(a: Agencies) -> None:
    """A trigger: it cannot be called, and a connection cannot refer to another agency's secret."""
    called = a.attempt("app.delete_secret()")
    assert isinstance(called, SqlError)
    forged = a.session.attempt(
        "insert into app.connections (agency_id, kind, name, secret_id, created_by) values (%s, 'http', 'F', %s, 'x')",
        (a.stranger.agency_id, a.secret),
    )
    assert isinstance(forged, SqlError)
    assert forged.sqlstate == "23503"
    assert a.database.secret(a.connection) == {"token": "t"}


def exists_in_other_agency(a: Agencies) -> None:
    """It reveals that a row exists, which is its purpose, and nothing about deleted rows or rows of another kind."""
    assert a.attempt("app.exists_in_other_agency('connection', %s)", a.connection) is True
    assert a.attempt("app.exists_in_other_agency('historical_sync', %s)", a.connection) is False
    deleted = a.database.connection(a.owner.agency_id)
    a.database.admin.execute("update app.connections set deleted_at = now() where id = %s", (deleted,))
    assert a.attempt("app.exists_in_other_agency('connection', %s)", deleted) is False


def get_secret(a: Agencies) -> None:
    error = a.attempt("app.get_secret(%s)", a.secret)
    assert isinstance(error, SqlError)
    assert error.sqlstate == "42501"


def identify(a: Agencies) -> None:
    """It reads the request only. A forged header of a user's request counts for nothing."""
    a.session.set_headers(**{"x-agency-key": a.owners_key})
    [found] = a.session.execute("select * from app.identify()")
    assert (str(found["user_id"]), str(found["agency_id"])) == (a.stranger.id, str(a.stranger.agency_id))


def record_event(a: Agencies) -> None:
    job = a.database.put("running", a.owner.agency_id)
    called = a.attempt("app.record_event()")
    assert isinstance(called, SqlError)
    changed = a.session.attempt(
        "update app.executions set status = 'cancelled', event = 'cancel' where id = %s", (job,)
    )
    assert changed == []
    assert [event["event"] for event in a.database.events(job)] == ["start", "claim"]


def reserve_secret(a: Agencies) -> None:
    """It takes no agency."""
    a.attempt("app.reserve_secret(%s)", "b" * 64)
    [row] = a.database.all("select agency_id, name from app.secrets where fingerprint = %s", ("b" * 64,))
    assert str(row["agency_id"]) == str(a.stranger.agency_id)
    assert row["name"].startswith(f"{a.stranger.agency_id}/")


def secret_fingerprint(a: Agencies) -> None:
    assert a.attempt("app.secret_fingerprint(%s)", a.reserved) is None


def store_secret(a: Agencies) -> None:
    error = a.attempt("""app.store_secret(%s, '{"token": "forged"}')""", a.owner.agency_id)
    assert isinstance(error, SqlError)
    assert error.sqlstate == "PT403"


def touch_api_key(a: Agencies) -> None:
    """It takes no key: only the request's own is touched."""
    with a.database.agency_server(a.strangers_key) as server:
        server.execute("select app.touch_api_key()")
    used = {str(row["agency_id"]): row["last_used_at"] for row in a.database.all("select * from app.api_keys")}
    assert used[str(a.stranger.agency_id)] is not None
    assert used[str(a.owner.agency_id)] is None


def use_secret(a: Agencies) -> None:
    error = a.attempt("app.use_secret(%s)", a.reserved)
    assert isinstance(error, SqlError)
    assert (error.sqlstate, error.code) == ("PT400", "unknown_secret")
    unused = a.database.one("select used_at from app.secrets where id = %s", (a.reserved,))
    assert unused == {"used_at": None}
    assert isinstance(a.attempt("app.use_secret(%s)", uuid.uuid4()), SqlError)


CASES = {
    f"app.{case.__name__}": case
    for case in (
        copy_secret_for_check, delete_secret, exists_in_other_agency, get_secret, identify, record_event,
        reserve_secret, secret_fingerprint, store_secret, touch_api_key, use_secret,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", DEFINERS)
def test_definer__called_for_another_agencys_row(agencies: Agencies, name: str) -> None:
    assert name in CASES, f"{name}: add a function of this name to tests/sql/test_definers.py and to CASES there"
    CASES[name](agencies)
    owners = "select id from app.secrets where agency_id = %s"
    assert {str(row["id"]) for row in agencies.database.all(owners, (agencies.owner.agency_id,))} == {
        agencies.secret,
        agencies.reserved,
    }
