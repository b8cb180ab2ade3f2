"""public.worker_commit_batch stores records, checkpoint and progress in one transaction, under the lease, once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import TRANSITIONS_TO

if TYPE_CHECKING:
    from tests.support.database import Database, Session, SqlError

pytestmark = pytest.mark.sql


def running(database: Database, **columns: Any) -> str:
    """A running historical sync of a connection, with lease token 1."""
    agency = database.agency()
    return database.put("running", agency, connection_id=database.connection(agency), **columns)


def batch(job_id: str | None, *keys: str, **arguments: Any) -> dict[str, Any]:
    return {
        "execution_id": job_id,
        "lease_token": 1,
        "seq": 1,
        "resource": "flights",
        "records": [{"key": key, "data": {"n": n}} for n, key in enumerate(keys)],
        "checkpoint": {"at": 1},
        "progress": {"windows_done": 1, "windows_total": 2},
    } | arguments


def commit(worker: Session, job_id: str | None, *keys: str, **arguments: Any) -> Any:
    return worker.call("worker_commit_batch", **batch(job_id, *keys, **arguments))["result"]


def error_of(database: Database, job_id: str, *keys: str, **arguments: Any) -> SqlError:
    """The error of a batch. Nothing must have changed."""
    before = database.fingerprint()
    with database.worker() as worker:
        error = worker.error("worker_commit_batch", **batch(job_id, *keys, **arguments))
    assert database.fingerprint() == before
    return error


def stored(database: Database) -> dict[str, Any]:
    return {row["key"]: row["data"] for row in database.all("select key, data from app.records")}


def test_commit_batch__stores_checkpoint_and_progress(database: Database) -> None:
    job_id = running(database, progress="{}")
    database.update(job_id, attempts=3)
    with database.worker() as worker:
        assert commit(worker, job_id, "a", "b") == "continue"
    row = database.execution(job_id)
    assert (row["seq"], row["records"], row["attempts"], row["checkpoint"]) == (1, 2, 0, {"at": 1})
    assert row["progress"] == {"windows_done": 1, "windows_total": 2}
    [first, _] = database.all("select * from app.records order by key")
    assert (first["agency_id"], first["connection_id"], first["execution_id"], first["resource"]) == (
        row["agency_id"], row["connection_id"], row["id"], "flights",
    )  # fmt: skip


def test_commit_batch__empty(database: Database) -> None:
    job_id = running(database)
    database.expire_lease(job_id)
    with database.worker() as worker:
        assert commit(worker, job_id) == "continue"
        assert worker.call("worker_reap")["released"] == 0
    assert database.execution(job_id)["checkpoint"] == {"at": 1}


def test_commit_batch__sent_twice(database: Database) -> None:
    job_id = running(database)
    with database.worker() as worker:
        assert commit(worker, job_id, "a") == "continue"
        before = database.fingerprint()
        assert commit(worker, job_id, "a") == "continue"
        assert commit(worker, job_id, "a", "other", checkpoint={"at": 9}) == "continue"
    assert database.fingerprint() == before


def test_commit_batch__unexpected_seq(database: Database) -> None:
    job_id = running(database)
    database.update(job_id, seq=2)
    for seq in (-1, 0, 1, 4, 2**62, None):
        error = error_of(database, job_id, "a", seq=seq)
        assert (error.sqlstate, error.code, error.details) == ("PT409", "unexpected_seq", {"expected_seq": 3})


def test_commit_batch__seq_0_is_no_repetition(database: Database) -> None:
    error = error_of(database, running(database), "a", seq=0)
    assert (error.sqlstate, error.details) == ("PT409", {"expected_seq": 1})


def test_commit_batch__last_of_a_repeated_key(database: Database) -> None:
    with database.worker() as worker:
        commit(worker, running(database), "a", "b", "a", "c", "a")
    assert stored(database) == {"a": {"n": 4}, "b": {"n": 1}, "c": {"n": 3}}


def test_commit_batch__replaces_an_earlier_key(database: Database) -> None:
    job_id = running(database)
    with database.worker() as worker:
        commit(worker, job_id, "a", "b")
        commit(worker, job_id, "b", seq=2)
    assert stored(database) == {"a": {"n": 0}, "b": {"n": 0}}
    assert database.execution(job_id)["records"] == 3


def test_commit_batch__key_is_scoped(database: Database) -> None:
    with database.worker() as worker:
        for _ in range(2):
            job_id = running(database)
            commit(worker, job_id, "a")
            commit(worker, job_id, "a", seq=2, resource="weather")
    assert len(database.all("select from app.records")) == 4


def test_commit_batch__at_most_5000_records(database: Database) -> None:
    job_id = running(database)
    keys = [str(n) for n in range(5001)]
    error = error_of(database, job_id, *keys)
    assert (error.sqlstate, error.code) == ("PT413", "batch_too_large")
    with database.worker() as worker:
        assert commit(worker, job_id, *keys[:5000]) == "continue"
    assert len(stored(database)) == 5000


def test_commit_batch__at_most_16_mib(database: Database) -> None:
    error = error_of(database, running(database), records=[{"key": "a", "data": "x" * (16 * 1024 * 1024)}])
    assert (error.sqlstate, error.code) == ("PT413", "batch_too_large")


INVALID: list[dict[str, Any]] = [
    *(
        {"records": records}
        for records in (
            None, "null", "1", '"text"', {}, {"key": "a", "data": {}},
            '[{"data": {}}]', '[{"key": "a"}]', '[{"key": null, "data": {}}]', '[{"key": 1, "data": {}}]',
            '[{"key": ["a"], "data": {}}]', "[null]", "[1]", '["a"]', "[[]]", '[["key", "data"]]',
            '[{"key": "good", "data": {}}, {"key": "no data"}]',
        )
    ),
    {"resource": None}, {"resource": ""}, {"resource": "x" * 201}, {"progress": None}, {"progress": "[]"},
    {"progress": "null"}, {"checkpoint": None}, {"checkpoint": "1"}, {"checkpoint": "null"},
]  # fmt: skip


def test_commit_batch__invalid_batch(database: Database) -> None:
    job_id = running(database)
    for arguments in INVALID:
        error = error_of(database, job_id, "a", **arguments)
        assert (error.sqlstate, error.code) == ("PT400", "invalid_batch"), arguments


def test_commit_batch__key_too_long(database: Database) -> None:
    incompressible = "".join(chr(0x4E00 + n * 7919 % 20000) for n in range(1000))
    error = error_of(database, running(database), incompressible)
    assert (error.sqlstate, error.code) == ("PT400", "invalid_batch")


def test_commit_batch__longest_key_and_resource(database: Database) -> None:
    incompressible = "".join(chr(0x4E00 + n * 7919 % 20000) for n in range(666))
    resource = "".join(chr(0x4E00 + n * 104729 % 20000) for n in range(66))
    with database.worker() as worker:
        assert commit(worker, running(database), incompressible, "", resource=resource) == "continue"


def test_commit_batch__nul_character(database: Database) -> None:
    error = error_of(database, running(database), records='[{"key": "a", "data": "\\u0000"}]')
    assert error.sqlstate == "22P05"


def test_commit_batch__stored_verbatim(database: Database) -> None:
    keys = ["", " ", "☃", "a'; drop table app.records; --", '["a",1]', "\u2028", "null", "A", "a"]
    data: list[Any] = [None, 0, False, "", "☃ 🛫", [], {}, {"deep": [{"er": None}]}, "x" * 100_000]
    with database.worker() as worker:
        commit(worker, running(database), records=[{"key": k, "data": d} for k, d in zip(keys, data, strict=True)])
    assert stored(database) == dict(zip(keys, data, strict=True))


def test_commit_batch__agency_of_the_execution(database: Database) -> None:
    job_id = running(database)
    other = database.agency()
    forged = [{"key": "a", "data": {}, "agency_id": other, "connection_id": other, "execution_id": other}]
    with database.worker() as worker:
        commit(worker, job_id, records=forged)
    [row] = database.all("select agency_id, execution_id from app.records")
    assert row == {
        key: database.execution(job_id)[k] for key, k in (("agency_id", "agency_id"), ("execution_id", "id"))
    }


def test_commit_batch__wrong_lease_token(database: Database) -> None:
    agency = database.agency()
    connection_id = database.connection(agency)
    jobs = {s: database.put(s, agency, connection_id=connection_id) for s in TRANSITIONS_TO}
    before = database.fingerprint()
    for status, job_id in jobs.items():
        for lease_token in (-1, 0, 1, 2, 3, 2**62, None):
            if lease_token != 1 or status not in {"running", "cancelling"}:
                with database.worker() as worker:
                    assert commit(worker, job_id, "a", lease_token=lease_token) == "lost", (status, lease_token)
    assert database.fingerprint() == before


def test_commit_batch__expired_lease(database: Database) -> None:
    job_id = running(database)
    database.expire_lease(job_id)
    with database.worker() as worker:
        assert commit(worker, job_id, "a") == "continue"
        database.expire_lease(job_id)
        assert worker.call("worker_reap") == {"released": 1, "failed": 0, "cancelled": 0}
        assert commit(worker, job_id, "b", seq=2) == "lost"
    assert set(stored(database)) == {"a"}


def test_commit_batch__after_another_claim(database: Database) -> None:
    database.start(database.member())
    with database.worker() as worker:
        first = worker.claim()
        worker.commit_batch(first, 1, "a")
        database.expire_lease(first["id"])
        second = worker.claim()
        assert worker.commit_batch(first, 2, "zombie") == "lost"
        assert worker.commit_batch(first, 1, "zombie") == "lost"
        assert worker.commit_batch(second, 2, "b") == "continue"
    assert set(stored(database)) == {"a", "b"}


def test_commit_batch__while_cancelling(database: Database) -> None:
    agency = database.agency()
    job_id = database.put("cancelling", agency, connection_id=database.connection(agency))
    with database.worker() as worker:
        response = worker.call("worker_commit_batch", **batch(job_id, "a"))
    assert (response["result"], set(response)) == ("cancel", {"result", "deadline"})
    assert set(stored(database)) == {"a"}


def test_commit_batch__unknown_execution(database: Database) -> None:
    with database.worker() as worker:
        for job_id in (None, "00000000-0000-0000-0000-000000000000"):
            assert commit(worker, job_id, "a") == "lost"
    assert stored(database) == {}


# Counts, by resource


def counts(database: Database, job_id: str) -> dict[str, tuple[Any, ...]]:
    """Read, inserted, updated and failed records by resource, and whether its last batch is stored."""
    query = "select *, finished_at is not null as is_done from app.execution_resources where execution_id = %s"
    rows = database.all(query, (job_id,))
    return {
        row["resource"]: (
            row["records"],
            row["inserted"],
            row["updated"],
            row["failed"],
            row["finished_at"] is not None,
        )
        for row in rows
    }


def test_commit_batch__counts_by_resource(database: Database) -> None:
    job_id = running(database)
    with database.worker() as worker:
        commit(worker, job_id, "a", "b", errors=["No key.", "No key either."])
        assert counts(database, job_id) == {"flights": (4, 2, 0, 2, False)}
        commit(worker, job_id, "b", "c", seq=2, done=True)
        commit(worker, job_id, seq=3, resource="weather", done=True)
    assert counts(database, job_id) == {"flights": (6, 3, 1, 2, True), "weather": (0, 0, 0, 0, True)}
    assert database.execution(job_id)["records"] == 6
    [flights] = database.all("select * from app.execution_resources where resource = 'flights'")
    assert flights["errors"] == ["No key.", "No key either."]
    assert database.execution(job_id)["started_at"] < flights["started_at"] < flights["finished_at"]


def test_commit_batch__sent_twice_counted_once(database: Database) -> None:
    job_id = running(database)
    with database.worker() as worker:
        commit(worker, job_id, "a", "a", "b", errors=["No key."], done=True)
        before = counts(database, job_id)
        commit(worker, job_id, "a", "a", "b", errors=["No key."], done=True)
        commit(worker, job_id, "a", errors=["Another."], resource="other", done=True)
    assert counts(database, job_id) == before == {"flights": (4, 2, 0, 1, True)}


def test_commit_batch__resource_not_done(database: Database) -> None:
    """For example after a retry of the last window."""
    job_id = running(database)
    with database.worker() as worker:
        commit(worker, job_id, "a", done=True)
        commit(worker, job_id, "b", seq=2)
    assert counts(database, job_id)["flights"][-1] is False


def test_commit_batch__first_hundred_errors(database: Database) -> None:
    job_id = running(database)
    sentences = [f"{n} {'x' * 1000}" for n in range(60)]
    with database.worker() as worker:
        for seq in (1, 2, 3):
            assert commit(worker, job_id, seq=seq, errors=sentences) == "continue"
    row = database.one("select failed, errors from app.execution_resources")
    assert row["failed"] == 180
    assert row["errors"] == [sentence[:500] for sentence in [*sentences, *sentences[:40]]]


def test_commit_batch__errors_count_towards_the_size(database: Database) -> None:
    job_id = running(database)
    assert error_of(database, job_id, "a", errors=["x"] * 5000).code == "batch_too_large"
    with database.worker() as worker:
        assert commit(worker, job_id, "a", errors=["x"] * 4999) == "continue"
    assert counts(database, job_id) == {"flights": (5000, 1, 0, 4999, False)}


@pytest.mark.parametrize("arguments", [{"errors": None}, {"errors": "{}"}, {"errors": '"x"'}, {"done": None}], ids=str)
def test_commit_batch__invalid_metadata(database: Database, arguments: dict[str, Any]) -> None:
    assert error_of(database, running(database), "a", **arguments).code == "invalid_batch"


def test_commit_batch__wrong_lease_token_counts_nothing(database: Database) -> None:
    job_id = running(database)
    with database.worker() as worker:
        commit(worker, job_id, "a")
        for lease_token in (0, 2):
            assert commit(worker, job_id, "b", seq=2, lease_token=lease_token, done=True) == "lost"
        worker.call("worker_complete", execution_id=job_id, lease_token=1)
        assert commit(worker, job_id, "b", seq=2, done=True) == "lost"
    assert counts(database, job_id) == {"flights": (1, 1, 0, 0, False)}


# How records are written

BEFORE = {"a": {"x": 1, "y": 1}, "b": {"x": 2}}
SENT = [("a", {"x": 9}), ("b", {"x": 2}), ("c", {"x": 3}), ("a", {"x": 8})]  # the last `a` counts
MODES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, int]]] = {
    # spec.write, the rows afterwards, and the numbers of inserted and updated rows
    "replicate": ({"mode": "replicate"}, {"a": {"x": 8}, "b": {"x": 2}, "c": {"x": 3}}, (1, 2)),
    "the default": ({}, {"a": {"x": 8}, "b": {"x": 2}, "c": {"x": 3}}, (1, 2)),
    "create": ({"mode": "create"}, BEFORE | {"c": {"x": 3}}, (1, 0)),
    "update": ({"mode": "update"}, {"a": {"x": 8, "y": 1}, "b": {"x": 2}}, (0, 2)),
    "updateOrCreate": ({"mode": "updateOrCreate"}, {"a": {"x": 8, "y": 1}, "b": {"x": 2}, "c": {"x": 3}}, (1, 2)),
    "update, only changed": ({"mode": "update", "only_changed": True}, {"a": {"x": 8, "y": 1}, "b": {"x": 2}}, (0, 1)),
    "updateOrCreate, only changed": (
        {"mode": "updateOrCreate", "only_changed": True},
        {"a": {"x": 8, "y": 1}, "b": {"x": 2}, "c": {"x": 3}},
        (1, 1),
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_store_records__modes(database: Database, name: str) -> None:
    write, after, (inserted, updated) = MODES[name]
    agency = database.agency()
    source, destination = database.connection(agency), database.connection(agency, "records", {})
    columns = {"connection_id": source, "destination_id": destination}
    earlier = database.put("running", agency, "model_sync", **columns)
    job_id = database.put("running", agency, "model_sync", spec=json.dumps({"write": write}), **columns)
    with database.worker() as worker:
        commit(worker, earlier, records=[{"key": key, "data": data} for key, data in BEFORE.items()])
        untouched = database.all("select * from app.records order by key")
        commit(worker, job_id, records=[{"key": key, "data": data} for key, data in SENT])
    assert stored(database) == after
    assert counts(database, job_id) == {"flights": (4, inserted, updated, 0, False)}
    rows = {row["key"]: row for row in database.all("select * from app.records")}
    # The last execution that wrote each row, and where. Other rows are unchanged, including their time.
    assert len([row for row in rows.values() if str(row["execution_id"]) == job_id]) == inserted + updated
    assert {str(row["connection_id"]) for row in rows.values()} == {destination}
    for row in untouched:
        assert rows[row["key"]] == row or str(rows[row["key"]]["execution_id"]) == job_id


def test_store_records__append(database: Database) -> None:
    agency = database.agency()
    connection_id = database.connection(agency)
    spec = json.dumps({"write": {"mode": "append"}})
    jobs = [database.put("running", agency, "bulk_sync", connection_id=connection_id, spec=spec) for _ in range(2)]
    with database.worker() as worker:
        for job_id in jobs:
            for seq in (1, 1, 2):
                assert commit(worker, job_id, "a", "a", "b", seq=seq) == "continue"
    assert len(stored(database)) == 12
    assert {job_id: counts(database, job_id) for job_id in jobs} == {
        job_id: {"flights": (6, 6, 0, 0, False)} for job_id in jobs
    }


def test_store_records__append_keys_are_unique(database: Database) -> None:
    """Whichever keys a source uses for its records."""
    agency = database.agency()
    connection_id = database.connection(agency)
    spec = json.dumps({"write": {"mode": "append"}})
    job_id = database.put("running", agency, "bulk_sync", connection_id=connection_id, spec=spec)
    other = database.put("running", agency, "bulk_sync", connection_id=connection_id)
    with database.worker() as worker:
        commit(worker, job_id, "a")
        commit(worker, other, f"{job_id}:2:1")  # the key that its next record would get
        error = worker.error("worker_commit_batch", **batch(job_id, "b", seq=2))
    assert error.sqlstate == "23505"  # rejected, not overwritten
    assert len(stored(database)) == 2


def test_store_records__worker_cannot_choose_the_mode(database: Database) -> None:
    """Other fields of a record are ignored."""
    agency = database.agency()
    source, destination = database.connection(agency), database.connection(agency, "records", {})
    job_id = database.put("running", agency, "bulk_sync", connection_id=source, destination_id=destination)
    forged = [{"key": "a", "data": {}, "connection_id": source, "destination_id": source, "mode": "append"}]
    with database.worker() as worker:
        commit(worker, job_id, records=forged)
    row = database.one("select connection_id::text, key from app.records")
    assert row == {"connection_id": destination, "key": "a"}
