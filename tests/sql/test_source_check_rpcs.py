"""Source checks for their callers: the queued execution, the result of get_source_check, and the wait for it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from functions._connections import source_check
from functions._connections.source_check import await_source_check
from functions._shared.errors import ApiError
from functions.connection._configuration import check_configuration
from tests.support.connections import CONFIG, GOOD, SECRET, UNKNOWN
from tests.support.database import SqlError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.database import Database, User

CREATED = {"status": "created", "fields": None, "error": None}
RUNNING = CREATED | {"status": "running"}
CANCELLED = CREATED | {"status": "cancelled"}
BEGUN = b'{"check_id": "x"}'
FIELDS = [{"name": "id", "type": "number"}]
ERROR = {"code": "source_refused", "message": "The source returned 400."}


# Waiting


class Responses:
    """An RPC context whose get_source_check returns these, the last repeatedly, and cancel_source_check `at_last`."""

    def __init__(self, *results: Mapping[str, Any], at_last: Mapping[str, Any] | None = None) -> None:
        self.responses = list(results)
        self.at_last = at_last
        self.calls: list[tuple[str, Any]] = []
        self.notified: list[str] = []
        self.services = SimpleNamespace(dispatcher=SimpleNamespace(notify=self.notified.append))

    def call(self, rpc: str, arguments: Mapping[str, Any]) -> Any:
        self.calls.append((rpc, arguments))
        if rpc == "cancel_source_check":
            return self.at_last
        return self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses in seconds. Only they advance the clock."""
    slept: list[float] = []
    monkeypatch.setattr(source_check, "time", SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept)))
    return slept


@pytest.mark.parametrize("response", [b'{"check_id": null}', b'{"data": {"id": "x"}}'])
def test_source_check__nothing_to_check(response: bytes) -> None:
    call = Responses(CREATED)
    assert await_source_check(response, call) is None  # type: ignore[arg-type]
    assert (call.calls, call.notified) == ([], [])


def test_source_check__polled_until_completed() -> None:
    call = Responses(CREATED, RUNNING, RUNNING, {"status": "completed", "fields": FIELDS, "error": None})
    assert await_source_check(BEGUN, call) == "x"  # type: ignore[arg-type]
    assert call.calls == [("get_source_check", {"check_id": "x"})] * 4
    assert call.notified == ["checks"]


def test_source_check__final_error() -> None:
    """A check whose worker failed is tried again."""
    again = RUNNING | {"error": {"code": "internal_error", "message": "The worker failed; it tries again."}}
    done = {"status": "completed", "fields": FIELDS, "error": None}
    assert await_source_check(BEGUN, Responses(again, again, done)) == "x"  # type: ignore[arg-type]
    with pytest.raises(ApiError) as raised:
        await_source_check(BEGUN, Responses(again, {"status": "failed", "fields": None, "error": ERROR}))  # type: ignore[arg-type]
    error = raised.value
    assert (error.status, error.code, error.details) == (400, "source_not_readable", {"reason": "source_refused"})
    assert error.message == ERROR["message"]


def test_source_check__no_worker(pauses: list[float]) -> None:
    call = Responses(CREATED, at_last=CANCELLED)
    with pytest.raises(ApiError) as raised:
        await_source_check(BEGUN, call)  # type: ignore[arg-type]
    assert call.calls[-2:] == [("get_source_check", {"check_id": "x"}), ("cancel_source_check", {"check_id": "x"})]
    assert (raised.value.status, raised.value.code) == (503, "source_unavailable")
    assert int(raised.value.headers["retry-after"]) > 0
    assert source_check.WAIT_SECONDS <= sum(pauses) <= source_check.WAIT_SECONDS + source_check.MAX_PAUSE_SECONDS
    assert pauses == sorted(pauses)
    assert max(pauses) == source_check.MAX_PAUSE_SECONDS


def test_source_check__ends_at_the_last_moment() -> None:
    done = {"status": "completed", "fields": FIELDS, "error": None}
    assert await_source_check(BEGUN, Responses(RUNNING, at_last=done)) == "x"  # type: ignore[arg-type]
    with pytest.raises(ApiError) as raised:
        await_source_check(BEGUN, Responses(RUNNING, at_last={"status": "failed", "fields": None, "error": ERROR}))  # type: ignore[arg-type]
    assert raised.value.code == "source_not_readable"


def test_source_check__cancelled(pauses: list[float]) -> None:
    call = Responses(RUNNING, CANCELLED)
    with pytest.raises(ApiError) as raised:
        await_source_check(BEGUN, call)  # type: ignore[arg-type]
    assert raised.value.status == 503
    assert len(pauses) == len(call.calls) == 2


# Configurations


@pytest.mark.parametrize("kind", ["records", "ftp"])
def test_validate__http_only(kind: str) -> None:
    check_configuration(kind, {"anything": 1})


def test_validate__valid_configuration() -> None:
    configuration = json.loads(json.dumps(GOOD["configuration"]))
    check_configuration("http", configuration)
    assert configuration == GOOD["configuration"]


@pytest.mark.parametrize(
    "secret", [None, {}, {"token": ""}, {"token": "t0p\0secret"}, {"t0p": "secret"}, "t0p", ["t0p"]]
)
def test_validate__secret_is_not_quoted(secret: object) -> None:
    with pytest.raises(ApiError) as raised:
        check_configuration("http", CONFIG | {"secret": secret})
    assert (raised.value.status, raised.value.code) == (400, "invalid_configuration")
    assert "t0p" not in raised.value.message
    assert raised.value.__cause__ is None


# In the database


def a_model(connection_id: str, resource: str) -> dict[str, Any]:
    return {"name": "x", "connection_id": connection_id, "configuration": {"resource": resource}}


@pytest.mark.sql
@pytest.mark.parametrize("resource", ["flights", "weather"])
def test_start_source_check__queued(database: Database, resource: str) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id, secret=SECRET)
    with database.session(user.claims) as session:
        check_id = session.source_check(connection_id, resource)
        assert session.call("get_source_check", check_id=check_id) == CREATED
        execution = database.execution(check_id)
        assert (execution["family"], execution["spec"]) == ("source_check", {"resource": resource})
        assert (execution["concurrency_key"], str(execution["connection_id"])) == (None, connection_id)
        with database.worker() as worker:
            claimed = worker.claim(family="source_check")
            assert (claimed["id"], claimed["connection"]["secret"]) == (check_id, SECRET)
            assert session.call("get_source_check", check_id=check_id) == RUNNING
            done = {"checkpoint": {"complete": True}, "progress": {"fields": FIELDS}, "done": True}
            batch = {"seq": 1, "resource": "flights", "records": [], **done}
            assert worker.call(
                "worker_commit_batch", execution_id=check_id, lease_token=claimed["lease_token"], **batch
            ) == {"result": "continue"}
            worker.call("worker_complete", execution_id=check_id, lease_token=claimed["lease_token"])
        assert session.call("get_source_check", check_id=check_id) == {
            "status": "completed",
            "fields": FIELDS,
            "error": None,
        }
    assert database.all("select from app.records") == []


@pytest.mark.sql
def test_get_source_check__failed(database: Database) -> None:
    user = database.member()
    with database.session(user.claims) as session, database.worker() as worker:
        check_id = session.source_check(database.connection(user.agency_id))
        claimed = worker.claim(family="source_check")
        worker.call("worker_fail", execution_id=check_id, lease_token=claimed["lease_token"], error=ERROR, retry=False)
        assert session.call("get_source_check", check_id=check_id) == {
            "status": "failed",
            "fields": None,
            "error": ERROR,
        }


@pytest.mark.sql
def test_start_source_check__several_at_once(database: Database) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id)
    with database.session(user.claims) as session:
        assert len({session.source_check(connection_id) for _ in range(3)}) == 3
        database.start(user, connection_id)


@pytest.mark.sql
def test_get_source_check__another_agency(database: Database) -> None:
    """Neither another agency's check nor an execution of another family."""
    user, stranger = database.member(), database.member()
    with database.session(user.claims) as session:
        check_id = session.source_check(database.connection(user.agency_id))
        job_id = database.start(user)
        for name, arguments in (
            ("get_historical_sync", {"job_id": check_id}),
            ("cancel_sync_job", {"job_id": check_id}),
            ("retry_historical_sync", {"job_id": check_id}),
            ("get_source_check", {"check_id": job_id}),
            ("get_source_check", {"check_id": UNKNOWN}),
            ("cancel_source_check", {"check_id": job_id}),
            ("cancel_source_check", {"check_id": UNKNOWN}),
        ):
            assert session.error(name, **arguments).sqlstate == "PT404", name
        jobs = session.call("list_historical_syncs")["jobs"]
        assert [job["job_id"] for job in jobs] == [job_id]
        assert [str(job["job_id"]) for job in session.execute("select job_id from historical_sync_jobs")] == [job_id]
    with database.session(stranger.claims) as session:
        for name in ("get_source_check", "cancel_source_check"):
            error = session.error(name, check_id=check_id)
            assert (error.sqlstate, error.code) == ("PT404", "source_check_not_found")
    assert {database.execution(one)["status"] for one in (check_id, job_id)} == {"queued"}


@pytest.mark.sql
@pytest.mark.parametrize("status", ["queued", "running"])
def test_cancel_source_check__active(database: Database, status: str) -> None:
    user = database.member()
    with database.session(user.claims) as session, database.worker() as worker:
        check_id = session.source_check(database.connection(user.agency_id))
        lease_token = worker.claim(family="source_check")["lease_token"] if status == "running" else 1
        for _ in range(2):
            assert session.call("cancel_source_check", check_id=check_id) == CANCELLED
        late = worker.call("worker_complete", execution_id=check_id, lease_token=lease_token)
        assert late["result"] == "lost"
        assert (
            worker.call("worker_claim", worker="w", families=["source_check"], max_executions=1, lease_seconds=30) == []
        )
    assert database.events(check_id)[-1]["reason"] == "no caller waits"


@pytest.mark.sql
def test_cancel_source_check__already_finished(database: Database) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id)
    ended = {
        "completed": database.put(
            "completed", user.agency_id, "source_check", connection_id=connection_id, progress='{"fields": []}'
        ),
        "failed": database.put("failed", user.agency_id, "source_check", connection_id=connection_id),
    }
    before = database.fingerprint()
    with database.session(user.claims) as session:
        for status, check_id in ended.items():
            assert session.call("cancel_source_check", check_id=check_id)["status"] == status
    assert database.fingerprint() == before


@pytest.mark.sql
@pytest.mark.parametrize("resource", ["nope", "Flights", "", "x" * 100_000, "'; --"], ids=lambda name: name[:9])
def test_start_source_check__unknown_resource(database: Database, resource: str) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id)
    before = database.fingerprint()
    with database.session(user.claims) as session:
        error = session.error("create_model", **a_model(connection_id, resource))
    assert (error.sqlstate, error.code) == ("PT400", "unknown_resource")
    assert error.details == {"resource": resource[:200], "available": ["flights", "weather"]}
    assert database.fingerprint() == before


@pytest.mark.sql
@pytest.mark.parametrize("configuration", [{}, [], {"resource": None}, {"resource": ["flights"]}], ids=str)
def test_start_source_check__no_resource(database: Database, configuration: Any) -> None:
    user = database.member()
    connection_id = database.connection(user.agency_id)
    before = database.fingerprint()
    with database.session(user.claims) as session:
        arguments = {"name": "x", "connection_id": connection_id, "configuration": configuration}
        assert session.error("create_model", **arguments).code == "unknown_resource"
    assert database.fingerprint() == before


def whose_connections(database: Database, user: User) -> dict[str, tuple[str, str]]:
    """SQLSTATE and code by id of connections that cannot be checked."""
    theirs = database.connection(database.member().agency_id)
    gone = database.connection(user.agency_id)
    database.admin.execute("update app.connections set deleted_at = now() where id = %s", (gone,))
    records = database.connection(user.agency_id, "records", {})
    missing = ("PT404", "connection_not_found")
    return {theirs: missing, gone: missing, UNKNOWN: missing, records: ("PT400", "not_a_source")}


@pytest.mark.sql
def test_start_source_check__not_a_source(database: Database) -> None:
    user = database.member()
    connections = whose_connections(database, user)
    before = database.fingerprint()
    with database.session(user.claims) as session:
        for connection_id, expected in connections.items():
            error = session.error("create_model", **a_model(connection_id, "flights"))
            assert (error.sqlstate, error.code) == expected
    assert database.fingerprint() == before


@pytest.mark.sql
def test_copy_secret_for_check__own_connections_only(database: Database) -> None:
    """Called directly, it copies no secret to a live connection, to another agency or to another address."""
    user, stranger = database.member(), database.member()
    mine = database.connection(user.agency_id, config=CONFIG, secret=SECRET)
    kept = database.connection(user.agency_id, config=CONFIG)
    theirs = database.connection(stranger.agency_id, config=CONFIG, secret=SECRET)

    def only_tested(**changes: Any) -> str:
        made = database.connection(user.agency_id, config=CONFIG | changes)
        database.admin.execute("update app.connections set deleted_at = now() where id = %s", (made,))
        return made

    same, other_address = only_tested(timeout_seconds=1), only_tested(base_url="https://elsewhere.example")
    other_auth = only_tested(auth={"type": "basic"})
    nowhere = only_tested(base_url=None)
    with database.session(user.claims) as session:
        for source, target in (
            (mine, kept),
            (theirs, same),
            (mine, other_address),
            (mine, other_auth),
            (mine, nowhere),
        ):
            session.execute("select app.copy_secret_for_check(%s, %s)", (source, target))
        assert len(database.all("select from app.connections where secret_id is not null")) == 2
        session.execute("select app.copy_secret_for_check(%s, %s)", (mine, same))
        assert database.secret(same) == SECRET
        assert isinstance(session.attempt("select value from app.secrets"), SqlError)
