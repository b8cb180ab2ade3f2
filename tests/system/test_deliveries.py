"""Deliveries to webhooks: in order, one at a time, signed, retried, and never started after the end of the run.

The engine, the outbox and the database are real, and the receiver is an HTTP server.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from functions._local.postgres import free_port
from functions._local.worker_process import WorkerProcess
from functions._shared.transports.postgres import PostgresTransport
from functions.worker import engine, outbox
from functions.worker.client import WorkerClient, service_caller
from functions.worker.connectors import open_source, webhook
from functions.worker.connectors.http.network import make_client
from functions.worker.engine import Engine, Signals
from functions.worker.outbox import Outbox
from functions.worker.runners import RUNNERS, bind_source
from tests.support.sync_job_runs import ACCOUNTS, LIST_ACCOUNTS, NestedSource, Receiver, WebhookMessage, deliveries
from tests.support.wait import eventually, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from functions.worker.client import Execution
    from tests.support.database import Database, User

NO_CHECK = object()
NEVER = 3600.0
PAGE = 2


class Scenario:
    """One agency's runs with a webhook, and the parts of a worker that a test calls."""

    def __init__(self, database: Database, source: NestedSource, receiver: Receiver) -> None:
        self.database = database
        self.source = source
        self.receiver = receiver
        self.user: User = database.member()
        self.webhook: dict[str, Any] = {}
        self.client = WorkerClient(PostgresTransport(database.login("authenticator")), service_caller(""))
        self._runners = bind_source(partial(open_source, allow_private_addresses=True), RUNNERS)

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Call a function as the agency's user."""
        with self.database.session(self.user.claims) as session:
            return session.call(name, **arguments)

    def run(self, *resources: Any, receives: dict[str, Any] | None = None, **members: Any) -> str:
        """Create a queued run with a webhook of its own."""
        self.webhook = self.call("create_webhook", **{"target_url": self.receiver.url, **(receives or {})})
        job = self.call("create_sync_job", resources=[*(resources or [LIST_ACCOUNTS])])
        account = self.database.connection(self.user.agency_id, config=self.source.config(PAGE))
        ids = {"sync_job_id": job["id"], "integrated_account_id": account, "webhook_id": self.webhook["id"]}
        return str(self.call("create_sync_job_run", **ids, **members)["id"])

    async def claim(self, lease_seconds: int = 3600) -> Execution:
        [execution] = await self.client.claim("w", ["sync_job_run"], 1, lease_seconds)
        return execution

    async def _work(self, signals: Signals, *, lease_seconds: int = 3600, heartbeat_seconds: float = NEVER) -> str:
        async with make_client(allow_private_addresses=True) as client:
            made = Engine(self.client, heartbeat_seconds, None, partial(webhook.send, client=client))
            return await made.run(await self.claim(lease_seconds), self._runners["sync_job_run"], signals)

    def work(self) -> str:
        """Run the queued run. Return how it ended."""
        return asyncio.run(self._work(Signals()))

    def run_until(self, condition: Callable[[], Any], then: Callable[[], Any], **options: Any) -> str:
        """Run the queued run and call `then` as soon as the condition is true."""

        async def both() -> str:
            signals = Signals()
            working = asyncio.create_task(self._work(signals, **options))
            await eventually(condition)
            if await asyncio.to_thread(then) is not NO_CHECK:
                signals.check_now.set()
            return await working

        return asyncio.run(both())

    def send(self, *, times: int = 1) -> None:
        """Claim and send due events, `times` times."""

        async def sending() -> None:
            async with make_client(allow_private_addresses=True) as client:
                box = Outbox(self.client, partial(webhook.send, client=client))
                for _ in range(times):
                    events = await self.client.claim_events(outbox.MAX_EVENTS)
                    await asyncio.gather(*map(box._send, events))

        asyncio.run(sending())

    def end_waits(self, run_id: str) -> None:
        """End all waits for a retry."""
        with self.database.connect() as connection:
            connection.execute("set session_replication_role = replica")  # no guard
            connection.execute(
                "update app.executions set run_at = now() where id = %s and status = 'queued'", (run_id,)
            )
            connection.execute(
                "update app.deliveries set due_at = now() where execution_id = %s and status = 'queued'", (run_id,)
            )

    def status(self, run_id: str) -> Any:
        return self.call("get_sync_job_run", run_id=run_id)["status"]

    def stats(self, run_id: str) -> Any:
        return self.call("get_sync_job_run", run_id=run_id)["resource_stats"]

    def deliveries(self, run_id: str) -> list[tuple[int, str, str, int, int]]:
        return [
            (one["number"], one["event"].removeprefix("sync_job_run:"), one["status"], one["attempts"], one["records"])
            for one in deliveries(self.database, run_id)
        ]

    def events_in_flight(self, run_id: str) -> list[tuple[str, int | None]]:
        return [(event["event"], event["in_flight"]) for event in self.database.events(run_id)]


@pytest.fixture
def scenario(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scenario]:
    monkeypatch.setattr(engine, "DELIVERY_WAITS_SECONDS", (0.0, 0.0))
    with NestedSource() as source, Receiver() as receiver:
        made = Scenario(database, source, receiver)
        yield made
        asyncio.run(made.client.aclose())


def keys(*numbers: int) -> list[str]:
    return [f"a{number}" for number in numbers]


# Without failures


def test_deliver__in_order_one_at_a_time_and_signed(scenario: Scenario) -> None:
    scenario.source.family(5)
    run_id = scenario.run()
    assert scenario.work() == "completed"
    scenario.send()

    messages = scenario.receiver.of(run_id)
    assert [(message.event, message.keys) for message in messages] == [
        ("started", []), ("record", keys(0, 1)), ("record", keys(2, 3)), ("record", keys(4)), ("completed", []),
    ]  # fmt: skip
    assert scenario.receiver.max_in_progress == 1
    recorded = deliveries(scenario.database, run_id)
    assert [message.id for message in messages] == [str(one["id"]) for one in recorded]
    assert len({message.id for message in messages}) == 5
    assert scenario.deliveries(run_id) == [
        (1, "started", "delivered", 1, 0),
        (2, "record", "delivered", 1, 2),
        (3, "record", "delivered", 1, 2),
        (4, "record", "delivered", 1, 1),
        (-1, "completed", "delivered", 1, 0),
    ]
    assert scenario.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 5, "persisted": 5}}}
    assert scenario.database.all("select from app.records") == []


def test_message__fields_headers_and_signature(scenario: Scenario) -> None:
    scenario.source.family(1)
    run_id = scenario.run()
    scenario.work()
    scenario.send()
    for message, recorded in zip(scenario.receiver.of(run_id), deliveries(scenario.database, run_id), strict=True):
        assert {*message.body} == {"id", "event", "payload", "environment_id", "webhook_id", "created_at"}
        assert message.body["event"] == recorded["event"]
        assert message.body["environment_id"] == scenario.user.agency_id
        assert message.body["webhook_id"] == scenario.webhook["id"]
        times = (message.body["created_at"], recorded["created_at"])
        assert scenario.database.one("select %s::timestamptz = %s as same", times)["same"]
        assert message.headers["content-type"] == "application/json"
        assert message.headers["idempotency-key"] == message.id
        assert message.is_signed_with(scenario.webhook["secret"])
        assert not message.is_signed_with(scenario.webhook["secret"].upper())
        assert scenario.webhook["secret"] not in message.content.decode() + str(message.headers)
    started, record, completed = (message.body["payload"] for message in scenario.receiver.of(run_id))
    run = scenario.call("get_sync_job_run", run_id=run_id)
    about = {"sync_job_run_id": run_id, "sync_job_id": run["sync_job_id"]}
    assert started == about
    records = [{"id": "a0", "name": "account 0"}]
    assert record == {**about, "resource": ACCOUNTS, "method": "list", "records": records}
    assert completed == run


def test_deliver__no_records__started_and_completed_only(scenario: Scenario) -> None:
    run_id = scenario.run()
    assert scenario.work() == "completed"
    scenario.send()
    assert scenario.receiver.events(run_id) == ["started", "completed"]


# Which events a webhook receives


@pytest.mark.parametrize(
    ("event_types", "events_to_send", "received"),
    [
        ([], None, ["started", "record", "record", "completed"]),
        (["record"], None, ["record", "record"]),
        ([], ["started", "completed"], ["started", "completed"]),
        (["record", "completed"], ["started", "completed"], ["completed"]),
        (["record"], ["completed"], []),
        ([], [], []),
        (["unheard-of"], None, []),
    ],
)
def test_subscription__webhook_and_run_both_restrict_the_events(
    scenario: Scenario, event_types: list[str], events_to_send: list[str] | None, received: list[str]
) -> None:
    scenario.source.family(4)
    subscription = {"event_types": [f"sync_job_run:{event}" for event in event_types]}
    members = {}
    if events_to_send is not None:
        members["events_to_send"] = [f"sync_job_run:{event}" for event in events_to_send]
    run_id = scenario.run(receives=subscription, **members)
    assert scenario.work() == "completed"
    scenario.send()
    assert scenario.receiver.events(run_id) == received
    assert [event for _, event, *_ in scenario.deliveries(run_id)] == received
    persisted = 4 if "record" in received else 0
    assert scenario.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 4, "persisted": persisted}}}


def test_webhook__inactive__receives_nothing(scenario: Scenario) -> None:
    scenario.source.family(4)
    run_id = scenario.run(receives={"is_active": False})
    assert scenario.work() == "completed"
    scenario.send()
    assert (scenario.receiver.messages, scenario.deliveries(run_id)) == ([], [])
    assert scenario.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 4, "persisted": 0}}}


def test_webhook__deactivated_during_a_run__receives_nothing_more(scenario: Scenario) -> None:
    scenario.source.family(6)
    run_id = scenario.run()

    def then_leave(message: WebhookMessage) -> None:
        if message.keys == keys(0, 1):
            scenario.call("update_webhook", webhook_id=scenario.webhook["id"], is_active=False)

    scenario.receiver.respond = then_leave
    assert scenario.work() == "completed"
    scenario.send()
    assert scenario.receiver.events(run_id) == ["started", "record"]
    assert scenario.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 6, "persisted": 2}}}


def test_webhook__deleted_during_a_run__stops_it_without_an_event(scenario: Scenario) -> None:
    scenario.source.family(6)
    run_id = scenario.run()
    resume = threading.Event()
    scenario.receiver.respond = lambda message: resume.wait() and None if message.event == "record" else None
    arrived = partial(scenario.receiver.of, run_id, "record")
    assert (
        scenario.run_until(arrived, lambda: scenario.call("delete_webhook", webhook_id=scenario.webhook["id"]))
        == "lost"
    )
    resume.set()
    assert scenario.events_in_flight(run_id) == [("start", None), ("claim", None), ("cancel", 1)]
    scenario.send()
    assert scenario.receiver.events(run_id) == ["started", "record"]
    assert not scenario.database.all("select from app.deliveries where status in ('queued', 'sending')")


# Receivers that fail


def test_deliver__retried__same_id_and_content(scenario: Scenario) -> None:
    scenario.source.family(4)
    run_id = scenario.run()
    statuses = iter([200, 500, 429, 200])
    scenario.receiver.respond = lambda _: next(statuses, 200)
    assert scenario.work() == "completed"
    tries = [(one.event, one.id, one.content, one.headers["x-truto-signature"]) for one in scenario.receiver.of(run_id)]
    assert [event for event, *_ in tries] == ["started", "record", "record", "record", "record"]
    assert tries[1] == tries[2] == tries[3] != tries[4]
    assert scenario.receiver.keys(run_id) == keys(0, 1, 2, 3)
    assert scenario.deliveries(run_id)[1] == (2, "record", "delivered", 3, 2)
    assert scenario.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 4, "persisted": 4}}}


def test_deliver__started_rejected_with_400__stops_the_run(scenario: Scenario) -> None:
    scenario.source.family(9)
    run_id = scenario.run()
    scenario.receiver.respond = lambda message: 400 if message.event == "started" else 200
    assert scenario.work() == "lost"
    scenario.send()
    run = scenario.call("get_sync_job_run", run_id=run_id)
    assert (run["status"], run["resource_stats"]) == ("stopped", {})
    assert scenario.receiver.events(run_id) == ["started", "stopped"]
    row = scenario.database.execution(run_id)
    assert (row["cancelled_by"], row["cancel_reason"]) == ("service_role", "rejected by the receiver")
    assert len(scenario.source.requests) <= 1  # the first page is fetched during the first delivery


@pytest.mark.parametrize("status", [400, 401, 404, 500, 302, 503])
def test_deliver__not_accepted__three_attempts_then_the_run_is_queued(scenario: Scenario, status: int) -> None:
    scenario.source.family(5)
    run_id = scenario.run()
    scenario.receiver.respond = lambda message: status if message.keys == keys(2, 3) else 200
    assert scenario.work() == "queued"
    row = scenario.database.execution(run_id)
    assert (row["status"], row["attempts"], row["error"]["code"]) == ("queued", 1, "receiver_unavailable")
    assert row["run_at"] > row["started_at"]
    assert scenario.events_in_flight(run_id) == [("start", None), ("claim", None), ("release", 1)]
    assert scenario.deliveries(run_id)[2] == (3, "record", "unknown", 3, 2)
    assert scenario.status(run_id) == "running"
    assert scenario.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 2, "persisted": 2}}}

    scenario.receiver.respond = lambda _: None
    scenario.end_waits(run_id)
    assert scenario.work() == "completed"
    messages = scenario.receiver.of(run_id)
    assert [message.keys for message in messages] == [[], keys(0, 1), *[keys(2, 3)] * 4, keys(4)]
    assert len({(message.id, message.content) for message in messages[2:6]}) == 1
    assert scenario.deliveries(run_id)[2] == (3, "record", "delivered", 4, 2)
    assert scenario.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 5, "persisted": 5}}}


def test_deliver__receiver_stays_unavailable__run_fails(scenario: Scenario) -> None:
    scenario.source.family(2)
    run_id = scenario.run()
    scenario.receiver.respond = lambda message: 500 if message.event == "record" else 200
    for outcome in (*["queued"] * 4, "failed"):
        scenario.end_waits(run_id)
        assert scenario.work() == outcome
    scenario.send()
    assert scenario.receiver.events(run_id) == ["started", *["record"] * 15, "failed"]
    assert len({message.id for message in scenario.receiver.of(run_id, "record")}) == 1
    run = scenario.call("get_sync_job_run", run_id=run_id)
    assert run["status"] == scenario.receiver.of(run_id)[-1].body["payload"]["status"] == "failed"
    assert scenario.events_in_flight(run_id)[-1] == ("fail", 1)
    # Whether the receiver has the records is unknown, so none is counted.
    assert run["resource_stats"] == {ACCOUNTS: {"list": {"fetched": 0, "persisted": 0}}}


def test_deliver__connection_refused__run_is_queued(scenario: Scenario) -> None:
    scenario.source.family(2)
    run_id = scenario.run(receives={"target_url": f"http://127.0.0.1:{free_port()}/"})
    assert scenario.work() == "queued"
    assert scenario.deliveries(run_id) == [(1, "started", "unknown", 3, 0)]
    scenario.call("stop_sync_job_run", run_id=run_id)
    scenario.send()
    assert scenario.deliveries(run_id)[1] == (-1, "stopped", "queued", 1, 0)


def test_deliver__timeout__run_is_queued(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.05)
    scenario.source.family(2)
    run_id = scenario.run()
    resume = threading.Event()
    scenario.receiver.respond = lambda message: resume.wait() and None if message.event == "record" else None
    assert scenario.work() == "queued"
    resume.set()
    assert scenario.deliveries(run_id)[1] == (2, "record", "unknown", 3, 2)
    assert scenario.database.execution(run_id)["error"]["code"] == "receiver_unavailable"


def test_send__private_address__not_called(scenario: Scenario) -> None:
    message = webhook.WebhookMessage("i", "e", {}, "now", "a", "w", scenario.receiver.url, "s")

    async def post() -> None:
        async with make_client(allow_private_addresses=False) as client:
            await webhook.send(message, client)

    with pytest.raises(webhook.WebhookUnavailable):
        asyncio.run(post())
    assert scenario.receiver.messages == []


def test_send__redirect__not_followed(scenario: Scenario) -> None:
    followed: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        followed.append(str(request.url))
        return httpx.Response(307, headers={"location": "https://elsewhere.example/"})

    async def post() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(respond), follow_redirects=True) as client:
            message = webhook.WebhookMessage("i", "e", {}, "now", "a", "w", "https://example.com/events", "s")
            await webhook.send(message, client)

    with pytest.raises(webhook.WebhookUnavailable):
        asyncio.run(post())
    assert followed == ["https://example.com/events"]


# Workers that end


def test_deliver__lease_lost_during_an_attempt__next_worker_repeats_it(scenario: Scenario) -> None:
    """The attempt becomes unknown. The next worker sends the same message. The first worker sends nothing more."""
    scenario.source.family(4)
    run_id = scenario.run()
    arrived, resume = threading.Event(), threading.Event()

    def respond(message: WebhookMessage) -> None:
        if message.keys == keys(0, 1) and not arrived.is_set():
            arrived.set()
            resume.wait()

    scenario.receiver.respond = respond
    outcomes: list[str] = []
    first_worker = threading.Thread(target=lambda: outcomes.append(scenario.work()))
    first_worker.start()
    arrived.wait(30)
    scenario.database.expire_lease(run_id)
    with scenario.database.worker() as other:
        assert other.call("worker_reap")["released"] == 1
    assert scenario.deliveries(run_id) == [(1, "started", "delivered", 1, 0), (2, "record", "unknown", 1, 2)]
    assert scenario.events_in_flight(run_id)[-1] == ("release", 1)

    assert scenario.work() == "completed"
    before = scenario.deliveries(run_id)
    resume.set()
    first_worker.join()
    assert outcomes == ["lost"]
    assert scenario.deliveries(run_id) == before
    first, second = (message for message in scenario.receiver.of(run_id, "record") if message.keys == keys(0, 1))
    assert (first.id, first.content) == (second.id, second.content)
    assert scenario.receiver.keys(run_id) == keys(0, 1, 2, 3)
    assert scenario.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 4, "persisted": 4}}}


def test_begin_delivery__lease_lost__nothing_begins(scenario: Scenario) -> None:
    run_id = scenario.run()
    with scenario.database.worker() as worker:
        claimed = worker.claim(3600, "sync_job_run")
        of = {"execution_id": run_id, "lease_token": claimed["lease_token"]}
        begun = worker.call("worker_begin_delivery", **of, seq=1, event="sync_job_run:record", records=3)
        assert (begun["result"], begun["wanted"]) == ("continue", True)
        again = worker.call("worker_begin_delivery", **of, seq=1, event="sync_job_run:record", records=3)
        assert again == begun
        assert scenario.deliveries(run_id) == [(1, "record", "sending", 2, 3)]
        for seq in (0, 2, -1, 10**12):
            error = worker.error("worker_begin_delivery", **of, seq=seq, event="sync_job_run:record")
            assert (error.sqlstate, error.code, error.details) == ("PT409", "unexpected_seq", {"expected_seq": 1})
        scenario.call("stop_sync_job_run", run_id=run_id)
        before = scenario.database.fingerprint()
        calls: dict[str, dict[str, Any]] = {
            "worker_begin_delivery": {"seq": 1, "event": "sync_job_run:record", "records": 3},
            "worker_stop": {"reason": "because"},
            "worker_heartbeat": {},
            "worker_complete": {},
            "worker_release": {},
            "worker_fail": {"error": {"code": "x", "message": "X."}},
            "worker_commit_batch": {"seq": 1, "resource": "r", "records": [], "checkpoint": {}, "progress": {}},
        }
        for name, arguments in calls.items():
            assert worker.call(name, **of, **arguments) == {"result": "lost"}, name
        for lease_token in (0, 2, 99):
            assert worker.call("worker_begin_delivery", **{**of, "lease_token": lease_token}, seq=1, event="e") == {
                "result": "lost"
            }
        assert scenario.database.fingerprint() == before


@pytest.fixture
def workers(scenario: Scenario) -> Iterator[Callable[[], WorkerProcess]]:
    with ExitStack() as stack:

        def another() -> WorkerProcess:
            quick = {"WORKER_LEASE_SECONDS": "3600", "WORKER_HEARTBEAT_SECONDS": "0.1", "WORKER_TICK_SECONDS": "0.05"}
            url = scenario.database.login("authenticator")
            private = {"WORKER_ALLOW_PRIVATE_ADDRESSES": "true"}
            return stack.enter_context(WorkerProcess(log=True, DATABASE_URL=url, **quick, **private))

        yield another


def kill_worker(worker: WorkerProcess) -> None:
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait()


@pytest.mark.parametrize("event", ["started", "record", "completed"])
def test_worker__killed_during_a_delivery__next_worker_repeats_it(
    scenario: Scenario, workers: Callable[[], WorkerProcess], event: str
) -> None:
    """The next worker sends the same message again, also the event about the end."""
    scenario.source.family(4)
    run_id = scenario.run()
    resume = threading.Event()
    scenario.receiver.respond = lambda message: resume.wait() and None if message.event == event else None
    dead = workers()
    until(lambda: scenario.receiver.of(run_id, event))
    kill_worker(dead)
    resume.set()
    scenario.receiver.respond = lambda _: None
    [first, *_] = scenario.receiver.of(run_id, event)
    if event == "completed":
        assert scenario.status(run_id) == "completed"
        assert scenario.deliveries(run_id)[-1][2:4] == ("queued", 1)
        scenario.end_waits(run_id)
    else:
        assert ("sending", 1) in {one[2:4] for one in scenario.deliveries(run_id)}
        scenario.database.expire_lease(run_id)
    workers()
    until(lambda: (one := scenario.deliveries(run_id)[-1])[0] == -1 and one[2] == "delivered")
    assert scenario.receiver.keys(run_id) == keys(0, 1, 2, 3)
    same = [message for message in scenario.receiver.of(run_id, event) if message.id == first.id]
    assert len(same) == 2
    if event != "completed":
        assert same[0].content == same[1].content
    events = list(dict.fromkeys(message.event for message in scenario.receiver.of(run_id)))
    assert events == ["started", "record", "completed"]
    assert scenario.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 4, "persisted": 4}}}


def test_worker__shut_down_during_a_delivery__released(
    scenario: Scenario, workers: Callable[[], WorkerProcess]
) -> None:
    scenario.source.family(4)
    run_id = scenario.run()
    resume = threading.Event()
    scenario.receiver.respond = lambda message: resume.wait() and None if message.keys == keys(0, 1) else None
    first = workers()
    until(lambda: scenario.receiver.of(run_id, "record"))
    first.close()
    assert scenario.events_in_flight(run_id)[-1] == ("release", 1)
    assert scenario.deliveries(run_id)[-1] == (2, "record", "unknown", 1, 2)
    resume.set()
    scenario.receiver.respond = lambda _: None
    assert scenario.work() == "completed"
    assert scenario.receiver.keys(run_id) == keys(0, 1, 2, 3)
    assert scenario.events_in_flight(run_id)[2:] == [("release", 1), ("claim", None), ("complete", 0)]


def test_heartbeat__delivery_longer_than_the_lease__lease_survives(scenario: Scenario) -> None:
    scenario.source.family(2)
    run_id = scenario.run()
    resume = threading.Event()
    scenario.receiver.respond = lambda message: resume.wait() and None if message.event == "record" else None

    def reap_after_expiry() -> object:
        expiry = scenario.database.execution(run_id)["lease_expires_at"]
        until(lambda: scenario.database.one("select clock_timestamp() > %s as past", (expiry,))["past"])
        with scenario.database.worker() as reaper:
            reaper.call("worker_reap")
        resume.set()
        return NO_CHECK

    arrived = partial(scenario.receiver.of, run_id, "record")
    assert scenario.run_until(arrived, reap_after_expiry, lease_seconds=1, heartbeat_seconds=0.02) == "completed"
    assert scenario.events_in_flight(run_id) == [("start", None), ("claim", None), ("complete", 0)]
    assert scenario.deliveries(run_id)[1] == (2, "record", "delivered", 1, 2)


# Events about ended runs, which are sent without a lease


def stopped_run(scenario: Scenario) -> tuple[str, dict[str, Any]]:
    """A run that was stopped, and its event, claimed once."""
    run_id = scenario.run()
    scenario.call("stop_sync_job_run", run_id=run_id)
    with scenario.database.worker() as worker:
        [event] = worker.call("worker_claim_events")
    return run_id, event


def test_claim_events__not_acknowledged__claimable_again_after_a_minute(scenario: Scenario) -> None:
    run_id, event = stopped_run(scenario)
    assert {*event} == {
        "id", "attempt", "event", "payload", "created_at", "environment_id", "webhook_id", "url", "secret",
    }  # fmt: skip
    assert (event["attempt"], event["event"], event["url"]) == (1, "sync_job_run:stopped", scenario.receiver.url)
    assert (event["secret"], event["webhook_id"]) == (scenario.webhook["secret"], scenario.webhook["id"])
    assert event["payload"] == scenario.call("get_sync_job_run", run_id=run_id)
    with scenario.database.worker() as worker:
        assert worker.call("worker_claim_events") == []
        wait = scenario.database.one("select due_at - now() as wait from app.deliveries where status = 'queued'")[
            "wait"
        ]
        assert 50 < wait.total_seconds() <= 60
        scenario.end_waits(run_id)
        [again] = worker.call("worker_claim_events")
        assert again == {**event, "attempt": 2}


def test_claim_events__two_workers__disjoint(scenario: Scenario) -> None:
    for _ in range(25):
        run_id = scenario.run()
        scenario.call("stop_sync_job_run", run_id=run_id)
    with scenario.database.worker() as one, scenario.database.worker() as other:
        with one.connection.transaction():
            first = one.call("worker_claim_events", max_events=10)
            second = other.call("worker_claim_events", max_events=10)  # not blocked by the first
        third = other.call("worker_claim_events", max_events=100)
    claimed_ids = [event["id"] for event in (*first, *second, *third)]
    assert [len(first), len(second), len(third)] == [10, 10, 5]
    assert len(set(claimed_ids)) == 25


def test_ack_event__late_attempt__lost(scenario: Scenario) -> None:
    run_id, late = stopped_run(scenario)
    scenario.end_waits(run_id)
    with scenario.database.worker() as worker:
        [event] = worker.call("worker_claim_events")
        before = scenario.database.fingerprint()
        for delivered in (True, False):
            response = worker.call(
                "worker_ack_event", delivery_id=late["id"], attempt=late["attempt"], delivered=delivered
            )
            assert response == {"result": "lost"}
        assert scenario.database.fingerprint() == before
        settled = {"delivery_id": event["id"], "attempt": event["attempt"]}
        assert worker.call("worker_ack_event", **settled, delivered=True) == {"result": "delivered"}
        assert worker.call("worker_ack_event", **settled, delivered=False) == {"result": "lost"}
    assert scenario.deliveries(run_id) == [(-1, "stopped", "delivered", 2, 0)]


def test_outbox__receiver_unavailable__five_attempts(scenario: Scenario) -> None:
    scenario.receiver.respond = lambda _: 503
    run_id = scenario.run()
    scenario.call("stop_sync_job_run", run_id=run_id)
    waits = []
    for attempt in range(1, 6):
        scenario.send(times=2)  # nothing is due the second time
        [one] = deliveries(scenario.database, run_id)
        assert (one["attempts"], one["status"]) == (attempt, "queued" if attempt < 5 else "failed")
        if one["due_at"]:
            left = scenario.database.one("select %s - now() as wait", (one["due_at"],))["wait"].total_seconds()
            waits.append(round(left))
        scenario.end_waits(run_id)
    scenario.send()
    assert len(scenario.receiver.of(run_id)) == 5
    assert len({(message.id, message.content) for message in scenario.receiver.of(run_id)}) == 1
    assert [2**n - wait in {0, 1} for n, wait in enumerate(waits, 1)] == [True] * 4


def test_claim_events__never_acknowledged__fails_after_ten_claims(scenario: Scenario) -> None:
    run_id, _ = stopped_run(scenario)
    with scenario.database.worker() as worker:
        for attempt in range(2, 11):
            scenario.end_waits(run_id)
            assert [event["attempt"] for event in worker.call("worker_claim_events")] == [attempt]
        scenario.end_waits(run_id)
        assert worker.call("worker_claim_events") == []
    assert scenario.deliveries(run_id) == [(-1, "stopped", "failed", 10, 0)]


def test_claim_events__webhook_deleted__fails(scenario: Scenario) -> None:
    run_id = scenario.run()
    scenario.call("stop_sync_job_run", run_id=run_id)
    scenario.call("delete_webhook", webhook_id=scenario.webhook["id"])
    with scenario.database.worker() as worker:
        assert worker.call("worker_claim_events") == []
    assert scenario.deliveries(run_id) == [(-1, "stopped", "failed", 0, 0)]


def test_outbox__one_receiver_unavailable__others_receive_theirs(scenario: Scenario) -> None:
    """The other event is sent and acknowledged."""
    scenario.receiver.respond = lambda _: None
    lost = scenario.run(receives={"target_url": f"http://127.0.0.1:{free_port()}/"})
    scenario.call("stop_sync_job_run", run_id=lost)
    taken = scenario.run()
    scenario.call("stop_sync_job_run", run_id=taken)
    scenario.send()
    assert [scenario.deliveries(one)[0][2:4] for one in (lost, taken)] == [("queued", 1), ("delivered", 1)]


def test_outbox__one_event_raises__others_are_sent_and_acknowledged(
    scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [scenario.run() for _ in range(3)]
    for run_id in runs:
        scenario.call("stop_sync_job_run", run_id=run_id)
    event_ids = [str(deliveries(scenario.database, run_id)[0]["id"]) for run_id in runs]
    sent: list[str] = []

    async def send(message: webhook.WebhookMessage) -> None:
        if message.id == event_ids[1]:
            raise ValueError("a bug")
        sent.append(message.id)

    asyncio.run(Outbox(scenario.client, send).send_due())
    assert sorted(sent) == sorted([event_ids[0], event_ids[2]])
    assert [scenario.deliveries(run_id)[0][2:4] for run_id in runs] == [
        ("delivered", 1),
        ("queued", 1),
        ("delivered", 1),
    ]
    [record] = [record for record in caplog.records if record.message == "could not send event"]
    assert vars(record)["delivery_id"] == event_ids[1]


@pytest.mark.parametrize("limit", [0, -1, 101])
def test_claim_events__invalid_limit(scenario: Scenario, limit: int) -> None:
    with scenario.database.worker() as worker:
        assert worker.error("worker_claim_events", max_events=limit).code == "invalid_limit"
