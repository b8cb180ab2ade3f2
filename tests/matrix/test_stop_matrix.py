"""DELETE /sync-job-run/{id}, whatever the run and its receiver are doing, with a real worker: what it answers, what it
leaves behind, and that nothing follows.

Nothing is timed. What was fetched and delivered is read from the source's and the receiver's own logs, when the answer
is there and once more when the worker has said that it has ended and the run's last event has arrived.
"""

from __future__ import annotations

import random
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from functions._local.postgres import free_port
from functions._local.worker_process import WorkerProcess
from functions.sync_job_run.get_sync_job_run import SyncJobRun
from tests.support.project import Backend, Project, Setup, refusal
from tests.support.sync_job_runs import (
    ACCOUNTS,
    CONTACTS,
    LIST_ACCOUNTS,
    LIST_CONTACTS,
    Asked,
    Client,
    Gate,
    Receiver,
    Tree,
    WebhookMessage,
    accepted,
    deliveries,
    stored,
)
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import httpx

    from tests.support.database import Database

# The published table of the answer's members, and of those of its sync_job.
MEMBERS = {
    "id", "args", "resources", "sync_job_id", "integrated_account_id", "status", "daemon_id", "daemon_group_key",
    "webhook_id", "error_handling", "ignore_previous_run", "version", "resource_stats", "created_at", "updated_at",
    "started_at", "finished_at", "sync_job",
}  # fmt: skip
JOB_MEMBERS = {"id", "integration_name", "args_schema", "resources", "environment_id", "created_at", "updated_at"}

PAGE = 2
DESTINATIONS = ["stored", "delivered"]
CONTACTS_TOO = [LIST_ACCOUNTS, LIST_CONTACTS]


class Stand:
    """A project with its functions over HTTP, a source, a receiver, and workers in processes of their own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._exit = ExitStack()
        self.source = self._exit.enter_context(Tree())
        self.receiver = self._exit.enter_context(Receiver())
        backend = Backend(database, "ES256")
        self._exit.callback(backend.close)
        self.project = self._exit.enter_context(Project(Setup(), backend))
        self.worker = self.another_worker()
        self.gates: list[Gate] = []

    def another_worker(self, **options: str) -> WorkerProcess:
        quick = {"WORKER_LEASE_SECONDS": "3600", "WORKER_HEARTBEAT_SECONDS": "0.1", "WORKER_TICK_SECONDS": "0.05"}
        private = {"WORKER_ALLOW_PRIVATE_ADDRESSES": "true"}
        url = self.database.login("authenticator")
        made = WorkerProcess(log=True, DATABASE_URL=url, **(quick | private | options))
        self._exit.callback(made.close)
        self._exit.callback(self.go_on, made)
        return made

    def gate(self) -> Gate:
        self.gates.append(Gate())
        return self.gates[-1]

    def reset(self) -> None:
        self.source.before = lambda _: None
        self.receiver.answer = lambda _: None
        for gate in self.gates:
            gate.open()
        self.go_on(self.worker)

    def hold(self, worker: WorkerProcess) -> None:
        """Stopped where it stands; what it has begun in the database has ended or will without it."""
        worker.process.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(worker.process.pid).status() == psutil.STATUS_STOPPED)
        busy = (
            "select from pg_stat_activity where state ~ 'active|transaction' and usename = 'authenticator'"
            " and datname = current_database()"
        )
        until(lambda: not self.database.all(busy))

    def go_on(self, worker: WorkerProcess) -> None:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.reset()
        self._exit.close()


@pytest.fixture(scope="module")
def stand(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Stand]:
    with clone() as database:
        made = Stand(database)
        yield made
        made.close()


@pytest.fixture
def scene(stand: Stand) -> Iterator[Scenario]:
    yield Scenario(stand)
    stand.reset()
    stand.database.check_invariants()


@dataclass(frozen=True)
class Left:
    """All there is of a run, and all that others have seen of it."""

    row: dict[str, Any]
    events: list[dict[str, Any]]
    stored: dict[tuple[str, str], Any]
    counts: list[dict[str, Any]]
    deliveries: list[dict[str, Any]]
    fetched: int
    received: int


class Scenario:
    """A user's run on the stand."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.database = stand.database
        self.source, self.receiver = stand.source, stand.receiver
        self.client = Client(stand.project, stand.database.member())
        self.webhook: dict[str, Any] | None = None
        self.begun: list[Asked] = [*self.source.asked]
        self.run_id = ""

    def run(self, destination: str, *resources: Any, url: str | None = None, **members: Any) -> str:
        self.request: dict[str, Any] = {"args": {"since": "2013-01-01"}, "error_handling": "ignore", **members}
        self.job = self.client.job(
            *(resources or [LIST_ACCOUNTS]), label="A", args_schema={"since": {"type": "string"}}
        )
        self.account = self.client.account(self.source.config(PAGE))
        if destination == "delivered":
            self.webhook = self.client.webhook(url or self.receiver.url)
            self.request["webhook_id"] = self.webhook["id"]
        else:
            self.request["daemon_group_key"] = "a group"
        self.run_id = self.client.run(self.job["id"], self.account, **self.request)["id"]
        return self.run_id

    @property
    def fetched(self) -> int:
        """Requests of the source since the scene began."""
        return len(self.source.asked) - len(self.begun)

    @property
    def row(self) -> dict[str, Any]:
        return self.database.execution(self.run_id)

    def left(self) -> Left:
        counts = "select * from app.execution_resources where execution_id = %s order by resource, method"
        return Left(
            self.row,
            self.database.events(self.run_id),
            stored(self.database, self.run_id),
            self.database.all(counts, (self.run_id,)),
            deliveries(self.database, self.run_id),
            self.fetched,
            len(self.received()),
        )

    def received(self) -> list[WebhookMessage]:
        """All but the letter about its end."""
        return [message for message in self.receiver.of(self.run_id) if message.event != "stopped"]

    def stopped(self, *, in_flight: int | None, was: str = "running") -> tuple[Left, Left]:
        """Stops the run and checks the answer, the row and the audit; what there was before and is now."""
        before = self.left()
        response = self.client.stop(self.run_id)
        now = self.left()
        body = accepted(response, SyncJobRun)
        assert now.row["status"] == "cancelled"
        self.check_object(body, now, "stopped")
        assert body["finished_at"] is not None
        assert accepted(self.client.ask("GET", f"/sync-job-run/{self.run_id}"), SyncJobRun) == body

        assert before.row["status"] == was
        actor = f"user:{self.client.user.id}"
        said = (actor, None, response.headers["x-request-id"])
        assert (now.row["actor"], now.row["reason"], now.row["request_id"]) == said
        assert (now.row["cancelled_by"], now.row["cancel_reason"]) == (actor, None)
        assert now.row["lease_token"] == before.row["lease_token"] + 1
        assert now.row["leased_by"] is now.row["lease_expires_at"] is None
        for member in ("seq", "checkpoint", "records", "spec", "started_at", "attempts", "destination_id"):
            assert now.row[member] == before.row[member], member

        [event] = now.events[len(before.events) :]
        moved = (event["from_status"], event["event"], event["to_status"], event["lease_token"])
        assert moved == (was, "cancel", "cancelled", now.row["lease_token"])
        assert (event["actor"], event["reason"], event["request_id"], event["in_flight"]) == (*said, in_flight)
        assert (now.stored, now.counts) == (before.stored, before.counts)

        ended = [one for one in now.deliveries if one["number"] != -1]
        assert not [one for one in now.deliveries if one["status"] == "sending"]
        given_up = [one for one in before.deliveries if one["status"] == "sending"]
        assert len(given_up) == (in_flight or 0)
        assert [(one["id"], "unknown") for one in given_up] == [
            (one["id"], one["status"]) for one in ended if one["id"] in {other["id"] for other in given_up}
        ]
        assert [(one["number"], one["attempts"], one["created_at"]) for one in ended] == [
            (one["number"], one["attempts"], one["created_at"]) for one in before.deliveries
        ]
        if self.webhook and self.webhook["is_active"]:
            assert [one["event"] for one in now.deliveries if one["number"] == -1] == ["sync_job_run:stopped"]
        return before, now

    def check_object(self, body: dict[str, Any], left: Left, status: str) -> None:
        """Each member of the published answer, from what was asked for and from the tables."""
        assert {*body} >= MEMBERS
        assert {*body["sync_job"]} >= JOB_MEMBERS
        row = left.row
        begun = row["started_at"] is not None
        stats: dict[str, Any] = {}
        for one in left.counts:
            counts = {"fetched": one["records"], "persisted": one["inserted"] + one["updated"]}
            stats.setdefault(one["resource"], {})[one["method"]] = counts
        moments = {name: row[name] and row[name].isoformat() for name in ("created_at", "started_at", "finished_at")}
        assert {name: as_utc(body[name]) for name in moments} == {name: as_utc(at) for name, at in moments.items()}
        latest = max(at for at in (row["created_at"], row["started_at"], row["finished_at"]) if at)
        assert as_utc(body["updated_at"]) == as_utc(latest.isoformat())
        rest = {name: value for name, value in body.items() if name not in {*moments, "updated_at"}}
        assert rest == {
            "id": self.run_id,
            "args": self.request["args"],
            "resources": self.request.get("resources") or self.job["resources"],
            "sync_job_id": self.job["id"],
            "integrated_account_id": self.account,
            "environment_id": self.client.user.agency_id,
            "status": status,
            "daemon_id": self.request.get("daemon_group_key") if begun else None,
            "daemon_group_key": self.request.get("daemon_group_key"),
            "webhook_id": self.request.get("webhook_id"),
            "error_handling": self.request["error_handling"],
            "ignore_previous_run": self.request.get("ignore_previous_run", False),
            "version": 3,
            "resource_stats": stats,
            "sync_job": self.job,
        }

    def check_nothing_follows(self, now: Left, *, may_arrive: int = 0, worker: WorkerProcess | None = None) -> None:
        """Once everybody is idle: the run is as the answer found it, but for its last event. `may_arrive`: deliveries
        that had begun and whose request had not reached the receiver yet.
        """
        if now.row["started_at"] and worker:
            assert worker.wait_for("ended", self.run_id)["outcome"] == "lost"
        if self.webhook:
            last = until(self.last_event_settled)
            assert last == "delivered"
        for gate in self.stand.gates:
            gate.open()
        after = self.left()
        assert (after.row, after.events, after.stored, after.counts) == (now.row, now.events, now.stored, now.counts)
        ended = [one for one in now.deliveries if one["number"] != -1]
        assert [one for one in after.deliveries if one["number"] != -1] == ended
        assert after.received - now.received <= may_arrive
        assert len(self.receiver.of(self.run_id, "stopped")) == (1 if self.webhook else 0)
        known = {str(one["id"]) for one in after.deliveries}
        assert {message.id for message in self.receiver.of(self.run_id)} <= known
        if self.webhook:
            [last_letter] = self.receiver.of(self.run_id, "stopped")
            assert last_letter.body["payload"] == self.client.get(self.run_id)
            assert last_letter.is_signed_with(self.webhook["secret"])
        again = self.client.stop(self.run_id)
        assert refusal_of(again) == (400, "not_cancellable", {"current_status": "stopped"})
        assert self.left().events == now.events

    def last_event_settled(self) -> str | None:
        last = deliveries(self.database, self.run_id)[-1]
        return last["status"] if last["number"] == -1 and last["status"] != "queued" else None

    def nothing_fetched_since(self, now: Left) -> None:
        assert self.fetched == now.fetched


def as_utc(text: str | None) -> str | None:
    return datetime.fromisoformat(text).astimezone(UTC).isoformat() if text else None


def refusal_of(response: httpx.Response) -> tuple[int, str, dict[str, Any]]:
    code = response.json()["code"]
    return response.status_code, code, refusal(response, response.status_code, code)


each_destination = pytest.mark.parametrize("destination", DESTINATIONS)


@each_destination
def test_one_that_nobody_has_begun(scene: Scenario, destination: str) -> None:
    scene.stand.hold(scene.stand.worker)
    scene.source.family(4)
    scene.run(destination)
    _, now = scene.stopped(in_flight=None, was="queued")
    assert (now.row["started_at"], now.counts) == (None, [])
    scene.stand.go_on(scene.stand.worker)
    # The next is run, this one is not.
    first, webhook, request, job = scene.run_id, scene.webhook, scene.request, scene.job
    scene.run("stored")
    scene.client.ended(scene.run_id)
    scene.run_id, scene.webhook, scene.request, scene.job = first, webhook, request, job
    scene.begun = scene.begun + [one for one in scene.source.asked if one.resource == ACCOUNTS][-2:]
    scene.check_nothing_follows(now)
    assert scene.row["started_at"] is None


@each_destination
@pytest.mark.parametrize("page", [1, 3])
def test_one_whose_fetch_takes_long(scene: Scenario, destination: str, page: int) -> None:
    gate = scene.stand.gate()
    scene.source.family(9)
    scene.source.before = lambda asked: gate.wait() if asked.page == page else None
    scene.run(destination)
    batches = page - 1 + (destination == "delivered")  # it tells first that it starts
    until(lambda: gate.waiting == 1 and scene.row["seq"] == batches)
    _, now = scene.stopped(in_flight=0 if destination == "delivered" else None)
    assert now.row["records"] == (page - 1) * PAGE
    assert len(now.stored) == ((page - 1) * PAGE if destination == "stored" else 0)
    scene.check_nothing_follows(now, worker=scene.stand.worker)
    scene.nothing_fetched_since(now)


@each_destination
def test_one_among_the_dependants_of_a_record(scene: Scenario, destination: str) -> None:
    gate = scene.stand.gate()
    scene.source.family(6, 3)
    scene.source.before = lambda asked: gate.wait() if (asked.page, asked.query.get("of")) == (2, ["a2"]) else None
    scene.run(destination, *CONTACTS_TOO)
    # Two pages of accounts, two of contacts of a0 and a1 each, one of a2's.
    batches = 2 + 2 + 2 + 1 + (destination == "delivered")
    until(lambda: gate.waiting == 1 and scene.row["seq"] == batches)
    before, now = scene.stopped(in_flight=0 if destination == "delivered" else None)
    assert before.fetched == 2 + 4 + 2
    assert {one["resource"]: one["records"] for one in now.counts} == {ACCOUNTS: 4, CONTACTS: 8}
    scene.check_nothing_follows(now, worker=scene.stand.worker)
    scene.nothing_fetched_since(now)


@each_destination
def test_one_whose_worker_stands_still(scene: Scenario, destination: str) -> None:
    """Wherever that is: it wakes after the answer and tries to go on."""
    scene.source.family(200)
    worker = scene.stand.worker
    scene.run(destination)
    until(lambda: scene.row["seq"] >= 5)
    scene.stand.hold(worker)
    until(lambda: not scene.receiver.under_way[scene.run_id])
    under_way = sum(one["status"] == "sending" for one in deliveries(scene.database, scene.run_id))
    _, now = scene.stopped(in_flight=under_way if destination == "delivered" else None)
    assert now.fetched < 100
    scene.stand.go_on(worker)
    scene.check_nothing_follows(now, may_arrive=under_way, worker=worker)
    assert scene.fetched <= now.fetched + 2  # what stood half-way out of the process, and what that leads to


def delivering(scene: Scenario, answer: Callable[[WebhookMessage], int | None], *, pages: int = 5) -> None:
    """The second page's delivery is answered like this."""
    scene.source.family(pages * PAGE)

    def second(message: WebhookMessage) -> int | None:
        return answer(message) if message.keys[:1] == ["a2"] else None

    scene.receiver.answer = second
    scene.run("delivered")


def test_one_that_delivers_to_a_slow_receiver(scene: Scenario) -> None:
    gate = scene.stand.gate()
    delivering(scene, lambda _: gate.wait())
    until(lambda: gate.waiting == 1 and scene.fetched == 3)  # the next page is fetched meanwhile
    _, now = scene.stopped(in_flight=1)
    assert now.row["records"] == PAGE
    assert [(one["number"], one["status"]) for one in now.deliveries] == [
        (1, "delivered"), (2, "delivered"), (3, "unknown"), (-1, now.deliveries[-1]["status"]),
    ]  # fmt: skip
    scene.check_nothing_follows(now, worker=scene.stand.worker)
    scene.nothing_fetched_since(now)
    assert scene.client.get(scene.run_id)["resource_stats"] == {ACCOUNTS: {"list": {"fetched": 2, "persisted": 2}}}


@pytest.mark.parametrize("status", [500, 503, 429, 404, 302, 400])
def test_one_that_delivers_to_a_failing_receiver(scene: Scenario, status: int) -> None:
    """Between two attempts: 400 is a reason to stop for the first letter alone."""
    delivering(scene, lambda _: status)
    until(lambda: scene.fetched == 3 and [code for _, code in scene.receiver.answered].count(status) >= 1)
    until(lambda: deliveries(scene.database, scene.run_id)[-1]["number"] == 3)
    scene.stand.hold(scene.stand.worker)
    attempts = len([one for one in scene.receiver.of(scene.run_id, "record") if one.keys[:1] == ["a2"]])
    announced = deliveries(scene.database, scene.run_id)[-1]["attempts"]
    _, now = scene.stopped(in_flight=1)
    assert now.row["records"] == PAGE
    scene.stand.go_on(scene.stand.worker)
    scene.check_nothing_follows(now, may_arrive=announced - attempts, worker=scene.stand.worker)
    scene.nothing_fetched_since(now)


def test_one_that_delivers_to_nobody(scene: Scenario) -> None:
    """Nobody listens at its webhook's address; that it was stopped cannot be told either, and is tried later."""
    scene.source.family(9)
    scene.run("delivered", url=f"http://127.0.0.1:{free_port()}/events")
    until(lambda: deliveries(scene.database, scene.run_id) and scene.fetched == 1)  # the first page, meanwhile
    _, now = scene.stopped(in_flight=1)
    assert (now.row["seq"], now.counts) == (0, [])
    assert scene.stand.worker.wait_for("ended", scene.run_id)["outcome"] == "lost"
    last = until(lambda: (one := deliveries(scene.database, scene.run_id)[-1])["attempts"] >= 1 and one)
    assert (last["number"], last["event"], last["status"]) == (-1, "sync_job_run:stopped", "queued")
    assert (scene.row, scene.fetched) == (now.row, now.fetched)
    assert [(one["status"], one["attempts"]) for one in deliveries(scene.database, scene.run_id)[:-1]] == [
        ("unknown", 1)
    ]
    # Its webhook is deleted: then it is given up.
    assert scene.client.ask("DELETE", f"/webhook/{(scene.webhook or {})['id']}").status_code == 200
    assert until(scene.last_event_settled) == "failed"


def test_one_that_waits_for_its_receiver_to_come_back(scene: Scenario) -> None:
    """All attempts have failed: it is queued again, and what it was delivering is given up by that."""
    delivering(scene, lambda _: 500)
    until(lambda: scene.row["status"] == "queued" and scene.row["attempts"] == 1, 60)
    scene.stand.hold(scene.stand.worker)
    if scene.row["status"] == "running":  # it was quick to try again
        pytest.skip("the worker has begun again")
    waiting = scene.left()
    assert [event["in_flight"] for event in waiting.events] == [None, None, 1]
    assert scene.client.get(scene.run_id)["status"] == "running"  # in its API's words: it has begun
    assert (waiting.deliveries[-1]["status"], waiting.deliveries[-1]["attempts"]) == ("unknown", 3)
    _, now = scene.stopped(in_flight=None, was="queued")
    scene.stand.go_on(scene.stand.worker)
    scene.check_nothing_follows(now)
    scene.nothing_fetched_since(now)


@each_destination
@pytest.mark.parametrize("end", ["completed", "failed", "stopped"])
def test_one_that_has_ended(scene: Scenario, destination: str, end: str) -> None:
    scene.source.family(3)
    gate = scene.stand.gate()
    if end == "failed":
        scene.source.before = lambda _: 404
    elif end == "stopped":
        scene.source.before = lambda _: gate.wait()
    scene.run(destination, error_handling="fail_fast")
    if end == "stopped":
        until(lambda: gate.waiting)
        accepted(scene.client.stop(scene.run_id), SyncJobRun)
    run = scene.client.ended(scene.run_id)
    assert run["status"] == end
    if destination == "delivered":
        until(scene.last_event_settled)
    before = scene.left()
    scene.check_object(run, before, end)
    for _ in range(2):
        with scene.stand.project.unchanged():
            assert refusal_of(scene.client.stop(scene.run_id)) == (400, "not_cancellable", {"current_status": end})
    assert scene.client.get(scene.run_id) == run
    if destination == "delivered":
        assert scene.receiver.events(scene.run_id)[-1] == end
        assert scene.receiver.of(scene.run_id)[-1].body["payload"] == run


def test_one_that_is_not_the_callers(scene: Scenario) -> None:
    gate = scene.stand.gate()
    scene.source.family(9)
    scene.source.before = lambda asked: gate.wait() if asked.page == 2 else None
    scene.run("stored")
    until(lambda: gate.waiting == 1 and scene.row["seq"] == 1)
    stranger, of_none = scene.client.other(), Client(scene.stand.project, scene.database.user(None))
    other_ids = [scene.job["id"], scene.account, str(uuid.uuid4())]
    scene.stand.hold(scene.stand.worker)  # its heartbeats would be changes
    with scene.stand.project.unchanged():
        assert refusal_of(stranger.stop(scene.run_id)) == (404, "sync_job_run_not_found", {})
        assert refusal_of(of_none.stop(scene.run_id))[:2] == (403, "no_agency")
        for run_id in other_ids:
            assert refusal_of(scene.client.stop(run_id)) == (404, "sync_job_run_not_found", {})
        for malformed in ("x", scene.run_id + "0", "%00", scene.run_id.replace("-", "")[:31]):
            assert refusal_of(scene.client.stop(malformed)) == (404, "not_found", {})
        refusal(scene.stand.project.request("DELETE", f"/sync-job-run/{scene.run_id}"), 401, "missing_token")
    assert scene.row["status"] == "running"
    scene.stopped(in_flight=None)


def test_the_same_key_gives_the_same_answer(scene: Scenario) -> None:
    """A 200 that was lost on the way can be asked for again; another key finds the run stopped."""
    gate = scene.stand.gate()
    scene.source.family(9)
    scene.source.before = lambda asked: gate.wait() if asked.page == 2 else None
    scene.run("stored")
    until(lambda: gate.waiting == 1 and scene.row["seq"] == 1)
    once = {"headers": {"idempotency-key": "one"}}
    first = accepted(scene.client.stop(scene.run_id, **once), SyncJobRun)
    assert first["status"] == "stopped"
    for _ in range(2):
        assert accepted(scene.client.stop(scene.run_id, **once), SyncJobRun) == first
    assert refusal_of(scene.client.stop(scene.run_id))[1] == "not_cancellable"
    assert refusal_of(scene.client.stop(scene.run_id, headers={"idempotency-key": "two"}))[1] == "not_cancellable"
    other = scene.client.run(scene.job["id"], scene.account, **scene.request)["id"]
    assert refusal_of(scene.client.stop(other, **once))[:2] == (422, "idempotency_key_reused")
    assert accepted(scene.client.stop(other), SyncJobRun)["status"] == "stopped"
    assert [event["event"] for event in scene.database.events(scene.run_id)].count("cancel") == 1


def test_one_that_has_to_wait_for_a_batch_is_answered_with_that_batch(scene: Scenario) -> None:
    """The answer is not older than what it waited for."""
    scene.stand.hold(scene.stand.worker)
    scene.source.family(9)
    scene.run("stored")
    with scene.database.worker() as worker, ThreadPoolExecutor(1) as pool:
        claimed = worker.claim(3600, "sync_job_run")
        assert claimed["id"] == scene.run_id
        with worker.connection.transaction():
            worker.call(
                "worker_commit_batch",
                execution_id=scene.run_id,
                lease_token=claimed["lease_token"],
                seq=1,
                resource=ACCOUNTS,
                records=[{"key": "a", "data": {}}],
                checkpoint={},
                progress={},
            )
            answer = pool.submit(scene.client.stop, scene.run_id)
            until(lambda: scene.database.all("select from pg_locks where not granted"))
        body = accepted(answer.result(), SyncJobRun)
    assert body["resource_stats"] == {ACCOUNTS: {"list": {"fetched": 1, "persisted": 1}}}
    scene.check_object(body, scene.left(), "stopped")


@each_destination
@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_records_dependants_at_any_moment(scene: Scenario, destination: str, seed: int) -> None:
    chosen = random.Random(f"{destination} {seed}").randint(1, 150)
    scene.source.family(1000, 2)
    scene.run(destination, *CONTACTS_TOO)
    until(lambda: scene.fetched >= chosen)
    response = scene.client.stop(scene.run_id)
    now = scene.left()
    body = accepted(response, SyncJobRun)
    scene.check_object(body, now, "stopped")
    event = now.events[-1]
    unknown = [one for one in now.deliveries if one["status"] == "unknown"]
    assert event["in_flight"] == (len(unknown) if destination == "delivered" else None)
    assert not [one for one in now.deliveries if one["status"] == "sending"]

    scene.check_nothing_follows(now, may_arrive=len(unknown), worker=scene.stand.worker)
    # Every page leads to a batch, of which none is taken any more: what was under way, what came of it, and no further.
    assert scene.fetched <= now.fetched + 2
    # What is counted is what is there.
    persisted = sum(method["list"]["persisted"] for method in body["resource_stats"].values())
    delivered = [one for one in now.deliveries if one["status"] == "delivered"]
    if destination == "stored":
        assert persisted == len(now.stored)
    else:
        assert persisted == sum(one["records"] for one in delivered)
        told = {message.id: message for message in scene.receiver.of(scene.run_id, "record")}
        assert persisted == sum(len(told[str(one["id"])].keys) for one in delivered if str(one["id"]) in told)


def test_the_family_table_is_whole(stand: Stand) -> None:
    """The scenes above speak of every status that a run can be stopped in."""
    [family] = stand.database.all("select * from app.families where family = 'sync_job_run'")
    assert (family["cancel_event"], family["cancelling"], family["foreign_status"]) == ("cancel", None, 404)
    assert [family[name] for name in ("queued", "running", "completed", "failed", "cancelled")] == [
        "created", "running", "completed", "failed", "stopped",
    ]  # fmt: skip
