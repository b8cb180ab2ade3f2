"""Random calls by random users, workers and the reaper, compared with a model (`Job.apply` and the table NEXT_STATUS).

After every step, rows, audit and records match the model, each response is the one that it predicts, and every
invariant holds. STATE_MACHINE_EXAMPLES=5000 searches with other seeds. Without it, every run is the same.
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
    phases=[Phase.generate, *([Phase.shrink] if LONGER else [])],  # shrinking an example takes minutes
)

NEXT_STATUS = {  # by event and status
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
PUBLIC_STATUSES = {"queued": "pending", "running": "in_progress"}  # of a historical sync; the others keep their names
MAX_ATTEMPTS = {"cancel": 5, "request_cancel": 2}  # by how its family is cancelled
NOWHERE = "00000000-0000-4000-8000-000000000000"
NEVER, LONG_AGO = "2999-01-01", "2001-01-01"
ERROR = {"code": "gone", "message": "The source is gone."}


@dataclass
class Job:
    """The model of an execution. `due` orders the queue; None means that it is delayed."""

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

    def apply(self, event: str, actor: str, reason: str | None = None) -> None:
        before, self.status = self.status, NEXT_STATUS[event][self.status]
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
    def target(self) -> str:
        """The connection that stores its records."""
        return self.destination or self.connection

    @property
    def is_over(self) -> bool:
        return self.status not in ACTIVE

    @property
    def public_status(self) -> str:
        if self.family == "historical_sync":
            is_requeued = self.status == "queued" and self.has_begun
            return "in_progress" if is_requeued else PUBLIC_STATUSES.get(self.status, self.status)
        in_two_steps = {
            "queued": "running" if self.has_begun else "created",
            "cancelling": "canceling",
            "cancelled": "canceled",
        }
        return in_two_steps.get(self.status, self.status)

    def row(self) -> dict[str, Any]:
        """The columns that the model predicts."""
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
BOTH = ["historical_sync", "two_steps"]  # the second stands for the family under test
CLAIMED = st.sampled_from([BOTH, BOTH, BOTH, BOTH[:1], BOTH[1:], ["bulk_action"], []])
REASONS = st.sampled_from([None, "wrong range", "日本 🛑"])
ANY = st.integers(0, 99)  # selects an element
KEYS = st.lists(st.sampled_from("abcd"), max_size=3)
STATUSES = ["queued", "running", "cancelling", "completed", "failed", "cancelled"]
LEGAL = st.sampled_from([(event, status) for event in NEXT_STATUS for status in NEXT_STATUS[event].values()])
USERS_EVENTS = ("cancel", "request_cancel")


class Machine(RuleBasedStateMachine):
    two_steps = "bulk_sync"

    def __init__(self, database: Database, people: Session, server: Session) -> None:
        super().__init__()
        self.database = database
        self.people, self.server = people, server
        self.jobs: list[Job] = []
        self.claims: list[tuple[Job, int]] = []  # every lease so far
        self.records: dict[tuple[str, str], tuple[str, Any]] = {}
        self.clock = itertools.count()

    @initialize(bulk_syncs=st.integers(0, 3), claimed=st.integers(0, 6), cancelling=st.integers(0, 3))
    def a_project(self, bulk_syncs: int, claimed: int, cancelling: int) -> None:
        with self.database.admin.transaction():  # without the triggers, which reject it
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
        for job in [job for job in self.with_status("running") if job.family == self.two_steps][:cancelling]:
            self.cancel("server", self.jobs.index(job), None)

    # Callers, and the errors that depend on the caller only

    def session_of(self, person: str) -> Session:
        if person == "server":
            return self.server
        self.people.set_claims(self.users[person].claims)
        return self.people

    def call(self, person: str, name: str, /, **arguments: Any) -> Any:
        """The result, or (status, code, details) of an error."""
        return result_or_error(self.session_of(person).attempt(*rpc(name, **arguments)))

    def call_worker(self, name: str, /, **arguments: Any) -> Any:
        return self.call("server", name, **arguments)

    def agency(self, person: str) -> str | None:
        return self.users[person].agency_id if person in self.users else None

    def actor(self, person: str) -> str:
        return "service_role" if person == "server" else f"user:{self.users[person].id}"

    def error_for(self, person: str, agency: str | None, noun: str = "job", status: int = 403) -> Any:
        """The error that this person gets for every row of this agency (None: the row does not exist)."""
        if person == "signed_out":
            return (401, "revoked_token", {})
        if person == "without_agency":
            return (403, "no_agency", {})
        if agency is None:
            return (404, f"{noun}_not_found", {})
        if person != "server" and self.agency(person) != agency:
            return (status, f"{noun}_{'of_another_agency' if status == 403 else 'not_found'}", {})
        return None

    def with_status(self, *statuses: str) -> list[Job]:
        return [job for job in self.jobs if job.status in statuses]

    def pick(self, number: int, *statuses: str) -> Job:
        jobs = self.with_status(*statuses or STATUSES)
        return jobs[number % len(jobs)]

    def active(self, connection: str) -> Job | None:
        found = [j for j in self.jobs if j.family == "historical_sync" and j.connection == connection and not j.is_over]
        return found[0] if found else None

    def backdate(self, job: Job, column: str, to: str) -> None:
        """Changes a column that only time may change, without the triggers, which reject it."""
        with self.database.admin.transaction():
            self.database.admin.execute("set local session_replication_role = replica")
            self.database.admin.execute(f"update app.executions set {column} = %s where id = %s", (to, job.id))

    # Rules: users

    @rule(person=PEOPLE, number=ANY)
    def start(self, person: str, number: int) -> None:
        connection, agency = self.connections[number % len(self.connections)]
        response = self.call(
            person, "start_historical_sync", connection_id=connection, date_from="2013-01-01", date_to="2013-01-31"
        )
        active = self.active(connection)
        if error := self.error_for(person, agency, "connection"):
            assert response == error
        elif active:
            assert response == (409, "already_active", {"job_id": active.id})
        else:
            assert response["status"] == "pending"
            self.started(response["job_id"], "historical_sync", agency, connection, self.actor(person))

    @rule(number=ANY)
    def start_in_two_steps(self, number: int) -> None:
        """Without a definition. Every second one writes to the destination that the agency's others write to."""
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
        job = self.pick(number)
        if job.family == "historical_sync":
            response = self.call(person, "cancel_sync_job", job_id=job.id, reason=reason)
        else:
            assert self.call(person, "cancel_sync_job", job_id=job.id) == self.error_for(person, None)
            query = "select to_jsonb(app.cancel_execution(%s, %s, %s)) as result"
            response = result_or_error(self.session_of(person).attempt(query, (job.family, job.id, reason)))
        if error := self.error_for(person, job.agency, status=403 if job.family == "historical_sync" else 404):
            assert response == error
        elif job.status == "cancelling":  # cancelled before
            assert (response["status"], response["cancelled_by"]) == ("cancelling", job.canceller)
        elif job.status not in NEXT_STATUS[CANCEL[job.family]]:
            assert response == (400, "not_cancellable", {"current_status": job.public_status})
        else:
            job.apply(CANCEL[job.family], self.actor(person), reason)
            assert response["status"] == job.status
            if job.status == "cancelling":
                self.backdate(job, "cancel_deadline", NEVER)

    @precondition(lambda self: self.with_status("running"))
    @rule(number=ANY, reason=REASONS)
    def cancel_running(self, number: int, reason: str | None) -> None:
        self.cancel("owner", self.jobs.index(self.pick(number, "running")), reason)

    @rule(person=PEOPLE, number=ANY)
    def retry(self, person: str, number: int) -> None:
        job = self.pick(number)
        response = self.call(person, "retry_historical_sync", job_id=job.id)
        active = self.active(job.connection)
        if error := self.error_for(person, job.agency if job.family == "historical_sync" else None):
            assert response == error
        elif job.status not in ("failed", "cancelled"):
            assert response == (400, "not_retryable", {"current_status": job.public_status})
        elif active:
            assert response == (409, "already_active", {"job_id": active.id})
        else:
            assert (response["status"], response["retry_of"]) == ("pending", job.id)
            self.started(response["job_id"], job.family, job.agency, job.connection, self.actor(person), job)

    @rule(person=PEOPLE, number=ANY)
    def read(self, person: str, number: int) -> None:
        job = self.pick(number)
        response = self.call(person, "get_historical_sync", job_id=job.id)
        if error := self.error_for(person, job.agency if job.family == "historical_sync" else None):
            assert response == error
        else:
            assert (response["status"], response["progress"]["records"]) == (job.public_status, job.records)
        assert self.call(person, "cancel_sync_job", job_id=NOWHERE) == self.error_for(person, None)
        listed = self.call(person, "list_historical_syncs", limit=100)
        if error := self.error_for(person, self.agency(person) or "any"):
            assert listed == error
        else:
            mine = [j for j in self.jobs if j.family == "historical_sync" and self.error_for(person, j.agency) is None]
            assert {j["job_id"]: j["status"] for j in listed["jobs"]} == {j.id: j.public_status for j in mine}

    # Rules: workers

    @rule(worker=WORKERS, families=CLAIMED, limit=st.integers(1, 4))
    def claim(self, worker: str, families: list[str], limit: int) -> None:
        families = [self.two_steps if family == "two_steps" else family for family in families]
        response = self.call_worker(
            "worker_claim", worker=worker, families=families, max_executions=limit, lease_seconds=3600
        )
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
            job.apply("claim", f"worker:{worker}")
            self.claims.append((job, job.lease_token))
        return taken

    def lease(self, number: int) -> tuple[Job, dict[str, Any], bool]:
        """A lease, sometimes a lost one: the job, the arguments that identify it, and whether it is current."""
        current = [(job, token) for job, token in self.claims if token == job.lease_token and job.status in LEASED]
        some = current if current and number % 4 else self.claims
        job, token = some[number % len(some)]
        return job, {"execution_id": job.id, "lease_token": token}, (job, token) in current

    @precondition(lambda self: self.claims)
    @rule(number=ANY)
    def heartbeat(self, number: int) -> None:
        job, lease, is_current = self.lease(number)
        assert self.call_worker("worker_heartbeat", **lease)["result"] == lease_result(job, is_current)
        job.lease_is_over &= not is_current

    @precondition(lambda self: self.claims)
    @rule(
        number=ANY, offset=st.sampled_from([1, 1, 1, 0, -1, 2]), keys=KEYS, failed=st.integers(0, 2), done=st.booleans()
    )
    def commit_batch(self, number: int, offset: int, keys: list[str], failed: int = 0, done: bool = False) -> None:
        """The next batch (1), the last one again (0), or a wrong one."""
        job, lease, is_current = self.lease(number)
        seq, data = job.seq + offset, {"at": next(self.clock)}
        response = self.call_worker(
            "worker_commit_batch", **lease, seq=seq, resource="flights",
            records=[{"key": key, "data": data} for key in keys],
            checkpoint=data, progress={}, errors=["It has no key."] * failed, done=done,
        )  # fmt: skip
        if is_current and (offset not in (0, 1) or seq == 0):
            assert response == (409, "unexpected_seq", {"expected_seq": job.seq + 1})
            return
        assert response["result"] == lease_result(job, is_current)
        if is_current and offset == 1:
            read = len(keys) + failed
            job.seq, job.records, job.attempts, job.checkpoint = seq, job.records + read, 0, data
            job.lease_is_over = False
            rows = {(job.target, key): (job.id, data) for key in keys}
            new = len(rows.keys() - self.records.keys())
            before = job.counts or (0, 0, 0, 0, False)
            job.counts = (before[0] + read, before[1] + new, before[2] + len(rows) - new, before[3] + failed, done)
            self.records |= rows

    @precondition(lambda self: self.claims)
    @rule(number=ANY, keys=KEYS)
    def commit_next_batch(self, number: int, keys: list[str]) -> None:
        """The most frequent call of a worker."""
        self.commit_batch(number, 1, keys)

    @precondition(lambda self: self.claims)
    @rule(number=ANY)
    def finish(self, number: int) -> None:
        job, lease, is_current = self.lease(number)
        response = self.call_worker("worker_complete", **lease)
        if is_current:
            job.apply("complete", job.worker or "")
            job.error = None
        assert response["result"] == (job.status if is_current else "lost")

    @precondition(lambda self: self.claims)
    @rule(number=ANY, retry=st.booleans())
    def fail(self, number: int, retry: bool) -> None:
        job, lease, is_current = self.lease(number)
        response = self.call_worker("worker_fail", **lease, error=ERROR, retry=retry)
        if is_current:
            event = (
                "acknowledge" if retry and job.status == "cancelling"
                else "release" if retry and job.attempts + 1 < MAX_ATTEMPTS[CANCEL[job.family]]
                else "fail"
            )  # fmt: skip
            job.apply(event, job.worker or "", ERROR["code"])
            if event != "acknowledge":
                job.error, job.attempts, job.due = ERROR, job.attempts + 1, None
                self.backdate(job, "run_at", NEVER)
        assert response["result"] == (job.status if is_current else "lost")

    @precondition(lambda self: self.claims)
    @rule(number=ANY, reason=REASONS)
    def release(self, number: int, reason: str | None) -> None:
        self.release_lease(*self.lease(number), reason)

    @precondition(lambda self: self.with_status("cancelling"))
    @rule(number=ANY, reason=REASONS)
    def acknowledge_cancel(self, number: int, reason: str | None) -> None:
        """The call of a worker that learns of a cancel."""
        job = self.pick(number, "cancelling")
        self.release_lease(job, {"execution_id": job.id, "lease_token": job.lease_token}, True, reason)

    def release_lease(self, job: Job, lease: dict[str, Any], is_current: bool, reason: str | None) -> None:
        response = self.call_worker("worker_release", **lease, reason=reason)
        if is_current:
            job.due = next(self.clock) if job.status == "running" else job.due
            job.apply("acknowledge" if job.status == "cancelling" else "release", job.worker or "", reason)
        assert response["result"] == (job.status if is_current else "lost")

    # Rules: time and the reaper

    @precondition(lambda self: self.with_status(*LEASED))
    @rule(number=ANY)
    def expire_lease(self, number: int) -> None:
        job = self.pick(number, *LEASED)
        self.backdate(job, "lease_expires_at", LONG_AGO)
        job.lease_is_over = True

    @precondition(lambda self: self.with_status("cancelling"))
    @rule(number=ANY)
    def pass_deadline(self, number: int) -> None:
        job = self.pick(number, "cancelling")
        self.backdate(job, "cancel_deadline", LONG_AGO)
        job.deadline_is_over = True

    @precondition(lambda self: self.with_status("queued"))
    @rule(number=ANY)
    def end_delay(self, number: int) -> None:
        job = self.pick(number, "queued")
        if job.due is None:
            self.backdate(job, "run_at", "now")
            job.due = next(self.clock)

    @rule(limit=st.integers(1, 3))
    def reap(self, limit: int) -> None:
        response = self.call_worker("worker_reap", limit=limit)
        assert response == self.reaped(limit)

    def reaped(self, limit: int) -> dict[str, int]:
        now = next(self.clock)
        counts = {"released": 0, "failed": 0, "cancelled": 0}
        dead = [job for job in self.jobs if job.status in LEASED and (job.lease_is_over or job.deadline_is_over)]
        for job in sorted(dead, key=lambda job: job.id)[:limit]:
            reason = "lease_expired" if job.lease_is_over else "cancel_deadline"
            if job.status == "cancelling":
                job.apply("expire", "reaper", reason)
                counts["cancelled"] += 1
                continue
            job.attempts, job.due = job.attempts + 1, now
            is_last = job.attempts >= MAX_ATTEMPTS[CANCEL[job.family]]
            job.apply("fail" if is_last else "release", "reaper", reason)
            counts["failed" if is_last else "released"] += 1
            if is_last:
                job.error = {"code": "worker_lost", "message": "The worker stopped responding too often."}
        return counts

    # Rules: plain SQL, which may change executions only through transitions

    @rule(
        person=st.sampled_from(["owner", "stranger", "signed_out", "server"]),
        number=ANY,
        transition=LEGAL | st.tuples(st.sampled_from(sorted(NEXT_STATUS)), st.sampled_from(STATUSES)),
    )
    def plain_update(self, person: str, number: int, transition: tuple[str, str]) -> None:
        job, (event, status) = self.pick(number), transition
        if status == job.status:
            return
        lease = ", leased_by = 'w3', lease_seconds = 3600" if person == "server" else ""
        response = self.session_of(person).attempt(
            f"update app.executions set status = %s, event = %s, reason = null{lease} where id = %s returning status",
            (status, event, job.id),
        )
        if person != "server" and (person == "signed_out" or self.agency(person) != job.agency):
            assert response == []
        elif (
            NEXT_STATUS[event].get(job.status) != status
            or (person != "server" and event not in USERS_EVENTS)
            or (event in USERS_EVENTS and event != CANCEL[job.family])
        ):
            assert result_or_error(response) == (409, "invalid_transition", {"current_status": job.status})
        else:
            assert response == [{"status": status}]
            by_worker = "worker:w3" if event == "claim" else job.worker or ""
            job.apply(event, self.actor(person) if event in USERS_EVENTS else by_worker)
            if event == "claim":
                self.claims.append((job, job.lease_token))
            if status == "cancelling":
                self.backdate(job, "cancel_deadline", NEVER)

    # Invariants after every step

    @invariant()
    def matches_the_model(self) -> None:
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
    def invariants_hold(self) -> None:
        self.database.check_invariants()

    def teardown(self) -> None:
        """One tick after all workers have died, each execution has ended or is queued."""
        for job in self.jobs:
            if job.status in LEASED:
                self.backdate(job, "lease_expires_at", LONG_AGO)
                job.lease_is_over = True
        assert self.call_worker("worker_reap", limit=1000) == self.reaped(1000)
        assert {job.status for job in self.jobs}.isdisjoint(LEASED)
        self.matches_the_model()
        for job in self.jobs:
            if job.status == "queued" and job.due is None:
                self.backdate(job, "run_at", "now")
        waiting = {job.id for job in self.jobs if job.status == "queued"}
        claimed = self.call_worker(
            "worker_claim", worker="w", families=["historical_sync", self.two_steps], max_executions=100
        )
        assert {execution["id"] for execution in claimed} == waiting
        self.database.check_invariants()


def result_or_error(response: Any) -> Any:
    """The JSON of the response, or (status, code, details) of an error."""
    if isinstance(response, SqlError):
        return int(response.sqlstate.removeprefix("PT")), response.code, response.details
    return response[0]["result"]


def lease_result(job: Job, is_current: bool) -> str:
    return {"running": "continue", "cancelling": "cancel"}[job.status] if is_current else "lost"


@pytest.mark.parametrize("family", TWO_STEPS)
def test_state_machine__random_calls_match_the_model(
    clone: Callable[[], AbstractContextManager[Database]], family: str
) -> None:
    machines: list[Machine] = []
    with clone() as database, database.session(database.member().claims) as people, database.worker() as server:

        class FamilyMachine(Machine):
            two_steps = family

            def __init__(self) -> None:
                super().__init__(database, people, server)
                machines.append(self)

        run_state_machine_as_test(FamilyMachine, settings=SETTINGS)
    assert {event for machine in machines for job in machine.jobs for event, *_ in job.audit} == {"start", *NEXT_STATUS}
