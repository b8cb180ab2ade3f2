"""Every interleaving of two or three sessions, step by step on real connections, then under real concurrency."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from tests.support.database import TWO_STEPS, SqlError, rpc
from tests.support.races import BATCH, RaceSession, batch, interleavings, normal, perform
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from tests.support.database import Database, Session, User
    from tests.support.races import Statement

pytestmark = pytest.mark.sql

Call: TypeAlias = "Callable[[str], Statement]"  # of an execution's id
Maker: TypeAlias = "Callable[[Database, User], Mapping[str, Statement]]"  # makes the rows and the calls

HELD = "held"  # the result of a call that skips locked rows, while another session holds the row


@dataclass(frozen=True)
class Scenario:
    """`results`: the result of each session, by the session before it that changed something (None: no other did).

    `events`: the audit's events after a session has committed, by its result; without an entry it changed nothing.
    `records`: the sessions that have stored the batch, in the same way.
    """

    make: Maker
    results: Mapping[str, Mapping[str | None, Any]]
    events: Mapping[tuple[str, Any], list[str]]
    history: Sequence[str] = ("start", "claim")
    records: Collection[tuple[str, Any]] = ()
    # The audit event by result, for the first session only, and the event after a cancel instead.
    first_only: Mapping[Any, list[str]] = field(default_factory=dict)
    after_cancel: Mapping[tuple[str, Any], list[str]] = field(default_factory=dict)

    def expected(self, order: Sequence[str], ends: Mapping[str, str]) -> tuple[dict[str, Any], list[str], int]:
        """Each session's result, the events and the number of records, if the steps run in this order."""
        results: dict[str, Any] = {}
        events, records = list(self.history), 0
        first: str | None = None
        open_: set[str] = set()
        for name in order:
            if name in results:
                open_.discard(name)
                continue
            table = self.results[name]
            results[name] = table[HELD] if open_ and HELD in table else table.get(first, table[None])
            open_.add(name)
            key = (name, results[name])
            if ends[name] == "commit" and first is None and key[1] in self.first_only:
                events += self.first_only[key[1]]
                first = name
            if ends[name] == "commit" and key in self.events:
                events += (self.after_cancel if first == "cancel" and key in self.after_cancel else self.events)[key]
                records = BATCH if key in self.records else records
                first = first or name
        return results, events, records


@contextmanager
def stage(database: Database, scenario: Scenario, user: User) -> Iterator[dict[str, RaceSession]]:
    with ExitStack() as stack:
        sessions = {}
        for name in scenario.results:
            claims = user.claims if name.startswith(("cancel", "start")) else {"role": "service_role"}
            sessions[name] = RaceSession(database, database.session(claims))
            stack.callback(sessions[name].close)
        yield sessions


def play(database: Database, scenario: Scenario, all_ends: Sequence[str]) -> None:
    user = database.member()
    names = list(scenario.results)
    with stage(database, scenario, user) as sessions:
        for order in interleavings(names):
            for how in itertools.product(all_ends, repeat=len(names)):
                ends = dict(zip(names, how, strict=True))
                before = counts(database)
                results = perform(sessions, scenario.make(database, user), order, ends)
                after = counts(database)
                expected, events, records = scenario.expected(order, ends)
                assert results == expected, (order, ends)
                assert after - before == Counter(events) + Counter({"record": records}), (order, ends)
                tidy(database)


def counts(database: Database) -> Counter[str]:
    """The number of events of each kind, and of records."""
    rows = database.all(
        "select event, count(*) as n from app.execution_events group by 1"
        " union all select 'record', count(*) from app.records"
    )
    return Counter({row["event"]: row["n"] for row in rows})


def tidy(database: Database) -> None:
    """Ends the executions that the next case could claim or reap."""
    with database.acting_as("service_role") as connection:
        connection.execute(
            "update app.executions as e set status = 'cancelled', event = f.cancel_event from app.families as f"
            " where f.family = e.family and e.status in ('queued', 'running') and f.cancel_event = 'cancel'"
        )
        connection.execute(
            "update app.executions set status = 'cancelling', event = 'request_cancel' where status = 'running'"
        )
        connection.execute(
            "update app.executions set status = 'cancelled', reason = null,"
            " event = case status when 'queued' then 'request_cancel' else 'expire' end, actor = 'reaper'"
            " where status in ('queued', 'cancelling')"
        )


def start(connection_id: str) -> Statement:
    january = {"date_from": "2013-01-01", "date_to": "2013-01-31"}
    return rpc("start_historical_sync", connection_id=connection_id, **january)


def cancel(job_id: str) -> Statement:
    return rpc("cancel_sync_job", job_id=job_id)


def request_cancel(job_id: str) -> Statement:
    cancelled = "(app.cancel_execution(e.family, e.id, null)).status"
    return f"select {cancelled} as result from app.executions as e where id = %(id)s", {"id": job_id}


def finish(job_id: str, lease_token: int = 1) -> Statement:
    return rpc("worker_complete", execution_id=job_id, lease_token=lease_token)


def release(job_id: str) -> Statement:
    return rpc("worker_release", execution_id=job_id, lease_token=1)


def claim(_: str) -> Statement:
    return rpc("worker_claim", worker="w", families=["historical_sync", *TWO_STEPS], max_executions=1)


def reap(_: str) -> Statement:
    return rpc("worker_reap")


def there_is(
    status: str, *, family: str = "historical_sync", late: bool = False, number: int = 1, **calls: Call
) -> Maker:
    """Executions in this status (running: lease token 1, `late`: an expired lease). The calls are for the last."""

    def make(database: Database, user: User) -> Mapping[str, Statement]:
        connection_id = database.connection(user.agency_id)
        jobs = [database.put(status, user.agency_id, family, connection_id=connection_id) for _ in range(number)]
        if late:
            database.expire_lease(jobs[-1])
        return {name: call(jobs[-1]) for name, call in calls.items()}

    return make


PAIRS = {
    "cancel and finish": Scenario(
        there_is("running", cancel=cancel, finish=finish),
        {"cancel": {None: "cancelled", "finish": "not_cancellable"}, "finish": {None: "completed", "cancel": "lost"}},
        {("cancel", "cancelled"): ["cancel"], ("finish", "completed"): ["complete"]},
    ),
    "cancel and cancel": Scenario(
        there_is("running", cancel_1=cancel, cancel_2=cancel),
        {
            "cancel_1": {None: "cancelled", "cancel_2": "not_cancellable"},
            "cancel_2": {None: "cancelled", "cancel_1": "not_cancellable"},
        },
        {("cancel_1", "cancelled"): ["cancel"], ("cancel_2", "cancelled"): ["cancel"]},
    ),
    "cancel and worker_commit_batch": Scenario(
        there_is("running", cancel=cancel, commit=batch),
        {"cancel": {None: "cancelled"}, "commit": {None: "continue", "cancel": "lost"}},
        {("cancel", "cancelled"): ["cancel"], ("commit", "continue"): []},
        records=[("commit", "continue")],
    ),
    "one batch sent twice at once": Scenario(
        there_is("running", commit_1=batch, commit_2=batch),
        {"commit_1": {None: "continue"}, "commit_2": {None: "continue"}},
        {("commit_1", "continue"): [], ("commit_2", "continue"): []},
        records=[("commit_1", "continue"), ("commit_2", "continue")],
    ),
    "release and cancel": Scenario(
        there_is("running", release=release, cancel=cancel),
        {"release": {None: "queued", "cancel": "lost"}, "cancel": {None: "cancelled"}},
        {("release", "queued"): ["release"], ("cancel", "cancelled"): ["cancel"]},
    ),
    "cancel and claim": Scenario(
        there_is("queued", cancel=cancel, claim=claim),
        {"cancel": {None: "cancelled"}, "claim": {None: 1, "cancel": 0, HELD: 0}},
        {("cancel", "cancelled"): ["cancel"], ("claim", 1): ["claim"]},
        ["start"],
    ),
    "claim and claim of one": Scenario(
        there_is("queued", claim_1=claim, claim_2=claim),
        {"claim_1": {None: 1, "claim_2": 0, HELD: 0}, "claim_2": {None: 1, "claim_1": 0, HELD: 0}},
        {("claim_1", 1): ["claim"], ("claim_2", 1): ["claim"]},
        ["start"],
    ),
    "claim and claim of two": Scenario(
        there_is("queued", number=2, claim_1=claim, claim_2=claim),
        {"claim_1": {None: 1}, "claim_2": {None: 1}},
        {("claim_1", 1): ["claim"], ("claim_2", 1): ["claim"]},
        ["start", "start"],
    ),
    "cancel and reap": Scenario(
        there_is("running", late=True, cancel=cancel, reap=reap),
        {"cancel": {None: "cancelled"}, "reap": {None: 1, "cancel": 0, HELD: 0}},
        {("cancel", "cancelled"): ["cancel"], ("reap", 1): ["release"]},
    ),
    "finish and reap": Scenario(
        there_is("running", late=True, finish=finish, reap=reap),
        {"finish": {None: "completed", "reap": "lost"}, "reap": {None: 1, "finish": 0, HELD: 0}},
        {("finish", "completed"): ["complete"], ("reap", 1): ["release"]},
    ),
    "worker_commit_batch and reap": Scenario(
        there_is("running", late=True, commit=batch, reap=reap),
        {"commit": {None: "continue", "reap": "lost"}, "reap": {None: 1, "commit": 0, HELD: 0}},
        {("commit", "continue"): [], ("reap", 1): ["release"]},
        records=[("commit", "continue")],
    ),
}


def in_two_steps(family: str) -> dict[str, Scenario]:
    """The same for a family that cancels in two steps, with its additional cases."""
    requested = {("cancel", "cancelling"): ["request_cancel"]}
    at_once = {("cancel", "cancelled"): ["request_cancel"]}
    return {
        "finish": Scenario(
            there_is("running", family=family, cancel=request_cancel, finish=finish),
            {"cancel": {None: "cancelling", "finish": "not_cancellable"}, "finish": {None: "completed"}},
            requested | {("finish", "completed"): ["complete"]},
        ),
        "release": Scenario(
            there_is("running", family=family, cancel=request_cancel, release=release),
            {
                "cancel": {None: "cancelling", "release": "cancelled"},
                "release": {None: "queued", "cancel": "cancelled"},
            },
            requested | at_once | {("release", "queued"): ["release"], ("release", "cancelled"): ["acknowledge"]},
        ),
        # Called twice: the second call returns the same and changes nothing.
        "cancel": Scenario(
            there_is("running", family=family, cancel_1=request_cancel, cancel_2=request_cancel),
            {"cancel_1": {None: "cancelling"}, "cancel_2": {None: "cancelling"}},
            {},
            first_only={"cancelling": ["request_cancel"]},
        ),
        "worker_commit_batch": Scenario(
            there_is("running", family=family, cancel=request_cancel, commit=batch),
            {"cancel": {None: "cancelling"}, "commit": {None: "continue", "cancel": "cancel"}},
            requested | {("commit", "continue"): [], ("commit", "cancel"): []},
            records=[("commit", "continue"), ("commit", "cancel")],
        ),
        "claim": Scenario(
            there_is("queued", family=family, cancel=request_cancel, claim=claim),
            {"cancel": {None: "cancelled", "claim": "cancelling"}, "claim": {None: 1, "cancel": 0, HELD: 0}},
            requested | at_once | {("claim", 1): ["claim"]},
            ["start"],
        ),
        "reap": Scenario(
            there_is("running", family=family, late=True, cancel=request_cancel, reap=reap),
            {"cancel": {None: "cancelling", "reap": "cancelled"}, "reap": {None: 1, HELD: 0}},
            requested | at_once | {("reap", 1): ["release"]},
            after_cancel={("reap", 1): ["expire"]},
        ),
        "acknowledge and finish": Scenario(
            there_is("cancelling", family=family, release=release, finish=finish),
            {
                "release": {None: "cancelled", "finish": "lost"},
                "finish": {None: "completed", "release": "lost"},
            },
            {("release", "cancelled"): ["acknowledge"], ("finish", "completed"): ["complete"]},
            ["start", "claim", "request_cancel"],
        ),
    }


@pytest.mark.parametrize("family", TWO_STEPS)
@pytest.mark.parametrize("name", in_two_steps(""))
def test_race__request_cancel_and_outcome(database: Database, family: str, name: str) -> None:
    play(database, in_two_steps(family)[name], ["commit", "rollback"])


@pytest.mark.parametrize("name", PAIRS)
def test_race__first_to_lock_wins(database: Database, name: str) -> None:
    play(database, PAIRS[name], ["commit", "rollback"])


def make_zombie(database: Database, user: User) -> Mapping[str, Statement]:
    """A running historical sync of a second worker (lease token 3), whose first worker (1) still runs."""
    job_id = database.start(user)
    database.transition(job_id, ("claim", "running"), ("release", "queued"), ("claim", "running"))
    return {"cancel": cancel(job_id), "finish": finish(job_id, 3), "zombie": batch(job_id, 1)}


THREE = {
    "cancel, finish and a late zombie": Scenario(
        make_zombie,
        {
            "cancel": {None: "cancelled", "finish": "not_cancellable"},
            "finish": {None: "completed", "cancel": "lost"},
            "zombie": {None: "lost"},
        },
        {("cancel", "cancelled"): ["cancel"], ("finish", "completed"): ["complete"]},
        ["start", "claim", "release", "claim"],
    ),
}


@pytest.mark.parametrize("name", THREE)
def test_race__three_calls_one_wins(database: Database, name: str) -> None:
    play(database, THREE[name], ["commit"])


def test_race__two_starts_on_one_connection(database: Database) -> None:
    def make(database: Database, user: User) -> Mapping[str, Statement]:
        statement = start(database.connection(user.agency_id))
        return {"start_1": statement, "start_2": statement}

    scenario = Scenario(
        make,
        {
            "start_1": {None: "pending", "start_2": "already_active"},
            "start_2": {None: "pending", "start_1": "already_active"},
        },
        {("start_1", "pending"): ["start"], ("start_2", "pending"): ["start"]},
        [],
    )
    play(database, scenario, ["commit", "rollback"])


def test_race__cancel_after_the_lock_holder_dies(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    database.transition(job_id, ("claim", "running"))
    with database.worker() as worker, ExitStack() as stack:
        worker.execute("begin")
        worker.execute(*batch(job_id))
        canceller = RaceSession(database, database.session(user.claims))
        stack.callback(canceller.close)
        canceller.begin(cancel(job_id))
        canceller.end("commit")
        until(canceller.is_at_rest)
        assert not canceller.steps[0].done()
        database.all("select pg_terminate_backend(%s)", (worker.connection.info.backend_pid,))
        assert normal(canceller.steps[0].result(30)) == "cancelled"
        canceller.steps[1].result(30)
    assert database.all("select from app.records") == []


@contextmanager
def crowd(sessions: Sequence[Session]) -> Iterator[Callable[[Sequence[Statement]], list[Any]]]:
    """Makes the calls of all sessions at the same moment and returns their results."""
    barrier = threading.Barrier(len(sessions))

    def attempt(session: Session, statement: Statement) -> Any:
        barrier.wait(30)
        return session.attempt(*statement)

    with ExitStack() as stack, ThreadPoolExecutor(len(sessions)) as threads:
        for session in sessions:
            stack.callback(session.close)
        yield lambda statements: list(threads.map(attempt, sessions, statements, timeout=60))


def test_load__cancel_and_complete(database: Database) -> None:
    user = database.member()
    won: Counter[str] = Counter()
    with crowd([database.session(user.claims), *(database.worker() for _ in range(3))]) as at_once:
        for _ in range(200):
            calls = make_zombie(database, user)
            job_id = calls["cancel"][1]["job_id"]
            results = at_once([calls["cancel"], calls["finish"], calls["zombie"], batch(job_id, 3)])
            cancelled, finished, zombie, stored = map(normal, results)
            assert (cancelled, finished) in {("cancelled", "lost"), ("not_cancellable", "completed")}
            assert (zombie, stored) in {("lost", "lost"), ("lost", "continue")}
            records = database.all("select from app.records where execution_id = %s", (job_id,))
            assert len(records) == (BATCH if stored == "continue" else 0)
            events = [event["event"] for event in database.events(job_id)]
            winner = "cancel" if cancelled == "cancelled" else "complete"
            assert events == ["start", "claim", "release", "claim", winner]
            won[winner] += 1
    assert sum(won.values()) == 200


def test_load__claimed_once(database: Database) -> None:
    agency = database.agency()
    jobs = sorted(database.insert(agency) for _ in range(200))
    three = rpc("worker_claim", worker="w", families=["bulk_sync"], max_executions=3)
    claimed: list[str] = []
    with crowd([database.worker() for _ in range(6)]) as at_once:
        while found := [e["id"] for response in at_once([three] * 6) for e in response[0]["result"]]:
            claimed += found
    assert sorted(claimed) == jobs


def test_load__one_active_job_per_connection(database: Database) -> None:
    users = [database.member()]
    users += [database.user(users[0].agency_id) for _ in range(3)]
    with crowd([database.session(user.claims) for user in users]) as at_once:
        for _ in range(25):
            results = at_once([start(database.connection(users[0].agency_id))] * 4)
            [job_id] = [response[0]["result"]["job_id"] for response in results if not isinstance(response, SqlError)]
            error = [response for response in results if isinstance(response, SqlError)]
            assert {(r.code, r.details["job_id"]) for r in error} == {("already_active", job_id)}


@pytest.mark.parametrize("mode", ["replicate", "create", "update", "updateOrCreate"])
def test_load__same_records_from_two_executions(database: Database, mode: str) -> None:
    """In opposite orders, which would deadlock without an order of locks."""
    agency = database.agency()
    destination_id = database.connection(agency, "records", {})
    spec = json.dumps({"write": {"mode": mode}})

    def job(**columns: Any) -> str:
        columns |= {"connection_id": database.connection(agency), "destination_id": destination_id}
        return database.put("running", agency, "model_sync", **columns)

    keys = [str(n) for n in range(300)]
    if mode == "update":  # existing rows to update
        with database.worker() as worker:
            worker.execute(*batch(job(), keys=keys))
    jobs = [job(spec=spec) for _ in range(2)]
    with crowd([database.worker() for _ in jobs]) as at_once:
        for seq in range(1, 21):
            orders = zip(jobs, (keys, keys[::-1]), strict=True)
            results = at_once([batch(job_id, 1, seq, order) for job_id, order in orders])
            assert [normal(response) for response in results] == ["continue", "continue"]
    assert database.one("select count(*) as n from app.records")["n"] == len(keys)
    query = "select sum(inserted) as inserted, sum(updated) as updated from app.execution_resources"
    written = database.one(f"{query} where execution_id = any(%s)", (jobs,))
    total = 2 * 20 * len(keys)
    inserted = 0 if mode == "update" else len(keys)
    assert written == {"inserted": inserted, "updated": 0 if mode == "create" else total - inserted}


def test_load__one_batch_stored_once(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    database.transition(job_id, ("claim", "running"))
    with crowd([database.worker() for _ in range(4)]) as at_once:
        for seq in range(1, 26):
            assert [normal(response) for response in at_once([batch(job_id, 1, seq)] * 4)] == ["continue"] * 4
    assert (database.execution(job_id)["seq"], database.execution(job_id)["records"]) == (25, 25 * BATCH)
    [counted] = database.all("select records, inserted, updated from app.execution_resources")
    assert counted == {"records": 25 * BATCH, "inserted": BATCH, "updated": 24 * BATCH}
