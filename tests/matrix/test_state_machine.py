"""Random moves by random people, workers and the reaper, against a model of ten lines (`Job.move`, after the table of
moves): after every step rows, audit and records are as the model says, each answer was the one it predicts, and every
invariant holds. STATE_MACHINE_EXAMPLES=5000 searches on with other seeds; else a run is the same every time.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.database import FAMILIES as CANCEL
from tests.support.database import TWO_STEPS, SqlError, rpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.support.database import Database, Session

pytestmark = pytest.mark.sql

LONGER = os.environ.get("STATE_MACHINE_EXAMPLES")
SETTINGS = settings(
    max_examples=int(LONGER or 120),
    stateful_step_count=50,
    derandomize=not LONGER,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, *([Phase.shrink] if LONGER else [])],  # to shrink an example takes minutes
)

MOVES = {
    "claim": {"queued": "running"},
    "cancel": {"queued": "cancelled", "running": "cancelled"},
    "request_cancel": {"queued": "cancelled", "running": "cancelling"},
    "acknowledge": {"cancelling": "cancelled"},
    "expire": {"cancelling": "cancelled"},
    "complete": {"running": "completed", "cancelling": "completed"},
    "fail": {"running": "failed", "cancelling": "failed"},
    "release": {"running": "queued"},
}
ACTIVE, LEASED = ("queued", "running", "cancelling"), ("running", "cancelling")
WORDS = {"queued": "pending", "running": "in_progress"}  # of a historical sync; the others are called what they are
MAX_ATTEMPTS = {"cancel": 5, "request_cancel": 2}  # by how its family is cancelled
NOWHERE = "00000000-0000-4000-8000-000000000000"
NEVER, LONG_AGO = "2999-01-01", "2001-01-01"
ERROR = {"code": "gone", "message": "The source is gone."}


@dataclass
class Job:
    """What the model knows of an execution; `due` orders the queue, None is not yet."""

    id: str
    family: str
    agency: str | None
    connection: str
    due: int | None
    starter: str
    destination: str | None = None
    retry_of: str | None = None
    status: str = "queued"
    lease_token: int = 0
    seq: int = 0
    records: int = 0
    attempts: int = 0
    checkpoint: Any = None
    error: Any = None
    has_begun: bool = False
    worker: str | None = None
    canceller: str | None = None
    lease_is_over: bool = False
    deadline_is_over: bool = False
    counts: tuple[int, int, int, int, bool] | None = None  # read, inserted, updated, failed; whether it is done
    audit: list[tuple[str, str | None, str, int, str, str | None]] = field(default_factory=list)

    def move(self, event: str, actor: str, reason: str | None = None) -> None:
        before, self.status = self.status, MOVES[event][self.status]
        self.lease_token += event in ("claim", "cancel", "expire", "release") or (event, before) == (
            "request_cancel",
            "queued",
        )
        self.has_begun |= event == "claim"
        self.worker = actor if event == "claim" else self.worker if self.status in LEASED else None
        self.canceller = actor if "cancel" in event else self.canceller
        self.lease_is_over &= event != "claim" and self.status in LEASED
        self.audit.append((event, before, self.status, self.lease_token, actor, reason))

    @property
    def place(self) -> str:
        """Where its records land."""
        return self.destination or self.connection

    @property
    def is_over(self) -> bool:
        return self.status not in ACTIVE

    @property
    def word(self) -> str:
        if self.family == "historical_sync":
            return "in_progress" if self.status == "queued" and self.has_begun else WORDS.get(self.status, self.status)
        in_two_steps = {
            "queued": "running" if self.has_begun else "created",
            "cancelling": "canceling",
            "cancelled": "canceled",
        }
        return in_two_steps.get(self.status, self.status)

    def row(self) -> dict[str, Any]:
        """The columns that are the model's business."""
        *_, (event, _, _, _, actor, reason) = self.audit
        return {
            "id": self.id, "family": self.family, "agency_id": self.agency, "connection_id": self.connection,
            "destination_id": self.destination, "retry_of": self.retry_of,
            "created_by": self.starter, "status": self.status, "event": event,
            "actor": actor, "reason": reason, "lease_token": self.lease_token, "seq": self.seq, "records": self.records,
            "attempts": self.attempts, "checkpoint": self.checkpoint, "error": self.error,
            "cancelled_by": self.canceller, "worker": self.worker, "has_begun": self.has_begun,
            "is_over": self.is_over,
        }  # fmt: skip


ROWS = """
select id::text, family, agency_id::text, connection_id::text, destination_id::text, retry_of::text,
  created_by, status, event, actor, reason, lease_token, seq, records, attempts, checkpoint, error, cancelled_by,
  'worker:' || leased_by as worker,
  started_at is not null as has_begun, finished_at is not null as is_over
from app.executions
"""
EVENTS = """
select execution_id::text as id, event, from_status, to_status, lease_token, actor, reason
from app.execution_events order by execution_events.id
"""
RECORDS = "select connection_id::text as connection, key, execution_id::text as job, data from app.records"

COUNTS = """
select execution_id::text as id, resource, records, inserted, updated, failed, finished_at is not null as is_done
from app.execution_resources
"""

PEOPLE = st.sampled_from(["owner", "owner", "colleague", "server", "stranger", "without_agency", "signed_out"])
WORKERS = st.sampled_from(["w1", "w2"])
BOTH = ["historical_sync", "two_steps"]  # the second stands for the family at hand
CLAIMED = st.sampled_from([BOTH, BOTH, BOTH, BOTH[:1], BOTH[1:], ["bulk_action"], []])
REASONS = st.sampled_from([None, "wrong range", "日本 🛑"])
ANY = st.integers(0, 99)  # one of what there is
KEYS = st.lists(st.sampled_from("abcd"), max_size=3)
STATUSES = ["queued", "running", "cancelling", "completed", "failed", "cancelled"]
LEGAL = st.sampled_from([(event, status) for event in MOVES for status in MOVES[event].values()])
USERS_EVENTS = ("cancel", "request_cancel")


class Machine(RuleBasedStateMachine):
    two_steps = "bulk_sync"

    def __init__(self, database: Database, people: Session, server: Session) -> None:
        super().__init__()
        self.database = database
        self.people, self.server = people, server
        self.jobs: list[Job] = []
        self.claims: list[tuple[Job, int]] = []  # every lease that was ever given
        self.records: dict[tuple[str, str], tuple[str, Any]] = {}
        self.clock = itertools.count()

    @initialize(bulk_syncs=st.integers(0, 3), claimed=st.integers(0, 6), cancelling=st.integers(0, 3))
    def a_project(self, bulk_syncs: int, claimed: int, cancelling: int) -> None:
        with self.database.admin.transaction():  # past the triggers, which refuse it
            self.database.admin.execute("set local session_replication_role = replica")
            self.database.admin.execute("truncate app.executions, app.execution_events cascade; truncate app.records")
        mine, other = self.database.agency(), self.database.agency()
        self.users = {
            "owner": self.database.user(mine),
            "colleague": self.database.user(mine),
            "stranger": self.database.user(other),
            "without_agency": self.database.user(None),
            "signed_out": self.database.user(mine),
        }
        self.database.admin.execute("delete from auth.sessions where user_id = %s", (self.users["signed_out"].id,))
        self.connections = [(self.database.connection(agency), agency) for agency in (mine, mine, other)]
        self.destinations = {agency: self.database.connection(agency, "records", {}) for agency in (mine, other)}
        for number, person in enumerate(("owner", "colleague", "stranger")):
            self.start(person, number)
        for number in range(bulk_syncs):
            self.start_in_two_steps(number)
        if claimed:
            self.claim("w1", BOTH, claimed)
        for job in [job for job in self.those("running") if job.family == self.two_steps][:cancelling]:
            self.cancel("server", self.jobs.index(job), None)

    # Who asks, and what is said to whom regardless of what is asked

    def by(self, person: str) -> Session:
        if person == "server":
            return self.server
        self.people.set_claims(self.users[person].claims)
        return self.people

    def ask(self, person: str, name: str, /, **arguments: Any) -> Any:
        """The answer, or (status, code, members) of a refusal."""
        return said(self.by(person).attempt(*rpc(name, **arguments)))

    def work(self, name: str, /, **arguments: Any) -> Any:
        return self.ask("server", name, **arguments)

    def agency(self, person: str) -> str | None:
        return self.users[person].agency_id if person in self.users else None

    def actor(self, person: str) -> str:
        return "service_role" if person == "server" else f"user:{self.users[person].id}"

    def refused(self, person: str, agency: str | None, noun: str = "job", status: int = 403) -> Any:
        """What this person is told instead of anything about a row of this agency (None: there is no such row)."""
        if person == "signed_out":
            return (401, "revoked_token", {})
        if person == "without_agency":
            return (403, "no_agency", {})
        if agency is None:
            return (404, f"{noun}_not_found", {})
        if person != "server" and self.agency(person) != agency:
            return (status, f"{noun}_{'of_another_agency' if status == 403 else 'not_found'}", {})
        return None

    def those(self, *statuses: str) -> list[Job]:
        return [job for job in self.jobs if job.status in statuses]

    def one(self, number: int, *statuses: str) -> Job:
        jobs = self.those(*statuses or STATUSES)
        return jobs[number % len(jobs)]

    def active(self, connection: str) -> Job | None:
        found = [j for j in self.jobs if j.family == "historical_sync" and j.connection == connection and not j.is_over]
        return found[0] if found else None

    def backdate(self, job: Job, column: str, to: str) -> None:
        """Only time may do this, so the triggers must not see it."""
        with self.database.admin.transaction():
            self.database.admin.execute("set local session_replication_role = replica")
            self.database.admin.execute(f"update app.executions set {column} = %s where id = %s", (to, job.id))

    # What people do

    @rule(person=PEOPLE, number=ANY)
    def start(self, person: str, number: int) -> None:
        connection, agency = self.connections[number % len(self.connections)]
        response = self.ask(
            person, "start_historical_sync", connection_id=connection, date_from="2013-01-01", date_to="2013-01-31"
        )
        active = self.active(connection)
        if refused := self.refused(person, agency, "connection"):
            assert response == refused
        elif active:
            assert response == (409, "already_active", {"job_id": active.id})
        else:
            assert response["status"] == "pending"
            self.started(response["job_id"], "historical_sync", agency, connection, self.actor(person))

    @rule(number=ANY)
    def start_in_two_steps(self, number: int) -> None:
        """As by hand, of nothing that is defined; every other one writes to what the agency's others write to."""
        connection, agency = self.connections[number % len(self.connections)]
        destination = self.destinations[agency] if number % 2 else None
        attempts = MAX_ATTEMPTS["request_cancel"]
        columns = {"connection_id": connection, "destination_id": destination, "max_attempts": attempts}
        job_id = self.database.insert(agency, self.two_steps, **columns)
        self.started(job_id, self.two_steps, agency, connection, "postgres")
        self.jobs[-1].destination = destination

    def started(
        self, job_id: str, family: str, agency: str | None, connection: str, starter: str, retried: Job | None = None
    ) -> None:
        job = Job(job_id, family, agency, connection, next(self.clock), starter)
        job.audit.append(("start", None, "queued", 0, starter, None))
        if retried:
            job.retry_of, job.checkpoint = retried.id, retried.checkpoint
        self.jobs.append(job)

    @rule(person=PEOPLE, number=ANY, reason=REASONS)
    def cancel(self, person: str, number: int, reason: str | None) -> None:
        job = self.one(number)
        if job.family == "historical_sync":
            response = self.ask(person, "cancel_sync_job", job_id=job.id, reason=reason)
        else:
            assert self.ask(person, "cancel_sync_job", job_id=job.id) == self.refused(person, None)
            query = "select to_jsonb(app.cancel_execution(%s, %s, %s)) as result"
            response = said(self.by(person).attempt(query, (job.family, job.id, reason)))
        if refused := self.refused(person, job.agency, status=403 if job.family == "historical_sync" else 404):
            assert response == refused
        elif job.status == "cancelling":  # as it was asked for already
            assert (response["status"], response["cancelled_by"]) == ("cancelling", job.canceller)
        elif job.status not in MOVES[CANCEL[job.family]]:
            assert response == (400, "not_cancellable", {"current_status": job.word})
        else:
            job.move(CANCEL[job.family], self.actor(person), reason)
            assert response["status"] == job.status
            if job.status == "cancelling":
                self.backdate(job, "cancel_deadline", NEVER)

    @precondition(lambda self: self.those("running"))
    @rule(number=ANY, reason=REASONS)
    def cancel_what_runs(self, number: int, reason: str | None) -> None:
        self.cancel("owner", self.jobs.index(self.one(number, "running")), reason)

    @rule(person=PEOPLE, number=ANY)
    def retry(self, person: str, number: int) -> None:
        job = self.one(number)
        response = self.ask(person, "retry_historical_sync", job_id=job.id)
        active = self.active(job.connection)
        if refused := self.refused(person, job.agency if job.family == "historical_sync" else None):
            assert response == refused
        elif job.status not in ("failed", "cancelled"):
            assert response == (400, "not_retryable", {"current_status": job.word})
        elif active:
            assert response == (409, "already_active", {"job_id": active.id})
        else:
            assert (response["status"], response["retry_of"]) == ("pending", job.id)
            self.started(response["job_id"], job.family, job.agency, job.connection, self.actor(person), job)

    @rule(person=PEOPLE, number=ANY)
    def source_check(self, person: str, number: int) -> None:
        job = self.one(number)
        response = self.ask(person, "get_historical_sync", job_id=job.id)
        if refused := self.refused(person, job.agency if job.family == "historical_sync" else None):
            assert response == refused
        else:
            assert (response["status"], response["progress"]["records"]) == (job.word, job.records)
        assert self.ask(person, "cancel_sync_job", job_id=NOWHERE) == self.refused(person, None)
        listed = self.ask(person, "list_historical_syncs", limit=100)
        if refused := self.refused(person, self.agency(person) or "any"):
            assert listed == refused
        else:
            mine = [j for j in self.jobs if j.family == "historical_sync" and self.refused(person, j.agency) is None]
            assert {j["job_id"]: j["status"] for j in listed["jobs"]} == {j.id: j.word for j in mine}

    # What workers do

    @rule(worker=WORKERS, families=CLAIMED, limit=st.integers(1, 4))
    def claim(self, worker: str, families: list[str], limit: int) -> None:
        families = [self.two_steps if family == "two_steps" else family for family in families]
        response = self.work("worker_claim", worker=worker, families=families, max_executions=limit, lease_seconds=3600)
        taken = self.claimed(worker, families, limit)
        if len(taken) < limit and self.reaped(limit)["released"]:
            taken += self.claimed(worker, families, limit - len(taken))
        expected = [(j.id, j.agency, j.lease_token, j.seq, j.checkpoint) for j in sorted(taken, key=lambda job: job.id)]
        assert [(j["id"], j["agency_id"], j["lease_token"], j["seq"], j["checkpoint"]) for j in response] == expected

    def claimed(self, worker: str, families: list[str], limit: int) -> list[Job]:
        waiting = [
            job for job in self.jobs if job.status == "queued" and job.due is not None and job.family in families
        ]
        taken = sorted(waiting, key=lambda job: (job.due, job.id))[:limit]
        for job in taken:
            job.move("claim", f"worker:{worker}")
            self.claims.append((job, job.lease_token))
        return taken

    def holder(self, number: int) -> tuple[Job, dict[str, Any], bool]:
        """A worker with a lease, sometimes long lost: the job, what it says, and whether it is heard."""
        current = [
            (job, lease_token)
            for job, lease_token in self.claims
            if lease_token == job.lease_token and job.status in LEASED
        ]
        some = current if current and number % 4 else self.claims
        job, lease_token = some[number % len(some)]
        return job, {"execution_id": job.id, "lease_token": lease_token}, (job, lease_token) in current

    @precondition(lambda self: self.claims)
    @rule(number=ANY)
    def heartbeat(self, number: int) -> None:
        job, lease_token, is_heard = self.holder(number)
        assert self.work("worker_heartbeat", **lease_token)["result"] == verdict(job, is_heard)
        job.lease_is_over &= not is_heard

    @precondition(lambda self: self.claims)
    @rule(
        number=ANY, offset=st.sampled_from([1, 1, 1, 0, -1, 2]), keys=KEYS, failed=st.integers(0, 2), done=st.booleans()
    )
    def commit_batch(self, number: int, offset: int, keys: list[str], failed: int = 0, done: bool = False) -> None:
        """The next batch (1), the last one again (0), or a wrong one."""
        job, lease_token, is_heard = self.holder(number)
        seq, data = job.seq + offset, {"at": next(self.clock)}
        response = self.work(
            "worker_commit_batch", **lease_token, seq=seq, resource="flights",
            records=[{"key": key, "data": data} for key in keys],
            checkpoint=data, progress={}, errors=["It has no key."] * failed, done=done,
        )  # fmt: skip
        if is_heard and (offset not in (0, 1) or seq == 0):
            assert response == (409, "unexpected_seq", {"expected_seq": job.seq + 1})
            return
        assert response["result"] == verdict(job, is_heard)
        if is_heard and offset == 1:
            read = len(keys) + failed
            job.seq, job.records, job.attempts, job.checkpoint = seq, job.records + read, 0, data
            job.lease_is_over = False
            rows = {(job.place, key): (job.id, data) for key in keys}
            new = len(rows.keys() - self.records.keys())
            before = job.counts or (0, 0, 0, 0, False)
            job.counts = (before[0] + read, before[1] + new, before[2] + len(rows) - new, before[3] + failed, done)
            self.records |= rows

    @precondition(lambda self: self.claims)
    @rule(number=ANY, keys=KEYS)
    def work_on(self, number: int, keys: list[str]) -> None:
        """What a worker does most."""
        self.commit_batch(number, 1, keys)

    @precondition(lambda self: self.claims)
    @rule(number=ANY)
    def finish(self, number: int) -> None:
        job, lease_token, is_heard = self.holder(number)
        response = self.work("worker_complete", **lease_token)
        if is_heard:
            job.move("complete", job.worker or "")
            job.error = None
        assert response["result"] == (job.status if is_heard else "lost")

    @precondition(lambda self: self.claims)
    @rule(number=ANY, retry=st.booleans())
    def fail(self, number: int, retry: bool) -> None:
        job, lease_token, is_heard = self.holder(number)
        response = self.work("worker_fail", **lease_token, error=ERROR, retry=retry)
        if is_heard:
            event = (
                "acknowledge" if retry and job.status == "cancelling"
                else "release" if retry and job.attempts + 1 < MAX_ATTEMPTS[CANCEL[job.family]]
                else "fail"
            )  # fmt: skip
            job.move(event, job.worker or "", ERROR["code"])
            if event != "acknowledge":
                job.error, job.attempts, job.due = ERROR, job.attempts + 1, None
                self.backdate(job, "run_at", NEVER)
        assert response["result"] == (job.status if is_heard else "lost")

    @precondition(lambda self: self.claims)
    @rule(number=ANY, reason=REASONS)
    def release(self, number: int, reason: str | None) -> None:
        self.given_back(*self.holder(number), reason)

    @precondition(lambda self: self.those("cancelling"))
    @rule(number=ANY, reason=REASONS)
    def stop_as_told(self, number: int, reason: str | None) -> None:
        """What a worker does that hears of a cancel."""
        job = self.one(number, "cancelling")
        self.given_back(job, {"execution_id": job.id, "lease_token": job.lease_token}, True, reason)

    def given_back(self, job: Job, lease_token: dict[str, Any], is_heard: bool, reason: str | None) -> None:
        response = self.work("worker_release", **lease_token, reason=reason)
        if is_heard:
            job.due = next(self.clock) if job.status == "running" else job.due
            job.move("acknowledge" if job.status == "cancelling" else "release", job.worker or "", reason)
        assert response["result"] == (job.status if is_heard else "lost")

    # What time does, and the reaper

    @precondition(lambda self: self.those(*LEASED))
    @rule(number=ANY)
    def a_lease_runs_out(self, number: int) -> None:
        job = self.one(number, *LEASED)
        self.backdate(job, "lease_expires_at", LONG_AGO)
        job.lease_is_over = True

    @precondition(lambda self: self.those("cancelling"))
    @rule(number=ANY)
    def a_deadline_passes(self, number: int) -> None:
        job = self.one(number, "cancelling")
        self.backdate(job, "cancel_deadline", LONG_AGO)
        job.deadline_is_over = True

    @precondition(lambda self: self.those("queued"))
    @rule(number=ANY)
    def a_delay_is_over(self, number: int) -> None:
        job = self.one(number, "queued")
        if job.due is None:
            self.backdate(job, "run_at", "now")
            job.due = next(self.clock)

    @rule(limit=st.integers(1, 3))
    def reap(self, limit: int) -> None:
        response = self.work("worker_reap", limit=limit)
        assert response == self.reaped(limit)

    def reaped(self, limit: int) -> dict[str, int]:
        now = next(self.clock)
        counts = {"released": 0, "failed": 0, "cancelled": 0}
        dead = [job for job in self.jobs if job.status in LEASED and (job.lease_is_over or job.deadline_is_over)]
        for job in sorted(dead, key=lambda job: job.id)[:limit]:
            reason = "lease_expired" if job.lease_is_over else "cancel_deadline"
            if job.status == "cancelling":
                job.move("expire", "reaper", reason)
                counts["cancelled"] += 1
                continue
            job.attempts, job.due = job.attempts + 1, now
            is_last = job.attempts >= MAX_ATTEMPTS[CANCEL[job.family]]
            job.move("fail" if is_last else "release", "reaper", reason)
            counts["failed" if is_last else "released"] += 1
            if is_last:
                job.error = {"code": "worker_lost", "message": "The worker stopped responding too often."}
        return counts

    # What nobody may do but by a move: plain SQL

    @rule(
        person=st.sampled_from(["owner", "stranger", "signed_out", "server"]),
        number=ANY,
        move=LEGAL | st.tuples(st.sampled_from(sorted(MOVES)), st.sampled_from(STATUSES)),
    )
    def plain_update(self, person: str, number: int, move: tuple[str, str]) -> None:
        job, (event, status) = self.one(number), move
        if status == job.status:
            return
        lease_token = ", leased_by = 'w3', lease_seconds = 3600" if person == "server" else ""
        response = self.by(person).attempt(
            f"update app.executions set status = %s, event = %s, reason = null{lease_token}"
            " where id = %s returning status",
            (status, event, job.id),
        )
        if person != "server" and (person == "signed_out" or self.agency(person) != job.agency):
            assert response == []
        elif (
            MOVES[event].get(job.status) != status
            or (person != "server" and event not in USERS_EVENTS)
            or (event in USERS_EVENTS and event != CANCEL[job.family])
        ):
            assert said(response) == (409, "invalid_transition", {"current_status": job.status})
        else:
            assert response == [{"status": status}]
            by_worker = "worker:w3" if event == "claim" else job.worker or ""
            job.move(event, self.actor(person) if event in USERS_EVENTS else by_worker)
            if event == "claim":
                self.claims.append((job, job.lease_token))
            if status == "cancelling":
                self.backdate(job, "cancel_deadline", NEVER)

    # What holds after every step

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        assert {row["id"]: row for row in self.database.all(ROWS)} == {job.id: job.row() for job in self.jobs}
        audit: dict[str, list[Any]] = {job.id: [] for job in self.jobs}
        for row in self.database.all(EVENTS):
            audit[row.pop("id")].append(tuple(row.values()))
        assert audit == {job.id: job.audit for job in self.jobs}
        stored = {(row["connection"], row["key"]): (row["job"], row["data"]) for row in self.database.all(RECORDS)}
        assert stored == self.records
        counted = {row.pop("id"): tuple(row.values()) for row in self.database.all(COUNTS)}
        assert counted == {job.id: ("flights", *job.counts) for job in self.jobs if job.counts}

    @invariant()
    def every_invariant_holds(self) -> None:
        self.database.check_invariants()

    def teardown(self) -> None:
        """Whatever happened before: when all workers are dead, one tick later each execution has ended or waits."""
        for job in self.jobs:
            if job.status in LEASED:
                self.backdate(job, "lease_expires_at", LONG_AGO)
                job.lease_is_over = True
        assert self.work("worker_reap", limit=1000) == self.reaped(1000)
        assert {job.status for job in self.jobs}.isdisjoint(LEASED)
        self.it_is_as_the_model_says()
        for job in self.jobs:
            if job.status == "queued" and job.due is None:
                self.backdate(job, "run_at", "now")
        waiting = {job.id for job in self.jobs if job.status == "queued"}
        claimed = self.work(
            "worker_claim", worker="w", families=["historical_sync", self.two_steps], max_executions=100
        )
        assert {execution["id"] for execution in claimed} == waiting
        self.database.check_invariants()


def said(response: Any) -> Any:
    """The answer's JSON, or (status, code, members)."""
    if isinstance(response, SqlError):
        return int(response.sqlstate.removeprefix("PT")), response.code, response.details
    return response[0]["result"]


def verdict(job: Job, is_heard: bool) -> str:
    return {"running": "continue", "cancelling": "cancel"}[job.status] if is_heard else "lost"


@pytest.mark.parametrize("family", TWO_STEPS)
def test_state_machine__random_calls_match_the_model(
    clone: Callable[[], AbstractContextManager[Database]], family: str
) -> None:
    machines: list[Machine] = []
    with clone() as database, database.session(database.member().claims) as people, database.worker() as server:

        class Here(Machine):
            two_steps = family

            def __init__(self) -> None:
                super().__init__(database, people, server)
                machines.append(self)

        run_state_machine_as_test(Here, settings=SETTINGS)
    assert {event for machine in machines for job in machine.jobs for event, *_ in job.audit} == {"start", *MOVES}
