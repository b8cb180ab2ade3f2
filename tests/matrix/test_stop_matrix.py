"""DELETE /sync-job-run/{id} with a real worker, in every state of the run and its receiver: the response, the rows and
events it leaves, and that nothing is fetched, stored or delivered afterwards.

Nothing is timed. What was fetched and delivered is read from the logs of the source and the receiver, once at the
response and once after the worker has logged the end of the run and the run's last event has arrived.
"""

from __future__ import annotations

import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from functions._local.postgres import free_port
from functions.sync_job_run.get_sync_job_run import SyncJobRun
from tests.support.project import Backend, Project, Setup, expect_error
from tests.support.sync_job_runs import (
    ACCOUNTS,
    CONTACTS,
    LIST_ACCOUNTS,
    LIST_CONTACTS,
    Client,
    Gate,
    NestedSource,
    Receiver,
    SourceRequest,
    WebhookMessage,
    accepted,
    deliveries,
    stored,
)
from tests.support.wait import until
from tests.support.workers import SuspendableWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import httpx

    from tests.support.database import Database

# The published fields of the response, and of its sync_job.
FIELDS = {
    "id", "args", "resources", "sync_job_id", "integrated_account_id", "status", "daemon_id", "daemon_group_key",
    "webhook_id", "error_handling", "ignore_previous_run", "version", "resource_stats", "created_at", "updated_at",
    "started_at", "finished_at", "sync_job",
}  # fmt: skip
JOB_FIELDS = {"id", "integration_name", "args_schema", "resources", "environment_id", "created_at", "updated_at"}

PAGE = 2
DESTINATIONS = ["stored", "delivered"]
CONTACTS_TOO = [LIST_ACCOUNTS, LIST_CONTACTS]


class Environment:
    """A project with its functions over HTTP, a source, a receiver, and workers in processes of their own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._exit = ExitStack()
        self.source = self._exit.enter_context(NestedSource())
        self.receiver = self._exit.enter_context(Receiver())
        backend = Backend(database, "ES256")
        self._exit.callback(backend.close)
        self.project = self._exit.enter_context(Project(Setup(), backend))
        self.worker = self._exit.enter_context(SuspendableWorker(database))
        self.gates: list[Gate] = []

    def gate(self) -> Gate:
        self.gates.append(Gate())
        return self.gates[-1]

    def reset(self) -> None:
        self.source.before = lambda _: None
        self.receiver.respond = lambda _: None
        for gate in self.gates:
            gate.open()
        self.worker.resume()

    def close(self) -> None:
        self.reset()
        self._exit.close()


@pytest.fixture(scope="module")
def environment(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Environment]:
    with clone() as database:
        made = Environment(database)
        yield made
        made.close()


@pytest.fixture
def scenario(environment: Environment) -> Iterator[Scenario]:
    yield Scenario(environment)
    environment.reset()
    environment.database.check_invariants()


@dataclass(frozen=True)
class Snapshot:
    """Everything stored about a run, and how many requests the source and the receiver got."""

    row: dict[str, Any]
    events: list[dict[str, Any]]
    stored: dict[tuple[str, str], Any]
    counts: list[dict[str, Any]]
    deliveries: list[dict[str, Any]]
    fetched: int
    received: int


class Scenario:
    """A run of a new user."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.database = environment.database
        self.source, self.receiver = environment.source, environment.receiver
        self.client = Client(environment.project, environment.database.member())
        self.webhook: dict[str, Any] | None = None
        self.earlier_requests: list[SourceRequest] = [*self.source.requests]
        self.run_id = ""

    def run(self, destination: str, *resources: Any, url: str | None = None, **fields: Any) -> str:
        self.request: dict[str, Any] = {"args": {"since": "2013-01-01"}, "error_handling": "ignore", **fields}
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
        """The number of requests to the source since the scenario began."""
        return len(self.source.requests) - len(self.earlier_requests)

    @property
    def row(self) -> dict[str, Any]:
        return self.database.execution(self.run_id)

    def snapshot(self) -> Snapshot:
        counts = "select * from app.execution_resources where execution_id = %s order by resource, method"
        return Snapshot(
            self.row,
            self.database.events(self.run_id),
            stored(self.database, self.run_id),
            self.database.all(counts, (self.run_id,)),
            deliveries(self.database, self.run_id),
            self.fetched,
            len(self.received()),
        )

    def received(self) -> list[WebhookMessage]:
        """The run's webhook messages except the one about its end."""
        return [message for message in self.receiver.of(self.run_id) if message.event != "stopped"]

    def stopped(self, *, in_flight: int | None, was: str = "running") -> tuple[Snapshot, Snapshot]:
        """Stop the run; check the response, the row and the audit; return the snapshots before and after."""
        before = self.snapshot()
        response = self.client.stop(self.run_id)
        now = self.snapshot()
        body = accepted(response, SyncJobRun)
        assert now.row["status"] == "cancelled"
        self.check_object(body, now, "stopped")
        assert body["finished_at"] is not None
        assert accepted(self.client.request("GET", f"/sync-job-run/{self.run_id}"), SyncJobRun) == body

        assert before.row["status"] == was
        actor = f"user:{self.client.user.id}"
        origin = (actor, None, response.headers["x-request-id"])
        assert (now.row["actor"], now.row["reason"], now.row["request_id"]) == origin
        assert (now.row["cancelled_by"], now.row["cancel_reason"]) == (actor, None)
        assert now.row["lease_token"] == before.row["lease_token"] + 1
        assert now.row["leased_by"] is now.row["lease_expires_at"] is None
        for column in ("seq", "checkpoint", "records", "spec", "started_at", "attempts", "destination_id"):
            assert now.row[column] == before.row[column], column

        [event] = now.events[len(before.events) :]
        transition = (event["from_status"], event["event"], event["to_status"], event["lease_token"])
        assert transition == (was, "cancel", "cancelled", now.row["lease_token"])
        assert (event["actor"], event["reason"], event["request_id"], event["in_flight"]) == (*origin, in_flight)
        assert (now.stored, now.counts) == (before.stored, before.counts)

        batches = without_last_event(now.deliveries)
        assert not [delivery for delivery in now.deliveries if delivery["status"] == "sending"]
        sending = {delivery["id"] for delivery in before.deliveries if delivery["status"] == "sending"}
        assert len(sending) == (in_flight or 0)
        assert [delivery["status"] for delivery in batches if delivery["id"] in sending] == ["unknown"] * len(sending)
        kept = ("id", "number", "attempts", "created_at")
        assert [[delivery[name] for name in kept] for delivery in batches] == [
            [delivery[name] for name in kept] for delivery in before.deliveries
        ]
        if self.webhook and self.webhook["is_active"]:
            last_events = [delivery["event"] for delivery in now.deliveries if delivery["number"] == -1]
            assert last_events == ["sync_job_run:stopped"]
        return before, now

    def check_object(self, body: dict[str, Any], snapshot: Snapshot, status: str) -> None:
        """Check each published field against the request and the tables."""
        assert {*body} >= FIELDS
        assert {*body["sync_job"]} >= JOB_FIELDS
        row = snapshot.row
        has_started = row["started_at"] is not None
        stats: dict[str, Any] = {}
        for count in snapshot.counts:
            counts = {"fetched": count["records"], "persisted": count["inserted"] + count["updated"]}
            stats.setdefault(count["resource"], {})[count["method"]] = counts
        times = {name: row[name] and row[name].isoformat() for name in ("created_at", "started_at", "finished_at")}
        assert {name: as_utc(body[name]) for name in times} == {name: as_utc(at) for name, at in times.items()}
        latest = max(at for at in (row["created_at"], row["started_at"], row["finished_at"]) if at)
        assert as_utc(body["updated_at"]) == as_utc(latest.isoformat())
        rest = {name: value for name, value in body.items() if name not in {*times, "updated_at"}}
        assert rest == {
            "id": self.run_id,
            "args": self.request["args"],
            "resources": self.request.get("resources") or self.job["resources"],
            "sync_job_id": self.job["id"],
            "integrated_account_id": self.account,
            "environment_id": self.client.user.agency_id,
            "status": status,
            "daemon_id": self.request.get("daemon_group_key") if has_started else None,
            "daemon_group_key": self.request.get("daemon_group_key"),
            "webhook_id": self.request.get("webhook_id"),
            "error_handling": self.request["error_handling"],
            "ignore_previous_run": self.request.get("ignore_previous_run", False),
            "version": 3,
            "resource_stats": stats,
            "sync_job": self.job,
        }

    def check_nothing_follows(
        self, now: Snapshot, *, may_arrive: int = 0, worker: SuspendableWorker | None = None
    ) -> None:
        """Check, once all processes are idle, that the run is unchanged since the response except for its last event.
        `may_arrive` is the number of deliveries whose request had been sent and had not reached the receiver.
        """
        if now.row["started_at"] and worker:
            assert worker.wait_for("execution ended", self.run_id)["outcome"] == "lost"
        if self.webhook:
            last = until(self.last_event_settled)
            assert last == "delivered"
        for gate in self.environment.gates:
            gate.open()
        after = self.snapshot()
        assert (after.row, after.events, after.stored, after.counts) == (now.row, now.events, now.stored, now.counts)
        assert without_last_event(after.deliveries) == without_last_event(now.deliveries)
        assert after.received - now.received <= may_arrive
        assert len(self.receiver.of(self.run_id, "stopped")) == (1 if self.webhook else 0)
        recorded = {str(delivery["id"]) for delivery in after.deliveries}
        assert {message.id for message in self.receiver.of(self.run_id)} <= recorded
        if self.webhook:
            [last_message] = self.receiver.of(self.run_id, "stopped")
            assert last_message.body["payload"] == self.client.get(self.run_id)
            assert last_message.is_signed_with(self.webhook["secret"])
        again = self.client.stop(self.run_id)
        assert error_of(again) == (400, "not_cancellable", {"current_status": "stopped"})
        assert self.snapshot().events == now.events

    def last_event_settled(self) -> str | None:
        last = deliveries(self.database, self.run_id)[-1]
        return last["status"] if last["number"] == -1 and last["status"] != "queued" else None

    def check_nothing_fetched_since(self, now: Snapshot) -> None:
        assert self.fetched == now.fetched


def as_utc(text: str | None) -> str | None:
    return datetime.fromisoformat(text).astimezone(UTC).isoformat() if text else None


def without_last_event(deliveries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The deliveries except the event about the end of the run."""
    return [delivery for delivery in deliveries if delivery["number"] != -1]


def error_of(response: httpx.Response) -> tuple[int, str, dict[str, Any]]:
    code = response.json()["code"]
    return response.status_code, code, expect_error(response, response.status_code, code)


each_destination = pytest.mark.parametrize("destination", DESTINATIONS)


@each_destination
def test_stop_sync_job_run__not_started(scenario: Scenario, destination: str) -> None:
    scenario.environment.worker.suspend()
    scenario.source.family(4)
    scenario.run(destination)
    _, now = scenario.stopped(in_flight=None, was="queued")
    assert (now.row["started_at"], now.counts) == (None, [])
    scenario.environment.worker.resume()
    # The worker runs the next one and not this one.
    first, webhook, request, job = scenario.run_id, scenario.webhook, scenario.request, scenario.job
    scenario.run("stored")
    scenario.client.ended(scenario.run_id)
    scenario.run_id, scenario.webhook, scenario.request, scenario.job = first, webhook, request, job
    scenario.earlier_requests += [request for request in scenario.source.requests if request.resource == ACCOUNTS][-2:]
    scenario.check_nothing_follows(now)
    assert scenario.row["started_at"] is None


@each_destination
@pytest.mark.parametrize("page", [1, 3])
def test_stop_sync_job_run__during_a_slow_fetch(scenario: Scenario, destination: str, page: int) -> None:
    gate = scenario.environment.gate()
    scenario.source.family(9)
    scenario.source.before = lambda request: gate.wait() if request.page == page else None
    scenario.run(destination)
    batches = page - 1 + (destination == "delivered")  # the first is the event about the start
    until(lambda: gate.waiting == 1 and scenario.row["seq"] == batches)
    _, now = scenario.stopped(in_flight=0 if destination == "delivered" else None)
    assert now.row["records"] == (page - 1) * PAGE
    assert len(now.stored) == ((page - 1) * PAGE if destination == "stored" else 0)
    scenario.check_nothing_follows(now, worker=scenario.environment.worker)
    scenario.check_nothing_fetched_since(now)


@each_destination
def test_stop_sync_job_run__during_a_dependent_fetch(scenario: Scenario, destination: str) -> None:
    gate = scenario.environment.gate()
    scenario.source.family(6, 3)
    scenario.source.before = lambda request: (
        gate.wait() if (request.page, request.query.get("of")) == (2, ["a2"]) else None
    )
    scenario.run(destination, *CONTACTS_TOO)
    # Two pages of accounts, two of contacts of a0 and a1 each, one of a2's.
    batches = 2 + 2 + 2 + 1 + (destination == "delivered")
    until(lambda: gate.waiting == 1 and scenario.row["seq"] == batches)
    before, now = scenario.stopped(in_flight=0 if destination == "delivered" else None)
    assert before.fetched == 2 + 4 + 2
    assert {count["resource"]: count["records"] for count in now.counts} == {ACCOUNTS: 4, CONTACTS: 8}
    scenario.check_nothing_follows(now, worker=scenario.environment.worker)
    scenario.check_nothing_fetched_since(now)


@each_destination
def test_stop_sync_job_run__worker_suspended(scenario: Scenario, destination: str) -> None:
    """The worker is suspended anywhere in its work and resumed after the response."""
    scenario.source.family(200)
    worker = scenario.environment.worker
    scenario.run(destination)
    until(lambda: scenario.row["seq"] >= 5)
    worker.suspend()
    until(lambda: not scenario.receiver.in_progress[scenario.run_id])
    sending = [delivery["status"] for delivery in deliveries(scenario.database, scenario.run_id)].count("sending")
    _, now = scenario.stopped(in_flight=sending if destination == "delivered" else None)
    assert now.fetched < 100
    worker.resume()
    scenario.check_nothing_follows(now, may_arrive=sending, worker=worker)
    assert scenario.fetched <= now.fetched + 2  # a request that was being sent, and the one after it


def start_delivering(scenario: Scenario, respond: Callable[[WebhookMessage], int | None], *, pages: int = 5) -> None:
    """Start a run whose receiver responds to the second page's delivery like this."""
    scenario.source.family(pages * PAGE)

    def second(message: WebhookMessage) -> int | None:
        return respond(message) if message.keys[:1] == ["a2"] else None

    scenario.receiver.respond = second
    scenario.run("delivered")


def test_stop_sync_job_run__during_a_slow_delivery(scenario: Scenario) -> None:
    gate = scenario.environment.gate()
    start_delivering(scenario, lambda _: gate.wait())
    until(lambda: gate.waiting == 1 and scenario.fetched == 3)  # the next page is fetched meanwhile
    _, now = scenario.stopped(in_flight=1)
    assert now.row["records"] == PAGE
    assert [(delivery["number"], delivery["status"]) for delivery in now.deliveries] == [
        (1, "delivered"), (2, "delivered"), (3, "unknown"), (-1, now.deliveries[-1]["status"]),
    ]  # fmt: skip
    scenario.check_nothing_follows(now, worker=scenario.environment.worker)
    scenario.check_nothing_fetched_since(now)
    assert scenario.client.get(scenario.run_id)["resource_stats"] == {
        ACCOUNTS: {"list": {"fetched": 2, "persisted": 2}}
    }


@pytest.mark.parametrize("status", [500, 503, 429, 404, 302, 400])
def test_stop_sync_job_run__during_failing_deliveries(scenario: Scenario, status: int) -> None:
    """The run is stopped between two attempts. A 400 ends a run only if it is the response to the first message."""
    start_delivering(scenario, lambda _: status)
    until(lambda: scenario.fetched == 3 and [code for _, code in scenario.receiver.responses].count(status) >= 1)
    until(lambda: deliveries(scenario.database, scenario.run_id)[-1]["number"] == 3)
    scenario.environment.worker.suspend()
    received = len(
        [message for message in scenario.receiver.of(scenario.run_id, "record") if message.keys[:1] == ["a2"]]
    )
    recorded = deliveries(scenario.database, scenario.run_id)[-1]["attempts"]
    _, now = scenario.stopped(in_flight=1)
    assert now.row["records"] == PAGE
    scenario.environment.worker.resume()
    scenario.check_nothing_follows(now, may_arrive=recorded - received, worker=scenario.environment.worker)
    scenario.check_nothing_fetched_since(now)


def test_stop_sync_job_run__receiver_unreachable(scenario: Scenario) -> None:
    """Nothing listens at the webhook's address. The event about the stop cannot be delivered either and is retried."""
    scenario.source.family(9)
    scenario.run("delivered", url=f"http://127.0.0.1:{free_port()}/events")
    until(lambda: deliveries(scenario.database, scenario.run_id) and scenario.fetched == 1)  # the first page, meanwhile
    _, now = scenario.stopped(in_flight=1)
    assert (now.row["seq"], now.counts) == (0, [])
    assert scenario.environment.worker.wait_for("execution ended", scenario.run_id)["outcome"] == "lost"
    last = until(lambda: (last := deliveries(scenario.database, scenario.run_id)[-1])["attempts"] >= 1 and last)
    assert (last["number"], last["event"], last["status"]) == (-1, "sync_job_run:stopped", "queued")
    assert (scenario.row, scenario.fetched) == (now.row, now.fetched)
    [delivery] = deliveries(scenario.database, scenario.run_id)[:-1]
    assert (delivery["status"], delivery["attempts"]) == ("unknown", 1)
    # Once its webhook is deleted, the event fails.
    assert scenario.client.request("DELETE", f"/webhook/{(scenario.webhook or {})['id']}").status_code == 200
    assert until(scenario.last_event_settled) == "failed"


def test_stop_sync_job_run__queued_after_failed_deliveries(scenario: Scenario) -> None:
    """All attempts have failed. The run is queued again, and its delivery's outcome is unknown."""
    start_delivering(scenario, lambda _: 500)
    until(lambda: scenario.row["status"] == "queued" and scenario.row["attempts"] == 1, 60)
    scenario.environment.worker.suspend()
    if scenario.row["status"] == "running":  # the worker has claimed it again
        pytest.skip("the worker has claimed the run again")
    waiting = scenario.snapshot()
    assert [event["in_flight"] for event in waiting.events] == [None, None, 1]
    assert scenario.client.get(scenario.run_id)["status"] == "running"  # it has started before
    assert (waiting.deliveries[-1]["status"], waiting.deliveries[-1]["attempts"]) == ("unknown", 3)
    _, now = scenario.stopped(in_flight=None, was="queued")
    scenario.environment.worker.resume()
    scenario.check_nothing_follows(now)
    scenario.check_nothing_fetched_since(now)


@each_destination
@pytest.mark.parametrize("end", ["completed", "failed", "stopped"])
def test_stop_sync_job_run__already_terminal(scenario: Scenario, destination: str, end: str) -> None:
    scenario.source.family(3)
    gate = scenario.environment.gate()
    if end == "failed":
        scenario.source.before = lambda _: 404
    elif end == "stopped":
        scenario.source.before = lambda _: gate.wait()
    scenario.run(destination, error_handling="fail_fast")
    if end == "stopped":
        until(lambda: gate.waiting)
        accepted(scenario.client.stop(scenario.run_id), SyncJobRun)
    run = scenario.client.ended(scenario.run_id)
    assert run["status"] == end
    if destination == "delivered":
        until(scenario.last_event_settled)
    before = scenario.snapshot()
    scenario.check_object(run, before, end)
    for _ in range(2):
        with scenario.environment.project.unchanged():
            assert error_of(scenario.client.stop(scenario.run_id)) == (400, "not_cancellable", {"current_status": end})
    assert scenario.client.get(scenario.run_id) == run
    if destination == "delivered":
        assert scenario.receiver.events(scenario.run_id)[-1] == end
        assert scenario.receiver.of(scenario.run_id)[-1].body["payload"] == run


def test_stop_sync_job_run__rejected_callers_and_unknown_ids(scenario: Scenario) -> None:
    gate = scenario.environment.gate()
    scenario.source.family(9)
    scenario.source.before = lambda request: gate.wait() if request.page == 2 else None
    scenario.run("stored")
    until(lambda: gate.waiting == 1 and scenario.row["seq"] == 1)
    stranger, without_agency = (
        scenario.client.other(),
        Client(scenario.environment.project, scenario.database.user(None)),
    )
    other_ids = [scenario.job["id"], scenario.account, str(uuid.uuid4())]
    scenario.environment.worker.suspend()  # its heartbeats would change the row
    with scenario.environment.project.unchanged():
        assert error_of(stranger.stop(scenario.run_id)) == (404, "sync_job_run_not_found", {})
        assert error_of(without_agency.stop(scenario.run_id))[:2] == (403, "no_agency")
        for run_id in other_ids:
            assert error_of(scenario.client.stop(run_id)) == (404, "sync_job_run_not_found", {})
        for malformed in ("x", scenario.run_id + "0", "%00", scenario.run_id.replace("-", "")[:31]):
            assert error_of(scenario.client.stop(malformed)) == (404, "not_found", {})
        expect_error(
            scenario.environment.project.request("DELETE", f"/sync-job-run/{scenario.run_id}"), 401, "missing_token"
        )
    assert scenario.row["status"] == "running"
    scenario.stopped(in_flight=None)


def test_stop_sync_job_run__repeated_with_an_idempotency_key(scenario: Scenario) -> None:
    """A response that was lost is returned again for the same key. With another key the run is already stopped."""
    gate = scenario.environment.gate()
    scenario.source.family(9)
    scenario.source.before = lambda request: gate.wait() if request.page == 2 else None
    scenario.run("stored")
    until(lambda: gate.waiting == 1 and scenario.row["seq"] == 1)
    with_key = {"headers": {"idempotency-key": "one"}}
    first = accepted(scenario.client.stop(scenario.run_id, **with_key), SyncJobRun)
    assert first["status"] == "stopped"
    for _ in range(2):
        assert accepted(scenario.client.stop(scenario.run_id, **with_key), SyncJobRun) == first
    assert error_of(scenario.client.stop(scenario.run_id))[1] == "not_cancellable"
    assert error_of(scenario.client.stop(scenario.run_id, headers={"idempotency-key": "two"}))[1] == "not_cancellable"
    other = scenario.client.run(scenario.job["id"], scenario.account, **scenario.request)["id"]
    assert error_of(scenario.client.stop(other, **with_key))[:2] == (422, "idempotency_key_reused")
    assert accepted(scenario.client.stop(other), SyncJobRun)["status"] == "stopped"
    assert [event["event"] for event in scenario.database.events(scenario.run_id)].count("cancel") == 1


def test_stop_sync_job_run__response_includes_the_batch_it_waited_for(scenario: Scenario) -> None:
    """The stop waits for a batch in another transaction, and its response includes that batch."""
    scenario.environment.worker.suspend()
    scenario.source.family(9)
    scenario.run("stored")
    with scenario.database.worker() as worker, ThreadPoolExecutor(1) as pool:
        claimed = worker.claim(3600, "sync_job_run")
        assert claimed["id"] == scenario.run_id
        with worker.connection.transaction():
            worker.call(
                "worker_commit_batch",
                execution_id=scenario.run_id,
                lease_token=claimed["lease_token"],
                seq=1,
                resource=ACCOUNTS,
                records=[{"key": "a", "data": {}}],
                checkpoint={},
                progress={},
            )
            stop = pool.submit(scenario.client.stop, scenario.run_id)
            until(lambda: scenario.database.all("select from pg_locks where not granted"))
        body = accepted(stop.result(), SyncJobRun)
    assert body["resource_stats"] == {ACCOUNTS: {"list": {"fetched": 1, "persisted": 1}}}
    scenario.check_object(body, scenario.snapshot(), "stopped")


@each_destination
@pytest.mark.parametrize("seed", range(4))
def test_stop_sync_job_run__at_a_random_moment(scenario: Scenario, destination: str, seed: int) -> None:
    """A run with a thousand records, each with two dependants, is stopped after a random number of requests."""
    chosen = random.Random(f"{destination} {seed}").randint(1, 150)
    scenario.source.family(1000, 2)
    scenario.run(destination, *CONTACTS_TOO)
    until(lambda: scenario.fetched >= chosen)
    response = scenario.client.stop(scenario.run_id)
    now = scenario.snapshot()
    body = accepted(response, SyncJobRun)
    scenario.check_object(body, now, "stopped")
    event = now.events[-1]
    unknown = [delivery for delivery in now.deliveries if delivery["status"] == "unknown"]
    assert event["in_flight"] == (len(unknown) if destination == "delivered" else None)
    assert not [delivery for delivery in now.deliveries if delivery["status"] == "sending"]

    scenario.check_nothing_follows(now, may_arrive=len(unknown), worker=scenario.environment.worker)
    # Each page leads to a batch, and no batch is accepted any more: at most the request under way and one after it.
    assert scenario.fetched <= now.fetched + 2
    # The counts equal the records that are stored or delivered.
    persisted = sum(method["list"]["persisted"] for method in body["resource_stats"].values())
    delivered = [delivery for delivery in now.deliveries if delivery["status"] == "delivered"]
    if destination == "stored":
        assert persisted == len(now.stored)
    else:
        assert persisted == sum(delivery["records"] for delivery in delivered)
        received = {message.id: message for message in scenario.receiver.of(scenario.run_id, "record")}
        delivered_ids = {str(delivery["id"]) for delivery in delivered}
        assert persisted == sum(len(received[message_id].keys) for message_id in delivered_ids & {*received})


def test_stop_matrix__covers_every_status(environment: Environment) -> None:
    """The tests above cover every status in which a run can be stopped."""
    [family] = environment.database.all("select * from app.families where family = 'sync_job_run'")
    assert (family["cancel_event"], family["cancelling"], family["foreign_status"]) == ("cancel", None, 404)
    assert [family[name] for name in ("queued", "running", "completed", "failed", "cancelled")] == [
        "created", "running", "completed", "failed", "stopped",
    ]  # fmt: skip
