"""What is handed to a receiver: in order, one at a time, signed, as often as it takes, and never after the end.

The engine and the outbox here are the worker's, the receiver answers over HTTP, the database is real.
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
from functions.worker.client import Protocol, service_caller
from functions.worker.connectors import open_source, webhook
from functions.worker.connectors.http.network import make_client
from functions.worker.engine import Engine, Signals
from functions.worker.outbox import Outbox
from functions.worker.runners import RUNNERS, given
from tests.support.sync_job_runs import ACCOUNTS, LIST_ACCOUNTS, Receiver, Tree, WebhookMessage, deliveries
from tests.support.wait import eventually, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from functions.worker.client import Execution
    from tests.support.database import Database, User

UNREAD = object()
NEVER = 3600.0
PAGE = 2


class Bench:
    """One agency's runs that deliver, and a worker that a test calls."""

    def __init__(self, database: Database, source: Tree, receiver: Receiver) -> None:
        self.database = database
        self.source = source
        self.receiver = receiver
        self.user: User = database.member()
        self.webhook: dict[str, Any] = {}
        self.protocol = Protocol(PostgresTransport(database.login("authenticator")), service_caller(""))
        self._runners = given(partial(open_source, allow_private_addresses=True), RUNNERS)

    def call(self, name: str, /, **arguments: Any) -> Any:
        """As the agency's user."""
        with self.database.session(self.user.claims) as session:
            return session.call(name, **arguments)

    def run(self, *resources: Any, receives: dict[str, Any] | None = None, **members: Any) -> str:
        """A queued run that delivers to a webhook of its own."""
        self.webhook = self.call("create_webhook", **{"target_url": self.receiver.url, **(receives or {})})
        job = self.call("create_sync_job", resources=[*(resources or [LIST_ACCOUNTS])])
        account = self.database.connection(self.user.agency_id, config=self.source.config(PAGE))
        ids = {"sync_job_id": job["id"], "integrated_account_id": account, "webhook_id": self.webhook["id"]}
        return str(self.call("create_sync_job_run", **ids, **members)["id"])

    async def claim(self, lease_seconds: int = 3600) -> Execution:
        [execution] = await self.protocol.claim("w", ["sync_job_run"], 1, lease_seconds)
        return execution

    async def _work(self, signals: Signals) -> str:
        async with make_client(allow_private_addresses=True) as client:
            made = Engine(self.protocol, NEVER, None, partial(webhook.post, client=client))
            return await made.run(await self.claim(), self._runners["sync_job_run"], signals)

    def work(self) -> str:
        """Runs the one that waits; how it ended."""
        return asyncio.run(self._work(Signals()))

    def run_until(self, condition: Callable[[], Any], then: Callable[[], Any]) -> str:
        """`then` is done as soon as the condition is true."""

        async def both() -> str:
            signals = Signals()
            working = asyncio.create_task(self._work(signals))
            await eventually(condition)
            if await asyncio.to_thread(then) is not UNREAD:
                signals.hint.set()
            return await working

        return asyncio.run(both())

    def send(self, *, times: int = 1) -> None:
        """What the outbox does of its own accord, so many times."""

        async def sending() -> None:
            async with make_client(allow_private_addresses=True) as client:
                box = Outbox(self.protocol, partial(webhook.post, client=client), NEVER)
                for _ in range(times):
                    events = await self.protocol.claim_events(outbox.MAX_CONCURRENT)
                    await asyncio.gather(*map(box._send, events))

        asyncio.run(sending())

    def due(self, run_id: str) -> None:
        """As if all waits were over."""
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

    def audit(self, run_id: str) -> list[tuple[str, int | None]]:
        return [(event["event"], event["in_flight"]) for event in self.database.events(run_id)]


@pytest.fixture
def bench(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(engine, "DELIVERY_WAITS_SECONDS", (0.0, 0.0))
    with Tree() as source, Receiver() as receiver:
        made = Bench(database, source, receiver)
        yield made
        asyncio.run(made.protocol.aclose())


def ids(*numbers: int) -> list[str]:
    return [f"a{number}" for number in numbers]


# How it goes when nothing goes wrong


def test_letters_come_in_order_one_at_a_time_and_signed(bench: Bench) -> None:
    bench.source.family(5)
    run_id = bench.run()
    assert bench.work() == "completed"
    bench.send()

    messages = bench.receiver.of(run_id)
    assert [(one.event, one.keys) for one in messages] == [
        ("started", []), ("record", ids(0, 1)), ("record", ids(2, 3)), ("record", ids(4)), ("completed", []),
    ]  # fmt: skip
    assert bench.receiver.most_under_way == 1
    known = deliveries(bench.database, run_id)
    assert [letter.id for letter in messages] == [str(one["id"]) for one in known]
    assert len({letter.id for letter in messages}) == 5
    assert bench.deliveries(run_id) == [
        (1, "started", "delivered", 1, 0),
        (2, "record", "delivered", 1, 2),
        (3, "record", "delivered", 1, 2),
        (4, "record", "delivered", 1, 1),
        (-1, "completed", "delivered", 1, 0),
    ]
    assert bench.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 5, "persisted": 5}}}
    assert bench.database.all("select from app.records") == []


def test_what_a_letter_says(bench: Bench) -> None:
    bench.source.family(1)
    run_id = bench.run()
    bench.work()
    bench.send()
    for letter, known in zip(bench.receiver.of(run_id), deliveries(bench.database, run_id), strict=True):
        assert {*letter.body} == {"id", "event", "payload", "environment_id", "webhook_id", "created_at"}
        assert letter.body["event"] == known["event"]
        assert (letter.body["environment_id"], letter.body["webhook_id"]) == (bench.user.agency_id, bench.webhook["id"])
        at = bench.database.one("select %s::timestamptz = %s as same", (letter.body["created_at"], known["created_at"]))
        assert at["same"]
        assert letter.headers["content-type"] == "application/json"
        assert letter.headers["idempotency-key"] == letter.id
        assert letter.is_signed_with(bench.webhook["secret"])
        assert not letter.is_signed_with(bench.webhook["secret"].upper())
        assert bench.webhook["secret"] not in letter.content.decode() + str(letter.headers)
    started, record, completed = (letter.body["payload"] for letter in bench.receiver.of(run_id))
    run = bench.call("get_sync_job_run", run_id=run_id)
    about = {"sync_job_run_id": run_id, "sync_job_id": run["sync_job_id"]}
    assert started == about
    records = [{"id": "a0", "name": "account 0"}]
    assert record == {**about, "resource": ACCOUNTS, "method": "list", "records": records}
    assert completed == run


def test_a_receiver_is_told_of_the_end_also_where_there_was_nothing(bench: Bench) -> None:
    run_id = bench.run()
    assert bench.work() == "completed"
    bench.send()
    assert bench.receiver.events(run_id) == ["started", "completed"]


# Who is told what


@pytest.mark.parametrize(
    ("event_types", "events_to_send", "told"),
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
def test_either_side_narrows_what_is_told(
    bench: Bench, event_types: list[str], events_to_send: list[str] | None, told: list[str]
) -> None:
    bench.source.family(4)
    named = {"event_types": [f"sync_job_run:{event}" for event in event_types]}
    members = {} if events_to_send is None else {"events_to_send": [f"sync_job_run:{one}" for one in events_to_send]}
    run_id = bench.run(receives=named, **members)
    assert bench.work() == "completed"
    bench.send()
    assert bench.receiver.events(run_id) == told
    assert [event for _, event, *_ in bench.deliveries(run_id)] == told
    persisted = 4 if "record" in told else 0
    assert bench.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 4, "persisted": persisted}}}


def test_one_that_is_not_active_is_told_nothing(bench: Bench) -> None:
    bench.source.family(4)
    run_id = bench.run(receives={"is_active": False})
    assert bench.work() == "completed"
    bench.send()
    assert (bench.receiver.messages, bench.deliveries(run_id)) == ([], [])
    assert bench.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 4, "persisted": 0}}}


def test_one_that_is_made_inactive_is_told_nothing_more(bench: Bench) -> None:
    bench.source.family(6)
    run_id = bench.run()

    def then_leave(letter: WebhookMessage) -> None:
        if letter.keys == ids(0, 1):
            bench.call("update_webhook", webhook_id=bench.webhook["id"], is_active=False)

    bench.receiver.answer = then_leave
    assert bench.work() == "completed"
    bench.send()
    assert bench.receiver.events(run_id) == ["started", "record"]
    assert bench.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 6, "persisted": 2}}}


def test_a_webhook_that_is_deleted_stops_its_runs_and_hears_nothing_of_it(bench: Bench) -> None:
    bench.source.family(6)
    run_id = bench.run()
    gate = threading.Event()
    bench.receiver.answer = lambda letter: gate.wait() and None if letter.event == "record" else None
    arrived = partial(bench.receiver.of, run_id, "record")
    assert bench.run_until(arrived, lambda: bench.call("delete_webhook", webhook_id=bench.webhook["id"])) == "lost"
    gate.set()
    assert bench.audit(run_id) == [("start", None), ("claim", None), ("cancel", 1)]
    bench.send()
    assert bench.receiver.events(run_id) == ["started", "record"]
    assert not bench.database.all("select from app.deliveries where status in ('queued', 'sending')")


# When the receiver does not take it


def test_every_attempt_is_the_same_letter(bench: Bench) -> None:
    bench.source.family(4)
    run_id = bench.run()
    answers = iter([200, 500, 429, 200])
    bench.receiver.answer = lambda _: next(answers, 200)
    assert bench.work() == "completed"
    tries = [(one.event, one.id, one.content, one.headers["x-truto-signature"]) for one in bench.receiver.of(run_id)]
    assert [event for event, *_ in tries] == ["started", "record", "record", "record", "record"]
    assert tries[1] == tries[2] == tries[3] != tries[4]
    assert bench.receiver.keys(run_id) == ids(0, 1, 2, 3)
    assert bench.deliveries(run_id)[1] == (2, "record", "delivered", 3, 2)
    assert bench.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 4, "persisted": 4}}}


def test_400_to_the_first_letter_stops_the_run(bench: Bench) -> None:
    bench.source.family(9)
    run_id = bench.run()
    bench.receiver.answer = lambda letter: 400 if letter.event == "started" else 200
    assert bench.work() == "lost"
    bench.send()
    run = bench.call("get_sync_job_run", run_id=run_id)
    assert (run["status"], run["resource_stats"]) == ("stopped", {})
    assert bench.receiver.events(run_id) == ["started", "stopped"]
    row = bench.database.execution(run_id)
    assert (row["cancelled_by"], row["cancel_reason"]) == ("service_role", "refused by the receiver")
    assert len(bench.source.asked) <= 1  # the first page is fetched while the receiver is asked


@pytest.mark.parametrize("status", [400, 401, 404, 500, 302, 503])
def test_a_letter_that_is_not_taken_is_tried_three_times_and_then_the_run_waits(bench: Bench, status: int) -> None:
    bench.source.family(5)
    run_id = bench.run()
    bench.receiver.answer = lambda letter: status if letter.keys == ids(2, 3) else 200
    assert bench.work() == "queued"
    row = bench.database.execution(run_id)
    assert (row["status"], row["attempts"], row["error"]["code"]) == ("queued", 1, "receiver_unavailable")
    assert row["run_at"] > row["started_at"]
    assert bench.audit(run_id) == [("start", None), ("claim", None), ("release", 1)]
    assert bench.deliveries(run_id)[2] == (3, "record", "unknown", 3, 2)
    assert bench.status(run_id) == "running"
    assert bench.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 2, "persisted": 2}}}

    bench.receiver.answer = lambda _: None
    bench.due(run_id)
    assert bench.work() == "completed"
    messages = bench.receiver.of(run_id)
    assert [letter.keys for letter in messages] == [[], ids(0, 1), *[ids(2, 3)] * 4, ids(4)]
    assert len({(letter.id, letter.content) for letter in messages[2:6]}) == 1
    assert bench.deliveries(run_id)[2] == (3, "record", "delivered", 4, 2)
    assert bench.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 5, "persisted": 5}}}


def test_a_receiver_that_stays_away_fails_the_run_in_the_end(bench: Bench) -> None:
    bench.source.family(2)
    run_id = bench.run()
    bench.receiver.answer = lambda letter: 500 if letter.event == "record" else 200
    for outcome in (*["queued"] * 4, "failed"):
        bench.due(run_id)
        assert bench.work() == outcome
    bench.send()
    assert bench.receiver.events(run_id) == ["started", *["record"] * 15, "failed"]
    assert len({letter.id for letter in bench.receiver.of(run_id, "record")}) == 1
    run = bench.call("get_sync_job_run", run_id=run_id)
    assert run["status"] == bench.receiver.of(run_id)[-1].body["payload"]["status"] == "failed"
    assert bench.audit(run_id)[-1] == ("fail", 1)
    # Nothing of it was delivered as far as anybody knows.
    assert run["resource_stats"] == {ACCOUNTS: {"list": {"fetched": 0, "persisted": 0}}}


def test_nobody_at_the_address(bench: Bench) -> None:
    bench.source.family(2)
    run_id = bench.run(receives={"target_url": f"http://127.0.0.1:{free_port()}/"})
    assert bench.work() == "queued"
    assert bench.deliveries(run_id) == [(1, "started", "unknown", 3, 0)]
    bench.call("stop_sync_job_run", run_id=run_id)
    bench.send()
    assert bench.deliveries(run_id)[1] == (-1, "stopped", "queued", 1, 0)


def test_a_receiver_that_takes_too_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.05)
    bench.source.family(2)
    run_id = bench.run()
    gate = threading.Event()
    bench.receiver.answer = lambda letter: gate.wait() and None if letter.event == "record" else None
    assert bench.work() == "queued"
    gate.set()
    assert bench.deliveries(run_id)[1] == (2, "record", "unknown", 3, 2)
    assert bench.database.execution(run_id)["error"]["code"] == "receiver_unavailable"


def test_an_address_within_is_not_called_by_a_worker_that_may_not(bench: Bench) -> None:
    letter = webhook.WebhookMessage("i", "e", {}, "now", "a", "w", bench.receiver.url, "s")

    async def post() -> None:
        async with make_client(allow_private_addresses=False) as client:
            await webhook.post(letter, client)

    with pytest.raises(webhook.WebhookUnavailable):
        asyncio.run(post())
    assert bench.receiver.messages == []


def test_a_redirect_is_not_followed(bench: Bench) -> None:
    followed: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        followed.append(str(request.url))
        return httpx.Response(307, headers={"location": "https://elsewhere.example/"})

    async def post() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), follow_redirects=True) as client:
            letter = webhook.WebhookMessage("i", "e", {}, "now", "a", "w", "https://example.com/events", "s")
            await webhook.post(letter, client)

    with pytest.raises(webhook.WebhookUnavailable):
        asyncio.run(post())
    assert followed == ["https://example.com/events"]


# When the worker goes


def test_a_lease_that_is_lost_while_delivering(bench: Bench) -> None:
    """The reaper gives up what was under way; the heir sends the same letter again, and the zombie nothing."""
    bench.source.family(4)
    run_id = bench.run()
    arrived, gate = threading.Event(), threading.Event()

    def answer(letter: WebhookMessage) -> None:
        if letter.keys == ids(0, 1) and not arrived.is_set():
            arrived.set()
            gate.wait()

    bench.receiver.answer = answer
    outcomes: list[str] = []
    zombie = threading.Thread(target=lambda: outcomes.append(bench.work()))
    zombie.start()
    arrived.wait(30)
    bench.database.expire_lease(run_id)
    with bench.database.worker() as other:
        assert other.call("worker_reap")["released"] == 1
    assert bench.deliveries(run_id) == [(1, "started", "delivered", 1, 0), (2, "record", "unknown", 1, 2)]
    assert bench.audit(run_id)[-1] == ("release", 1)

    assert bench.work() == "completed"
    before = bench.deliveries(run_id)
    gate.set()
    zombie.join()
    assert outcomes == ["lost"]
    assert bench.deliveries(run_id) == before
    first, second = (letter for letter in bench.receiver.of(run_id, "record") if letter.keys == ids(0, 1))
    assert (first.id, first.content) == (second.id, second.content)
    assert bench.receiver.keys(run_id) == ids(0, 1, 2, 3)
    assert bench.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 4, "persisted": 4}}}


def test_nothing_begins_with_a_lease_that_is_lost(bench: Bench) -> None:
    run_id = bench.run()
    with bench.database.worker() as worker:
        claimed = worker.claim(3600, "sync_job_run")
        of = {"execution_id": run_id, "lease_token": claimed["lease_token"]}
        begun = worker.call("worker_begin_delivery", **of, seq=1, event="sync_job_run:record", records=3)
        assert (begun["result"], begun["wanted"]) == ("continue", True)
        again = worker.call("worker_begin_delivery", **of, seq=1, event="sync_job_run:record", records=3)
        assert again == begun
        assert bench.deliveries(run_id) == [(1, "record", "sending", 2, 3)]
        for seq in (0, 2, -1, 10**12):
            refused = worker.refusal("worker_begin_delivery", **of, seq=seq, event="sync_job_run:record")
            assert (refused.sqlstate, refused.code, refused.members) == ("PT409", "unexpected_seq", {"expected_seq": 1})
        bench.call("stop_sync_job_run", run_id=run_id)
        before = bench.database.fingerprint()
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
        assert bench.database.fingerprint() == before


@pytest.fixture
def workers(bench: Bench) -> Iterator[Callable[[], WorkerProcess]]:
    with ExitStack() as stack:

        def another() -> WorkerProcess:
            quick = {"WORKER_LEASE_SECONDS": "3600", "WORKER_HEARTBEAT_SECONDS": "0.1", "WORKER_TICK_SECONDS": "0.05"}
            url = bench.database.login("authenticator")
            private = {"WORKER_ALLOW_PRIVATE_ADDRESSES": "true"}
            return stack.enter_context(WorkerProcess(log=True, DATABASE_URL=url, **quick, **private))

        yield another


def kill(worker: WorkerProcess) -> None:
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait()


@pytest.mark.parametrize("event", ["started", "record", "completed"])
def test_a_worker_that_is_killed_while_it_delivers(
    bench: Bench, workers: Callable[[], WorkerProcess], event: str
) -> None:
    """Its heir sends the same letter again; the end is told, though who ended it is gone."""
    bench.source.family(4)
    run_id = bench.run()
    gate = threading.Event()
    bench.receiver.answer = lambda letter: gate.wait() and None if letter.event == event else None
    dead = workers()
    until(lambda: bench.receiver.of(run_id, event))
    kill(dead)
    gate.set()
    bench.receiver.answer = lambda _: None
    [first, *_] = bench.receiver.of(run_id, event)
    if event == "completed":
        assert bench.status(run_id) == "completed"
        assert bench.deliveries(run_id)[-1][2:4] == ("queued", 1)
        bench.due(run_id)
    else:
        assert ("sending", 1) in {one[2:4] for one in bench.deliveries(run_id)}
        bench.database.expire_lease(run_id)
    workers()
    until(lambda: (one := bench.deliveries(run_id)[-1])[0] == -1 and one[2] == "delivered")
    assert bench.receiver.keys(run_id) == ids(0, 1, 2, 3)
    same = [letter for letter in bench.receiver.of(run_id, event) if letter.id == first.id]
    assert len(same) == 2
    if event != "completed":
        assert same[0].content == same[1].content
    events = list(dict.fromkeys(letter.event for letter in bench.receiver.of(run_id)))
    assert events == ["started", "record", "completed"]
    assert bench.stats(run_id) == {ACCOUNTS: {"list": {"fetched": 4, "persisted": 4}}}


def test_a_worker_that_shuts_down_while_it_delivers_gives_it_back(
    bench: Bench, workers: Callable[[], WorkerProcess]
) -> None:
    bench.source.family(4)
    run_id = bench.run()
    gate = threading.Event()
    bench.receiver.answer = lambda letter: gate.wait() and None if letter.keys == ids(0, 1) else None
    first = workers()
    until(lambda: bench.receiver.of(run_id, "record"))
    first.close()
    assert bench.audit(run_id)[-1] == ("release", 1)
    assert bench.deliveries(run_id)[-1] == (2, "record", "unknown", 1, 2)
    gate.set()
    bench.receiver.answer = lambda _: None
    assert bench.work() == "completed"
    assert bench.receiver.keys(run_id) == ids(0, 1, 2, 3)
    assert bench.audit(run_id)[2:] == [("release", 1), ("claim", None), ("complete", 0)]


# Events about the end: nobody's lease stands behind them


def ended(bench: Bench) -> tuple[str, dict[str, Any]]:
    """A run that was stopped, and the event that says so, handed out once."""
    run_id = bench.run()
    bench.call("stop_sync_job_run", run_id=run_id)
    with bench.database.worker() as worker:
        [event] = worker.call("worker_claim_events")
    return run_id, event


def test_an_event_is_handed_out_to_one_worker_for_a_minute(bench: Bench) -> None:
    run_id, event = ended(bench)
    assert {*event} == {
        "id", "attempt", "event", "payload", "created_at", "environment_id", "webhook_id", "url", "secret",
    }  # fmt: skip
    assert (event["attempt"], event["event"], event["url"]) == (1, "sync_job_run:stopped", bench.receiver.url)
    assert (event["secret"], event["webhook_id"]) == (bench.webhook["secret"], bench.webhook["id"])
    assert event["payload"] == bench.call("get_sync_job_run", run_id=run_id)
    with bench.database.worker() as worker:
        assert worker.call("worker_claim_events") == []
        wait = bench.database.one("select due_at - now() as wait from app.deliveries where status = 'queued'")["wait"]
        assert 50 < wait.total_seconds() <= 60
        bench.due(run_id)
        [again] = worker.call("worker_claim_events")
        assert again == {**event, "attempt": 2}


def test_two_workers_are_never_handed_the_same_event(bench: Bench) -> None:
    for _ in range(25):
        run_id = bench.run()
        bench.call("stop_sync_job_run", run_id=run_id)
    with bench.database.worker() as one, bench.database.worker() as other:
        with one.connection.transaction():
            first = one.call("worker_claim_events", max_events=10)
            second = other.call("worker_claim_events", max_events=10)  # does not wait
        third = other.call("worker_claim_events", max_events=100)
    handed = [event["id"] for event in (*first, *second, *third)]
    assert [len(first), len(second), len(third)] == [10, 10, 5]
    assert len(set(handed)) == 25


def test_an_attempt_that_took_too_long_says_nothing(bench: Bench) -> None:
    run_id, late = ended(bench)
    bench.due(run_id)
    with bench.database.worker() as worker:
        [event] = worker.call("worker_claim_events")
        before = bench.database.fingerprint()
        for delivered in (True, False):
            answer = worker.call(
                "worker_ack_event", delivery_id=late["id"], attempt=late["attempt"], delivered=delivered
            )
            assert answer == {"result": "lost"}
        assert bench.database.fingerprint() == before
        settled = {"delivery_id": event["id"], "attempt": event["attempt"]}
        assert worker.call("worker_ack_event", **settled, delivered=True) == {"result": "delivered"}
        assert worker.call("worker_ack_event", **settled, delivered=False) == {"result": "lost"}
    assert bench.deliveries(run_id) == [(-1, "stopped", "delivered", 2, 0)]


def test_an_event_is_tried_five_times(bench: Bench) -> None:
    bench.receiver.answer = lambda _: 503
    run_id = bench.run()
    bench.call("stop_sync_job_run", run_id=run_id)
    waits = []
    for attempt in range(1, 6):
        bench.send(times=2)  # the second finds nothing due
        [one] = deliveries(bench.database, run_id)
        assert (one["attempts"], one["status"]) == (attempt, "queued" if attempt < 5 else "failed")
        if one["due_at"]:
            left = bench.database.one("select %s - now() as wait", (one["due_at"],))["wait"].total_seconds()
            waits.append(round(left))
        bench.due(run_id)
    bench.send()
    assert len(bench.receiver.of(run_id)) == 5
    assert len({(letter.id, letter.content) for letter in bench.receiver.of(run_id)}) == 1
    assert [2**n - wait in {0, 1} for n, wait in enumerate(waits, 1)] == [True] * 4


def test_an_event_whose_workers_all_die_is_given_up_at_some_time(bench: Bench) -> None:
    run_id, _ = ended(bench)
    with bench.database.worker() as worker:
        for attempt in range(2, 11):
            bench.due(run_id)
            assert [event["attempt"] for event in worker.call("worker_claim_events")] == [attempt]
        bench.due(run_id)
        assert worker.call("worker_claim_events") == []
    assert bench.deliveries(run_id) == [(-1, "stopped", "failed", 10, 0)]


def test_an_event_of_a_deleted_webhook_is_given_up(bench: Bench) -> None:
    run_id = bench.run()
    bench.call("stop_sync_job_run", run_id=run_id)
    bench.call("delete_webhook", webhook_id=bench.webhook["id"])
    with bench.database.worker() as worker:
        assert worker.call("worker_claim_events") == []
    assert bench.deliveries(run_id) == [(-1, "stopped", "failed", 0, 0)]


def test_the_outbox_goes_on_past_what_it_cannot_send(bench: Bench) -> None:
    """One receiver is away, one answers: each is told as often as it takes."""
    bench.receiver.answer = lambda _: None
    lost = bench.run(receives={"target_url": f"http://127.0.0.1:{free_port()}/"})
    bench.call("stop_sync_job_run", run_id=lost)
    taken = bench.run()
    bench.call("stop_sync_job_run", run_id=taken)
    bench.send()
    assert [bench.deliveries(one)[0][2:4] for one in (lost, taken)] == [("queued", 1), ("delivered", 1)]


@pytest.mark.parametrize("limit", [0, -1, 101])
def test_limits_of_claim_events(bench: Bench, limit: int) -> None:
    with bench.database.worker() as worker:
        assert worker.refusal("worker_claim_events", max_events=limit).code == "invalid_limit"
