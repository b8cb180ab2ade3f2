"""public.worker_run_bulk_action_step, one step at a time: batches, outcomes of items, exact counts after every step,
and races for the same rows.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support import bulk_actions
from tests.support.bulk_actions import (
    ACTION_FAMILIES,
    BATCH,
    MAX_COLLECTED,
    NOTHING,
    Worker,
    create,
    many,
    put,
    run,
    these,
)
from tests.support.database import TWO_STEPS, SqlError, rpc
from tests.support.races import RaceSession, interleavings, perform
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.database import Database, User


pytestmark = pytest.mark.sql

MORE = {"result": "continue", "more": True}
LAST = {"result": "continue", "more": False}
LOST = {"result": "lost"}
REASON = "wrong configuration"


def rows(database: Database, ids: list[str]) -> dict[str, dict[str, Any]]:
    """All columns of the executions, by id."""
    return {str(row["id"]): row for row in database.all("select * from app.executions where id = any(%s)", (ids,))}


def in_status(database: Database, ids: list[str]) -> Counter[str]:
    return Counter(row["status"] for row in rows(database, ids).values())


# Batches


def test_bulk_action_step__batches_in_id_order(database: Database) -> None:
    user = database.member()
    ids = many(database, user, 2 * BATCH + 203)
    running = put(database, user, "historical_sync", "running")  # the last one, in the third batch
    job_id = create(database, user, action_reason=REASON)
    with Worker(database, job_id) as worker, database.connect() as listener:
        listener.execute("listen execution_cancelled; listen execution_queued")
        before = rows(database, ids)
        assert worker.step() == MORE
        assert rows(database, ids) == before
        matched = len(ids) + 2  # and the bulk action itself
        assert bulk_actions.counts(database, job_id) == {**NOTHING, "matched": matched, "not_started": matched}
        for nth in (1, 2):
            assert worker.step() == MORE
            acted, left = ids[: nth * BATCH], ids[nth * BATCH :]
            assert in_status(database, acted) == {"cancelled": nth * BATCH}
            assert rows(database, left) == {one: before[one] for one in left}
            expected = {"matched": matched, "done": nth * BATCH, "not_started": matched - nth * BATCH}
            assert bulk_actions.counts(database, job_id) == {**NOTHING, **expected}
            assert [*listener.notifies(timeout=0.05)] == []  # no worker runs one of these
        assert worker.step() == LAST
        done = matched - 1
        assert bulk_actions.counts(database, job_id) == {**NOTHING, "matched": matched, "done": done, "skipped": 1}
        reported = [(one.channel, one.payload) for one in listener.notifies(timeout=0.05)]
        assert reported == [("execution_cancelled", "*")]
        assert database.execution(running)["status"] == "cancelled"
        assert database.execution(job_id)["seq"] == 3
        assert worker.step() == LAST  # nothing is left, so nothing changes
        assert bulk_actions.counts(database, job_id)["done"] == done
        assert worker.call("worker_complete") == "completed"


def test_bulk_action_step__collects_all_items_first(database: Database) -> None:
    """In several steps, without executions created in between."""
    user = database.member()
    ids = many(database, user, MAX_COLLECTED + 100)
    job_id = create(database, user, criteria={"family": "historical_sync"}, max_limit=1_000_000)
    with Worker(database, job_id) as worker:
        assert worker.step() == MORE
        assert bulk_actions.counts(database, job_id)["matched"] == MAX_COLLECTED
        later = many(database, user, 10)
        assert worker.step() == MORE
        assert bulk_actions.counts(database, job_id)["matched"] == len(ids)
        assert in_status(database, ids) == {"queued": len(ids)}
        worker.rest()
    assert bulk_actions.counts(database, job_id) == {**NOTHING, "matched": len(ids), "done": len(ids)}
    assert in_status(database, ids) == {"cancelled": len(ids)}
    assert in_status(database, later) == {"queued": 10}


@pytest.mark.parametrize("limit", [1, 3, 10, 11, BATCH])
def test_bulk_action_step__max_limit(database: Database, limit: int) -> None:
    user = database.member()
    ids = many(database, user, 10)
    job_id = create(database, user, criteria={"family": "historical_sync"}, max_limit=limit)
    done = min(limit, 10)
    assert run(database, job_id) == {**NOTHING, "matched": done, "done": done}
    assert in_status(database, ids[:done]) == {"cancelled": done}
    assert in_status(database, ids[done:]) == Counter({"queued": 10 - done})


@pytest.mark.parametrize("limit", [MAX_COLLECTED - 1, MAX_COLLECTED, MAX_COLLECTED + 1])
def test_bulk_action_step__max_limit_at_the_edge_of_a_step(database: Database, limit: int) -> None:
    user = database.member()
    many(database, user, MAX_COLLECTED + 2)
    job_id = create(database, user, criteria={"family": "historical_sync"}, max_limit=limit)
    with Worker(database, job_id) as worker:
        steps = 1
        while not database.one("select is_collected from app.bulk_actions union all select false order by 1 desc")[
            "is_collected"
        ]:
            assert worker.step() == MORE
            steps += 1
        assert steps <= 3
        assert bulk_actions.counts(database, job_id) == {**NOTHING, "matched": limit, "not_started": limit}
        with database.session(user.claims) as session:
            session.call("cancel_bulk_action", job_id=job_id)


def test_bulk_action_step__no_match(database: Database) -> None:
    user = database.member()
    job_id = create(database, user, criteria={"family": "model_sync"})
    with Worker(database, job_id) as worker:
        assert worker.rest() == 2
    assert bulk_actions.counts(database, job_id) == NOTHING
    assert database.execution(job_id)["status"] == "completed"


def test_bulk_actions__counts_must_add_up(database: Database) -> None:
    user = database.member()
    job_id = bulk_actions.collected(database, user)
    with database.worker() as worker:
        for change in ("done = done + 1", "matched = matched + 1", "not_started = -1, done = 2"):
            response = worker.attempt(f"update app.bulk_actions set {change} where execution_id = %s", (job_id,))
            assert isinstance(response, SqlError)
            assert response.sqlstate == "23514"


# Outcomes of items


def wanted(action: str, family: str, status: str) -> str:
    """Cancel acts on active executions, retry on failed and cancelled ones, start on finished ones."""
    if action == "cancel":
        return "done" if status in {"queued", "requeued", "running"} else "skipped"
    again = {"retry": {"failed", "cancelled"}, "start": {"completed", "failed", "cancelled"}}[action]
    return "done" if status in again and family != "bulk_action" else "skipped"


@pytest.mark.parametrize("action", ["cancel", "retry", "start"])
def test_bulk_action_step__every_action_family_and_status(database: Database, action: str) -> None:
    user = database.member()
    items = {
        (family, status): put(
            database,
            user,
            family,
            status,
            connection_id=database.connection(user.agency_id),
            checkpoint=json.dumps({"at": status}),
            progress=json.dumps({"windows_done": 3}),
            concurrency_key=f"{family} {status}",
            spec=bulk_actions.spec() if family == "bulk_action" else json.dumps({"what": status}),
        )
        for family in ACTION_FAMILIES
        for status in bulk_actions.statuses(family)
    }
    source_check = put(database, user, "source_check", "queued")
    before = rows(database, [*items.values(), source_check])
    job_id = create(database, user, action, action_reason=REASON)
    run(database, job_id)

    after = rows(database, [*items.values(), source_check])
    assert after[source_check] == before[source_check]
    made = {str(row["concurrency_key"]): row for row in database.all(
        "select * from app.executions where created_by = %s", (f"bulk_action:{job_id}",))}  # fmt: skip
    for (family, status), item in items.items():
        expected = wanted(action, family, status)
        assert bulk_actions.outcome(database, job_id, item) == expected, (family, status)
        if expected == "skipped":
            assert after[item] == before[item], (family, status)
        elif action == "cancel":
            check_cancelled(database, family, before[item], after[item], job_id)
        else:
            assert after[item] == before[item], (family, status)
            check_started(database, action, before[item], made.pop(f"{family} {status}"), job_id)
    assert made == {}


def check_cancelled(
    database: Database, family: str, before: Mapping[str, Any], after: Mapping[str, Any], job_id: str
) -> None:
    two_steps = family in TWO_STEPS and before["status"] == "running"
    assert after["status"] == ("cancelling" if two_steps else "cancelled")
    assert (after["cancelled_by"], after["cancel_reason"]) == (f"bulk_action:{job_id}", REASON)
    grace = after["cancel_deadline"] - after["cancel_requested_at"]
    assert grace.total_seconds() == (30 if family in TWO_STEPS else 0)
    assert after["lease_token"] == before["lease_token"] + (0 if two_steps else 1)
    assert (after["leased_by"], after["finished_at"] is None) == (("w", True) if two_steps else (None, False))
    event = database.events(str(after["id"]))[-1]
    assert (event["actor"], event["reason"]) == (f"bulk_action:{job_id}", REASON)
    assert event["event"] == ("request_cancel" if family in TWO_STEPS else "cancel")
    same = {"spec", "checkpoint", "progress", "records", "seq", "created_by", "connection_id"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


def check_started(
    database: Database, action: str, ended: Mapping[str, Any], made: Mapping[str, Any], job_id: str
) -> None:
    of_its_own = {"status": "queued", "seq": 0, "records": 0, "lease_token": 0, "started_at": None, "finished_at": None}
    assert {name: made[name] for name in of_its_own} == of_its_own
    same = ("agency_id", "family", "definition_id", "connection_id", "destination_id", "concurrency_key", "spec")
    assert {name: made[name] for name in same} == {name: ended[name] for name in same}
    if action == "retry":
        assert (made["retry_of"], made["checkpoint"]) == (ended["id"], ended["checkpoint"])
        assert made["progress"] == {"windows_done": 3, "windows_before": 3}
    else:
        assert (made["retry_of"], made["checkpoint"], made["progress"]) == (None, None, {})
    [event] = database.events(str(made["id"]))
    assert (event["event"], event["actor"], event["reason"]) == ("start", f"bulk_action:{job_id}", REASON)


def test_bulk_action_step__started_are_claimable(database: Database) -> None:
    user = database.member()
    for _ in range(3):
        put(database, user, "historical_sync", "failed")
    job_id = create(database, user, "start")
    with Worker(database, job_id) as worker, database.connect() as listener:
        listener.execute("listen execution_queued; listen execution_cancelled")
        worker.rest()
        reported = [(one.channel, one.payload) for one in listener.notifies(timeout=0.05)]
        assert reported == [("execution_queued", "bulk_action")]
        claimed = worker.session.call("worker_claim", worker="w", families=["historical_sync"], max_executions=10)
    assert len(claimed) == 3


def test_bulk_action_step__deleted_is_not_restarted(database: Database) -> None:
    user = database.member()
    kept, gone, receiver = (database.connection(user.agency_id) for _ in range(3))
    sync_id = database.bulk_sync(user)
    of_sync = database.execute(user, sync_id)
    database.transition(of_sync, ("request_cancel", "cancelled"))
    items = {
        "storage": put(database, user, "historical_sync", "failed", connection_id=kept),
        "its source": put(database, user, "historical_sync", "failed", connection_id=gone),
        "where it writes": put(database, user, "sync_job_run", "failed", connection_id=kept, destination_id=receiver),
        "its definition": of_sync,
    }
    with database.session(user.claims) as session:
        for connection_id in (gone, receiver):
            session.call("delete_connection", connection_id=connection_id)
        session.call("delete_bulk_sync", sync_id=sync_id)
    for action in ("retry", "start"):
        job_id = create(database, user, action, criteria=these([*items.values()]))
        assert run(database, job_id) == {**NOTHING, "matched": 4, "done": 1, "skipped": 3}
        assert bulk_actions.outcome(database, job_id, items["storage"]) == "done"


def test_bulk_action_step__another_is_active(database: Database) -> None:
    """Not beside an active job, and only one of two finished jobs with the same concurrency key."""
    user = database.member()
    ended = [put(database, user, "bulk_sync", "failed", concurrency_key=key) for key in ("a", "b", "b", "c")]
    put(database, user, "bulk_sync", "running", concurrency_key="a")
    put(database, user, "bulk_sync", "cancelling", concurrency_key="c")
    job_id = create(database, user, "start", criteria=these(ended))
    assert run(database, job_id) == {**NOTHING, "matched": 4, "done": 1, "skipped": 3}
    made = database.all("select concurrency_key from app.executions where created_by = %s", (f"bulk_action:{job_id}",))
    assert [row["concurrency_key"] for row in made] == ["b"]


def test_bulk_action_step__ended_between_steps(database: Database) -> None:
    user = database.member()
    ids = [put(database, user, "historical_sync", "running") for _ in range(3)]
    job_id = bulk_actions.collected(database, user, criteria=these(ids))
    database.transition(ids[0], ("complete", "completed"))
    database.transition(ids[1], ("complete", "completed"))
    with database.owner() as owner:  # retention deletes one meanwhile
        owner.execute("delete from app.executions where id = %s", (ids[1],))
    with database.worker() as worker:
        assert worker.call("worker_run_bulk_action_step", execution_id=job_id, lease_token=1) == LAST
    assert bulk_actions.counts(database, job_id) == {**NOTHING, "matched": 3, "done": 1, "skipped": 2}


def test_bulk_action_step__cancels_a_delivering_run(database: Database) -> None:
    """As any cancel: the delivery in progress is counted, and the webhook receives the end event."""
    user = database.member()
    receiver = database.connection(user.agency_id, "webhook", {"is_active": True, "event_types": []})
    deliver = json.dumps({"write": {"mode": "deliver"}})
    columns = {"connection_id": database.connection(user.agency_id), "destination_id": receiver, "spec": deliver}
    run_id = put(database, user, "sync_job_run", "running", **columns)
    with database.worker() as worker:
        worker.call(
            "worker_begin_delivery", execution_id=run_id, lease_token=1, seq=1, event="sync_job_run:record", records=2
        )
    run(database, create(database, user, criteria=these([run_id])))
    sent = database.all(
        "select event, status from app.deliveries where execution_id = %s order by number desc", (run_id,)
    )
    assert [(one["event"], one["status"]) for one in sent] == [
        ("sync_job_run:record", "unknown"),
        ("sync_job_run:stopped", "queued"),
    ]
    assert database.events(run_id)[-1]["in_flight"] == 1


# Criteria


def matched(database: Database, user: User, criteria: dict[str, Any]) -> set[str]:
    """The items that a bulk action with these criteria finds, which the preview finds too."""
    with database.session(user.claims) as session:
        preview = session.call("preview_bulk_action", criteria=criteria)
    job_id = bulk_actions.collected(database, user, criteria=criteria)
    found = {
        str(row["item_id"])
        for row in database.all("select item_id from app.bulk_action_items where execution_id = %s", (job_id,))
    }
    with database.session(user.claims) as session:
        session.call("cancel_bulk_action", job_id=job_id)
        session.call("delete_bulk_action", job_id=job_id)
    others = found - {job_id}
    assert (preview["total_count"], preview["is_exact"]) == (len(others), True)
    assert {one["id"] for one in preview["sample"]} == {*sorted(others)[:10]}
    return others


def test_criteria__family_and_public_status(database: Database) -> None:
    user = database.member()
    # By each family's public status.
    public_statuses: dict[str, dict[str, str]] = {
        str(row["family"]): {column: str(name) for column, name in row.items() if name is not None}
        for row in database.all("select * from app.families")
    }
    of: dict[tuple[str, str], set[str]] = {}
    for family, status in ((f, s) for f in ACTION_FAMILIES for s in [*bulk_actions.statuses(f), "scheduled"]):
        columns: dict[str, Any] = {"spec": bulk_actions.spec()} if family == "bulk_action" else {}
        if status == "scheduled":
            item = put(database, user, family, "queued", run_at="2999-01-01", **columns)
        else:
            item = put(database, user, family, status, **columns)
        of.setdefault((family, public_statuses[family]["running" if status == "requeued" else status]), set()).add(item)
    for family in ACTION_FAMILIES:
        all_of_it = set().union(*(items for (its, _), items in of.items() if its == family))
        assert matched(database, user, {"family": family}) == all_of_it
        for status in {status for its, status in of if its == family}:
            criteria = {"family": family, "status": status}
            if criteria == {"family": "bulk_action", "status": "running"}:
                continue  # below, because it matches itself
            assert matched(database, user, criteria) == of[family, status], criteria
    assert len(matched(database, user, {"family": "bulk_action", "status": "running"})) == 2


def test_criteria__connection_time_and_id(database: Database) -> None:
    user = database.member()
    here, there = (database.connection(user.agency_id) for _ in range(2))
    ids = [database.insert(user.agency_id, "bulk_sync", connection_id=which) for which in (here, there) * 3]
    times = [rows(database, ids)[one]["created_at"].isoformat() for one in ids]
    assert matched(database, user, {"connection_id": here}) == {*ids[::2]}
    assert matched(database, user, {"created_after": times[2]}) == {*ids[3:]}  # without that one itself
    assert matched(database, user, {"created_before": times[2]}) == {*ids[:2]}
    between = {"created_after": times[0], "created_before": times[5]}
    assert matched(database, user, between) == {*ids[1:5]}
    assert matched(database, user, these(ids[1:3] * 2)) == {*ids[1:3]}
    everything = {"family": "bulk_sync", "status": "created", "connection_id": here, **between, **these(ids[:4])}
    assert matched(database, user, everything) == {ids[2]}
    assert matched(database, user, {"created_after": "2999-01-01T00:00:00Z"}) == set()
    assert matched(database, user, these([str(uuid.uuid4())])) == set()


def test_criteria__another_agency(database: Database) -> None:
    """By id, by connection, by time and by all of them, for every caller and every spec."""
    user, victim = database.member(), database.member()
    connection_id = database.connection(victim.agency_id)
    theirs = [put(database, victim, "historical_sync", "running", connection_id=connection_id)]
    theirs += [
        put(database, victim, family, status) for family in ACTION_FAMILIES[:4] for status in ("queued", "failed")
    ]
    mine = put(database, user, "historical_sync", "running")
    before, history = rows(database, theirs), [database.events(one) for one in theirs]
    aims = [
        these([*theirs, mine]),
        {"connection_id": connection_id},
        {"family": "historical_sync"},
        {"created_after": "2001-01-01T00:00:00Z"},
        {"family": "historical_sync", "connection_id": connection_id, **these(theirs)},
    ]
    for action, criteria in itertools.product(("cancel", "retry", "start"), aims):
        run(database, create(database, user, action, criteria=criteria))
        with database.session(user.claims) as session:
            sample = session.call("preview_bulk_action", criteria=criteria)["sample"]
        assert {one["id"] for one in sample}.isdisjoint(theirs)
    # Even if the items were inserted by an attacker.
    job_id = bulk_actions.collected(database, user, criteria=these([mine]))
    with database.worker() as worker:
        worker.execute(
            "insert into app.bulk_action_items (agency_id, execution_id, item_id) select %s, %s, unnest(%s::uuid[])",
            (user.agency_id, job_id, theirs),
        )
        planted = "matched = matched + %s, not_started = not_started + %s"
        worker.execute(
            f"update app.bulk_actions set {planted} where execution_id = %s", (len(theirs), len(theirs), job_id)
        )
        assert worker.call("worker_run_bulk_action_step", execution_id=job_id, lease_token=1) == LAST
    assert bulk_actions.counts(database, job_id)["skipped"] >= len(theirs)
    assert (rows(database, theirs), [database.events(one) for one in theirs]) == (before, history)
    database.admin.execute("delete from app.bulk_action_items where item_id = any(%s)", (theirs,))
    database.admin.execute(
        "update app.bulk_actions set matched = matched - %s, skipped = skipped - %s where execution_id = %s",
        (len(theirs), len(theirs), job_id),
    )


NOT_CRITERIA = [
    "{}",
    "[]",
    '["family"]',
    "null",
    "5",
    '"family"',
    "true",
    '{"familiy": "bulk_sync"}',
    '{"family": null}',
]
NOT_CRITERIA += ['{"family": "bulk_sync", "no": 1}', '{"family": "source_check"}', '{"family": ["bulk_sync"]}']
NOT_CRITERIA += ['{"status": "running"}', '{"family": "bulk_sync", "status": "pending"}', '{"connection_id": "x"}']
NOT_CRITERIA += ['{"created_before": "soon"}', '{"ids": "x"}', '{"ids": ["x"]}', '{"ids": {}}']


@pytest.mark.parametrize("criteria", [*NOT_CRITERIA, None])
@pytest.mark.parametrize("name", ["create_bulk_action", "preview_bulk_action"])
def test_criteria__unmatched(database: Database, name: str, criteria: str | None) -> None:
    """Callers reach this function without the endpoint, and an unknown field must not match everything."""
    user = database.member()
    put(database, user, "bulk_sync", "queued")
    arguments = "action_type => 'cancel', " if name == "create_bulk_action" else ""
    with database.session(user.claims) as session:
        response = session.attempt(f"select public.{name}({arguments}criteria => %s) as result", (criteria,))
    assert isinstance(response, SqlError), response
    assert response.sqlstate[:2] == "22" or response.sqlstate == "PT400", response
    assert database.all("select from app.executions where family = 'bulk_action'") == []


# Races


@contextmanager
def runners(database: Database, **claims: Mapping[str, Any]) -> Iterator[dict[str, RaceSession]]:
    with ExitStack() as stack:
        made = {name: RaceSession(database, database.session(those)) for name, those in claims.items()}
        for one in made.values():
            stack.callback(one.close)
        yield made


SERVICE = {"role": "service_role"}


def every_way(names: tuple[str, str]) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    for order in interleavings(names):
        for how in itertools.product(("commit", "rollback"), repeat=2):
            yield order, dict(zip(names, how, strict=True))


def test_bulk_action_step__races_with_its_cancel(database: Database) -> None:
    user = database.member()
    with runners(database, cancel=user.claims, step=SERVICE) as those:
        for order, ends in every_way(("cancel", "step")):
            ids = many(database, user, 3)
            job_id = bulk_actions.collected(database, user, criteria=these(ids))
            calls = {"cancel": rpc("cancel_bulk_action", job_id=job_id), "step": bulk_actions.step(job_id)}
            results = perform(those, calls, order, ends)
            fenced = order[0] == "cancel" and ends["cancel"] == "commit"
            assert results == {"cancel": "cancelled", "step": "lost" if fenced else "continue"}, (order, ends)
            done = 3 if ends["step"] == "commit" and not fenced else 0
            left = bulk_actions.counts(database, job_id)
            assert left == {**NOTHING, "matched": 3, "done": done, "not_started": 3 - done}, (order, ends)
            assert in_status(database, ids) == {"cancelled" if done else "queued": 3}
            status = database.execution(job_id)["status"]
            assert status == ("cancelled" if ends["cancel"] == "commit" else "running")
            with database.worker() as zombie:
                if status == "cancelled":
                    before = (rows(database, [*ids, job_id]), bulk_actions.counts(database, job_id))
                    assert zombie.call("worker_run_bulk_action_step", execution_id=job_id, lease_token=1) == LOST
                    assert (rows(database, [*ids, job_id]), bulk_actions.counts(database, job_id)) == before
                else:
                    assert zombie.call("worker_release", execution_id=job_id, lease_token=1) == {"result": "queued"}


def test_bulk_action_step__races_with_an_items_cancel(database: Database) -> None:
    user = database.member()
    with runners(database, cancel=user.claims, step=SERVICE) as those:
        for order, ends in every_way(("cancel", "step")):
            ids = many(database, user, 3)
            job_id = bulk_actions.collected(database, user, criteria=these(ids))
            calls = {"cancel": rpc("cancel_sync_job", job_id=ids[1]), "step": bulk_actions.step(job_id)}
            results = perform(those, calls, order, ends)
            by_user = ends["cancel"] == "commit" and not (order[0] == "step" and ends["step"] == "commit")
            too_late = order[0] == "step" and ends["step"] == "commit"
            assert results == {"cancel": "not_cancellable" if too_late else "cancelled", "step": "continue"}
            if ends["step"] == "commit":
                expected = {**NOTHING, "matched": 3, "done": 3 - by_user, "skipped": int(by_user)}
            else:
                expected = {**NOTHING, "matched": 3, "not_started": 3}
            assert bulk_actions.counts(database, job_id) == expected, (order, ends)
            actors = [event["actor"] for event in database.events(ids[1])[1:]]
            by = f"user:{user.id}" if by_user else f"bulk_action:{job_id}"
            assert actors == ([by] if by_user or ends["step"] == "commit" else [])
            with database.worker() as worker:
                worker.call(
                    "worker_complete" if ends["step"] == "commit" else "worker_release",
                    execution_id=job_id,
                    lease_token=1,
                )


@pytest.mark.parametrize("action", ["cancel", "retry", "start"])
def test_bulk_action_step__two_share_items(database: Database, action: str) -> None:
    user = database.member()
    status = "queued" if action == "cancel" else "failed"
    with runners(database, one=SERVICE, other=SERVICE) as those:
        for order, ends in every_way(("one", "other")):
            ids = [put(database, user, "bulk_sync", status, concurrency_key=str(uuid.uuid4())) for _ in range(3)]
            jobs = {name: bulk_actions.collected(database, user, action, criteria=these(ids)) for name in those}
            results = perform(those, {name: bulk_actions.step(job_id) for name, job_id in jobs.items()}, order, ends)
            assert results == {"one": "continue", "other": "continue"}
            left = {name: bulk_actions.counts(database, job_id) for name, job_id in jobs.items()}
            first, second = order[0], "other" if order[0] == "one" else "one"
            winner = next((name for name in (first, second) if ends[name] == "commit"), None)
            for name in jobs:
                outcome = "not_started" if ends[name] == "rollback" else "done" if name == winner else "skipped"
                assert left[name] == {**NOTHING, "matched": 3, outcome: 3}, (order, ends)
            for job_id in jobs.values():
                database.update(job_id, status="queued", event="release")


def test_bulk_action_step__two_cancel_each_other(database: Database) -> None:
    user = database.member()
    with runners(database, one=SERVICE, other=SERVICE) as those:
        for order, ends in every_way(("one", "other")):
            shared = many(database, user, 1)
            made = {name: create(database, user, criteria=these(shared)) for name in those}
            for mine, its in zip(made.values(), reversed(made.values()), strict=True):
                aim_at(database, mine, [*shared, its, mine])
            with ExitStack() as stack:
                for job_id in made.values():
                    worker = stack.enter_context(Worker(database, job_id))
                    assert worker.step() == MORE
            results = perform(those, {name: bulk_actions.step(job_id) for name, job_id in made.items()}, order, ends)
            first, second = order[0], "other" if order[0] == "one" else "one"
            winner = next((name for name in (first, second) if ends[name] == "commit"), None)
            assert results[first] == "continue"
            assert results[second] == ("lost" if winner == first else "continue")
            for name, job_id in made.items():
                left = bulk_actions.counts(database, job_id)
                if name == winner:
                    assert left == {**NOTHING, "matched": 3, "done": 2, "skipped": 1}, (order, ends)
                    assert database.execution(job_id)["status"] == "running"
                else:
                    assert left == {**NOTHING, "matched": 3, "not_started": 3}, (order, ends)
                    assert database.execution(job_id)["status"] == ("cancelled" if winner else "running")
            for job_id in made.values():
                if database.execution(job_id)["status"] == "running":
                    database.update(job_id, status="queued", event="release")


def aim_at(database: Database, job_id: str, ids: list[str]) -> None:
    """Sets its criteria after its creation, so that they can name executions created later."""
    with database.admin.transaction():
        database.admin.execute("set local session_replication_role = replica")
        database.admin.execute(
            "update app.executions set spec = jsonb_set(spec, '{criteria,ids}', %s) where id = %s",
            (json.dumps(ids), job_id),
        )


def test_bulk_action_step__matches_itself(database: Database) -> None:
    user = database.member()
    others = {
        status: put(database, user, "bulk_action", status, spec=bulk_actions.spec())
        for status in bulk_actions.statuses("bulk_action")
    }
    job_id = create(database, user, criteria={"family": "bulk_action"})
    later = create(database, user, criteria={"family": "bulk_action"})  # before the first starts
    assert run(database, job_id) == {**NOTHING, "matched": 8, "done": 4, "skipped": 4}
    assert bulk_actions.outcome(database, job_id, job_id) == "skipped"
    assert bulk_actions.outcome(database, job_id, later) == "done"
    assert in_status(database, [others["queued"], others["requeued"], others["running"], later]) == {"cancelled": 4}
    assert database.execution(job_id)["status"] == "completed"


@pytest.mark.parametrize("action", ["cancel", "start", "retry"])
def test_bulk_action_step__repeated_while_running(database: Database, action: str) -> None:
    """The response of the first call was lost while the call still runs in the database."""
    user = database.member()
    with runners(database, step=SERVICE, again=SERVICE) as those:
        for order, ends in every_way(("step", "again")):
            # Without a concurrency key only the step itself prevents a second start.
            status = "queued" if action == "cancel" else "failed"
            ids = [put(database, user, "sync_job_run", status) for _ in range(3)]
            job_id = bulk_actions.collected(database, user, action, criteria=these(ids))
            results = perform(those, dict.fromkeys(those, bulk_actions.step(job_id)), order, ends)
            assert results == {"step": "continue", "again": "continue"}
            expected = {**NOTHING, "matched": 3, ("done" if "commit" in ends.values() else "not_started"): 3}
            assert bulk_actions.counts(database, job_id) == expected, (order, ends)
            made = database.all("select from app.executions where created_by = %s", (f"bulk_action:{job_id}",))
            assert len(made) == (3 if action != "cancel" and "commit" in ends.values() else 0)
            database.update(job_id, status="queued", event="release")


def test_bulk_action_step__finding_repeated_while_running(database: Database) -> None:
    user = database.member()
    with runners(database, step=SERVICE, again=SERVICE) as those:
        for order, ends in every_way(("step", "again")):
            ids = many(database, user, 3)
            job_id = create(database, user, criteria=these(ids))
            database.transition(job_id, ("claim", "running"))
            results = perform(those, dict.fromkeys(those, bulk_actions.step(job_id)), order, ends)
            assert results == {"step": "continue", "again": "continue"}
            assert bulk_actions.counts(database, job_id)["matched"] == (3 if "commit" in ends.values() else 0)
            database.update(job_id, status="queued", event="release")
            run(database, job_id)


@pytest.mark.parametrize("what", ["definition", "connection"])
@pytest.mark.parametrize("action", ["retry", "start"])
def test_bulk_action_step__connection_being_deleted(database: Database, what: str, action: str) -> None:
    """In either order, nothing active is left on a deleted connection."""
    user = database.member()
    with runners(database, delete=user.claims, step=SERVICE) as those:
        for order, ends in every_way(("delete", "step")):
            if what == "definition":
                sync_id = database.bulk_sync(user)
                item = database.execute(user, sync_id)
                database.transition(item, ("request_cancel", "cancelled"))
                delete = rpc("delete_bulk_sync", sync_id=sync_id)
            else:
                connection_id = database.connection(user.agency_id)
                item = put(database, user, "historical_sync", "failed", connection_id=connection_id)
                delete = rpc("delete_connection", connection_id=connection_id)
            job_id = bulk_actions.collected(database, user, action, criteria=these([item]))
            results = perform(those, {"delete": delete, "step": bulk_actions.step(job_id)}, order, ends)
            assert results["step"] == "continue", (order, ends)
            [left] = [one for one, n in bulk_actions.counts(database, job_id).items() if n and one != "matched"]
            deleted = ends["delete"] == "commit"
            begun = ends["step"] == "commit" and not (order[0] == "delete" and deleted)
            assert left == ("not_started" if ends["step"] == "rollback" else "done" if begun else "skipped")
            made = database.all("select status from app.executions where created_by = %s", (f"bulk_action:{job_id}",))
            assert [row["status"] for row in made] == (["cancelled" if deleted else "queued"] if begun else [])
            database.update(job_id, status="queued", event="release")


def test_bulk_action_step__no_deadlock_with_delete_connection(database: Database) -> None:
    """The syncs' executions have another id order than the syncs, which would deadlock in the syncs' order."""
    user = database.member()
    source_id = database.connection(user.agency_id)
    syncs = sorted(database.bulk_sync(user, source_connection_id=source_id) for _ in range(2))
    ids = [database.execute(user, sync_id) for sync_id in reversed(syncs)]
    job_id = bulk_actions.collected(database, user, criteria=these(ids))
    with runners(database, delete=user.claims, step=SERVICE) as those, database.owner() as holder:
        holder.execute("begin")
        holder.execute("select from app.executions where id = %s for update", (ids[1],))
        calls = {
            "delete": rpc("delete_connection", connection_id=source_id, force=True),
            "step": bulk_actions.step(job_id),
        }
        for name, call in calls.items():
            those[name].begin(call)
            those[name].end("commit")
            until(those[name].is_at_rest)
        holder.execute("commit")
        for name in calls:
            response = those[name].steps[0].result(30)
            assert not isinstance(response, SqlError), (name, response)
    assert bulk_actions.counts(database, job_id) == {**NOTHING, "matched": 2, "skipped": 2}


def test_bulk_action_step__many_over_the_same_rows(database: Database) -> None:
    """Keys have another order than ids, so two steps may deadlock. A step that fails is repeated, as by the worker, and
    in the end the counts are exact.
    """
    user = database.member()
    keys = [str(n) for n in range(60)]
    one_way = [put(database, user, "bulk_sync", "failed", concurrency_key=key) for key in keys]
    other_way = [put(database, user, "bulk_sync", "failed", concurrency_key=key) for key in reversed(keys)]
    jobs = [
        bulk_actions.collected(database, user, "start", criteria=these(ids), max_limit=1000)
        for ids in (one_way, other_way, [*one_way, *other_way], one_way)
    ]

    def work(job_id: str) -> list[str]:
        error = []
        with database.worker() as worker:
            while isinstance(response := worker.attempt(*bulk_actions.step(job_id)), SqlError):
                error.append(response.sqlstate)
            assert response == [{"result": LAST}]
            worker.call("worker_complete", execution_id=job_id, lease_token=1)
        return error

    with ThreadPoolExecutor(len(jobs)) as pool:
        error = [*itertools.chain(*pool.map(work, jobs))]
    assert {*error} <= {"40P01", "55P03"}  # which become a 503, for which the worker waits
    left = [bulk_actions.counts(database, job_id) for job_id in jobs]
    assert sum(one["done"] for one in left) == len(keys)
    assert all(one["done"] + one["skipped"] == one["matched"] for one in left)


# Dead workers, and workers that were thought dead


def test_bulk_action_step__worker_dies_between_steps(database: Database) -> None:
    user = database.member()
    ids = many(database, user, BATCH + 10)
    job_id = create(database, user, criteria={"family": "historical_sync"})
    with Worker(database, job_id) as dead:
        dead.step()
        dead.step()
        database.expire_lease(job_id)
        with database.worker() as other:
            assert other.call("worker_reap") == {"released": 1, "failed": 0, "cancelled": 0}
            claimed = other.claim(family="bulk_action")
            assert (claimed["id"], claimed["lease_token"]) == (job_id, dead.lease_token + 2)
            before = (rows(database, [*ids, job_id]), bulk_actions.counts(database, job_id))
            assert (
                dead.session.call("worker_run_bulk_action_step", execution_id=job_id, lease_token=dead.lease_token)
                == LOST
            )
            assert (rows(database, [*ids, job_id]), bulk_actions.counts(database, job_id)) == before
            assert (
                other.call("worker_run_bulk_action_step", execution_id=job_id, lease_token=claimed["lease_token"])
                == LAST
            )
            other.call("worker_complete", execution_id=job_id, lease_token=claimed["lease_token"])
    assert bulk_actions.counts(database, job_id) == {**NOTHING, "matched": len(ids), "done": len(ids)}
    assert {len(database.events(one)) for one in ids[::50]} == {2}


@pytest.mark.parametrize("applying", [False, True], ids=["collecting", "applying"])
def test_bulk_action_step__worker_dies_inside_a_step(database: Database, applying: bool) -> None:
    user = database.member()
    ids = many(database, user, 20)
    criteria = {"family": "historical_sync"}
    if applying:
        job_id = bulk_actions.collected(database, user, criteria=criteria)
    else:
        job_id = create(database, user, criteria=criteria)
        database.transition(job_id, ("claim", "running"))
    before = (rows(database, [*ids, job_id]), bulk_actions.counts(database, job_id))
    with database.worker() as worker:
        worker.execute("begin")
        assert worker.execute(*bulk_actions.step(job_id))[0]["result"] == (LAST if applying else MORE)
        database.all("select pg_terminate_backend(%s, 5000)", (worker.connection.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            worker.execute("commit")
    assert (rows(database, [*ids, job_id]), bulk_actions.counts(database, job_id)) == before
    database.expire_lease(job_id)
    with database.worker() as other:
        other.call("worker_reap")
    assert run(database, job_id) == {**NOTHING, "matched": 20, "done": 20}


def test_bulk_action_step__extends_the_lease(database: Database) -> None:
    user = database.member()
    many(database, user, BATCH + 1)
    job_id = create(database, user, criteria={"family": "historical_sync"})
    with Worker(database, job_id) as worker:
        worker.step()
        database.update(job_id, attempts=4, lease_expires_at="2001-01-01")
        assert worker.step() == MORE
        row = database.execution(job_id)
        assert row["attempts"] == 0
        assert row["lease_expires_at"] > database.one("select now()")["now"]
        worker.rest()


# The actor of a bulk action


def test_resolve_actor__bulk_action_is_forged(database: Database) -> None:
    user, stranger = database.member(), database.member()
    running = put(database, user, "bulk_action", "running", spec=bulk_actions.spec())
    runs_elsewhere = put(database, stranger, "bulk_action", "running", spec=bulk_actions.spec())
    ended = [
        put(database, user, "bulk_action", status, spec=bulk_actions.spec()) for status in ("completed", "cancelled")
    ]
    waiting = put(database, user, "bulk_action", "queued", spec=bulk_actions.spec())
    no_bulk_action = put(database, user, "historical_sync", "running")
    forged = [runs_elsewhere, *ended, waiting, no_bulk_action, str(uuid.uuid4()), "", "x", running.upper()]
    forged += [f"{running}\n", f" {running}", "%", f"{running}'"]
    claims = [f"bulk_action:{one}" for one in forged] + [running, f"bulk_actionx{running}", f"BULK_ACTION:{running}"]

    def attempts(role: str, claimed: str) -> tuple[str, str]:
        """The audit's actors of its start and its cancel."""
        with database.acting_as(role) as connection:
            connection.execute(
                "select set_config('request.jwt.claims', %s, true)", (json.dumps(user.claims | {"role": role}),)
            )
            # No other role may write the column, and trusted roles get their own name.
            row = connection.execute(
                "insert into app.executions (agency_id, family, actor) values (%s, 'historical_sync', %s)"
                " returning id, created_by",
                (user.agency_id, claimed),
            ).fetchone()
            assert row is not None
            ended = connection.execute(
                "update app.executions set status = 'cancelled', event = 'cancel', actor = %s where id = %s"
                " returning cancelled_by",
                (claimed, row["id"]),
            ).fetchone()
            assert ended is not None
        return row["created_by"], ended["cancelled_by"]

    for role, claimed in itertools.product(("service_role", "postgres"), claims):
        assert attempts(role, claimed) == (role, role), claimed
    assert attempts("postgres", f"bulk_action:{running}") == ("postgres", "postgres")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        attempts("authenticated", f"bulk_action:{running}")
    with database.acting_as("authenticated") as connection:
        connection.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(user.claims),))
        row = connection.execute(
            "select app.resolve_actor(%s, %s) as actor", (user.agency_id, f"bulk_action:{running}")
        ).fetchone()
        assert row == {"actor": f"user:{user.id}"}


def test_resolve_actor__bulk_action_of_a_worker(database: Database) -> None:
    """And only in its own agency."""
    user, stranger = database.member(), database.member()
    job_id = put(database, user, "bulk_action", "running", spec=bulk_actions.spec())
    with database.acting_as("service_role") as worker:
        for agency_id, actor in ((user.agency_id, f"bulk_action:{job_id}"), (stranger.agency_id, "service_role")):
            row = worker.execute(
                "select app.resolve_actor(%s, %s) as actor", (agency_id, f"bulk_action:{job_id}")
            ).fetchone()
            assert row == {"actor": actor}


def test_bulk_action_step__worker_only(database: Database) -> None:
    user = database.member()
    job_id = bulk_actions.collected(database, user)
    with database.session(user.claims) as session:
        assert session.error("worker_run_bulk_action_step", execution_id=job_id, lease_token=1).sqlstate == "42501"
        for table in ("bulk_actions", "bulk_action_items"):
            for statement in (f"delete from app.{table}", f"update app.{table} set agency_id = agency_id"):
                response = session.attempt(statement)
                assert isinstance(response, SqlError)
                assert response.sqlstate == "42501"


@pytest.mark.parametrize("lease_token", [0, 2, 99])
def test_bulk_action_step__wrong_lease_token(database: Database, lease_token: int) -> None:
    user = database.member()
    ids = many(database, user, 3)
    job_id = bulk_actions.collected(database, user)
    before = (rows(database, [*ids, job_id]), bulk_actions.counts(database, job_id))
    with database.worker() as worker:
        assert worker.call("worker_run_bulk_action_step", execution_id=job_id, lease_token=lease_token) == LOST
        assert worker.call("worker_run_bulk_action_step", execution_id=str(uuid.uuid4()), lease_token=1) == LOST
    assert (rows(database, [*ids, job_id]), bulk_actions.counts(database, job_id)) == before


def test_bulk_actions__visible_to_the_agency_only(database: Database) -> None:
    user, stranger = database.member(), database.member()
    run(database, create(database, user))
    for caller, seen in ((user, 1), (stranger, 0)):
        with database.session(caller.claims) as session:
            for table in ("bulk_actions", "bulk_action_items"):
                assert len(session.execute(f"select 1 from app.{table}")) == seen
