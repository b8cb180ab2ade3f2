"""functions/worker/runners/sync_job_run.py: trees of resources, with the real engine, database and source."""

from __future__ import annotations

import asyncio
import gc
import weakref
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared.transports.postgres import PostgresTransport
from functions.worker import engine
from functions.worker.client import WorkerClient, service_caller
from functions.worker.connectors import open_source, webhook
from functions.worker.connectors.http import HttpConnector
from functions.worker.connectors.http.network import make_client
from functions.worker.engine import Engine, Signals
from functions.worker.runners.sync_job_run import sync_job_run
from tests.support.sync_job_runs import (
    ACCOUNTS,
    CONTACTS,
    LIST_ACCOUNTS,
    LIST_CONTACTS,
    LIST_NOTES,
    NOTES,
    NestedSource,
    Receiver,
    SourceRequest,
    stored,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

    from functions.worker.client import Batch, Execution
    from functions.worker.connectors.http import Page
    from tests.support.database import Database

PAGE = 2
GET_ACCOUNT = {"resource": ACCOUNTS, "method": "get", "depends_on": CONTACTS, "id": "{{resources.crm.contacts.of}}"}


class Scenario:
    """An account of an agency, its runs, and a worker that commits a given number of batches."""

    def __init__(self, database: Database, source: NestedSource, receiver: Receiver) -> None:
        self.database = database
        self.source = source
        self.receiver = receiver
        self.user = database.member()
        self.account = database.connection(self.user.agency_id, config=source.config(PAGE))
        self.client = WorkerClient(PostgresTransport(database.login("authenticator")), service_caller(""))
        self.open = partial(open_source, allow_private_addresses=True)
        self.after_commit: Callable[[str], None] = lambda _: None

    def call(self, name: str, /, **arguments: Any) -> Any:
        with self.database.session(self.user.claims) as session:
            return session.call(name, **arguments)

    def run(self, *resources: Mapping[str, Any], delivers: bool = False, job: str | None = None, **members: Any) -> str:
        job_id = job or self.call("create_sync_job", resources=[*resources])["id"]
        where = {"daemon_group_key": "g"}
        if delivers:
            where = {"webhook_id": self.call("create_webhook", target_url=self.receiver.url)["id"]}
        made = self.call(
            "create_sync_job_run", sync_job_id=job_id, integrated_account_id=self.account, **where, **members
        )
        return str(made["id"])

    def seq(self, run_id: str) -> int:
        return int(self.database.execution(run_id)["seq"])

    async def _work(self, run_id: str, batches: int | None) -> str:
        signals = Signals()

        async def runner(execution: Execution) -> AsyncGenerator[Batch, None]:
            done = execution.seq
            async for batch in sync_job_run(execution, self.open):
                yield batch
                done += 1
                while batches is not None and done >= batches:
                    if self.seq(run_id) == done:
                        signals.shutdown.set()
                    await asyncio.sleep(0.001)

        async with make_client(allow_private_addresses=True) as client:
            made = Engine(self.client, 3600, None, partial(webhook.send, client=client))
            [execution] = await self.client.claim("w", ["sync_job_run"], 1, 3600)
            assert execution.id == run_id
            return await made.run(execution, runner, signals)

    def work(self, run_id: str, batches: int | None = None) -> str:
        """Run to the end, or until `batches` are stored, then release."""
        return asyncio.run(self._work(run_id, batches))

    def end_waits(self, run_id: str) -> None:
        with self.database.connect() as connection:
            connection.execute("set session_replication_role = replica")  # no guard
            connection.execute(
                "update app.executions set run_at = now() where id = %s and status = 'queued'", (run_id,)
            )

    def stats(self, run_id: str) -> Any:
        return self.call("get_sync_job_run", run_id=run_id)["resource_stats"]

    def counts(self, run_id: str) -> list[dict[str, Any]]:
        return self.database.all(
            "select resource, method, records, inserted + updated as persisted, failed, errors"
            " from app.execution_resources where execution_id = %s order by resource, method",
            (run_id,),
        )

    def keys(self, run_id: str, resource: str) -> list[str]:
        return sorted(row["id"] for (name, _), row in stored(self.database, run_id).items() if name == resource)

    def requests(self, resource: str | None = None) -> list[tuple[str, Any]]:
        """The queries of list requests and the keys of get requests."""
        return [
            (one.resource, one.key or dict(one.query))
            for one in self.source.requests
            if resource in (None, one.resource)
        ]


@pytest.fixture
def scenario(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scenario]:
    monkeypatch.setattr(engine, "DELIVERY_WAITS_SECONDS", (0.0, 0.0))
    with NestedSource() as source, Receiver() as receiver:
        made = Scenario(database, source, receiver)
        yield made
        asyncio.run(made.client.aclose())


# Requests


def test_tree__reads_dependent_resources_of_each_record(scenario: Scenario) -> None:
    scenario.source.family(3, 3, 2)
    run_id = scenario.run(LIST_NOTES, LIST_CONTACTS, LIST_ACCOUNTS)  # in any order
    assert scenario.work(run_id) == "completed"
    for name in (ACCOUNTS, CONTACTS, NOTES):
        assert scenario.keys(run_id, name) == sorted(row["id"] for row in scenario.source.tables[name])
    assert scenario.stats(run_id) == {
        name: {"list": {"fetched": count, "persisted": count}}
        for name, count in {ACCOUNTS: 3, CONTACTS: 9, NOTES: 18}.items()
    }
    # In order of arrival: an account's contacts before the next page of accounts.
    order = [(one.resource, one.query.get("of", [""])[0], one.page) for one in scenario.source.requests]
    assert order.index((NOTES, "a1c2", 1)) < order.index((ACCOUNTS, "", 2)) < order.index((CONTACTS, "a2", 1))


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_tree__depth(scenario: Scenario, depth: int) -> None:
    """`depth` levels. The first two have one record each, on which the others depend."""
    names = [ACCOUNTS, CONTACTS, NOTES, "plain"]
    scenario.source.tables = {name: [{"id": "x"}] for name in names}
    nodes: list[dict[str, Any]] = [{"resource": name, "method": "list"} for name in names[:depth]]
    for above, node in zip(names, nodes[1:], strict=False):
        node |= {
            "depends_on": above,
            "query": {"id": f"{{{{resources.{above.replace('/', '.')}.id}}}}"},
            "persist": True,
        }
    run_id = scenario.run(*nodes[::-1])
    assert scenario.work(run_id) == "completed"
    assert scenario.requests() == [(name, {"id": ["x"]} if name != ACCOUNTS else {}) for name in names[:depth]]
    assert {*scenario.stats(run_id)} == {*names[:depth]}


def test_get__record_by_id(scenario: Scenario) -> None:
    scenario.source.family(2, 2)
    scenario.source.tables[CONTACTS][3]["of"] = "a0"
    single = {"resource": ACCOUNTS, "method": "get", "id": "{{args.which}}"}
    run_id = scenario.run({**LIST_CONTACTS, "depends_on": None, "query": {}}, GET_ACCOUNT, single, args={"which": "a1"})
    assert scenario.work(run_id) == "completed"
    keys = [key for _, key in scenario.requests(ACCOUNTS)]
    assert keys == ["a0", "a0", "a1", "a0", "a1"]
    assert scenario.stats(run_id)[ACCOUNTS] == {"get": {"fetched": 5, "persisted": 5}}
    assert scenario.keys(run_id, ACCOUNTS) == ["a0", "a1"]


@pytest.mark.parametrize("nothing", [None, True, 1.5, [], {}])
def test_get__id_missing__not_requested(scenario: Scenario, nothing: Any) -> None:
    scenario.source.tables = {CONTACTS: [{"id": "c", "of": nothing}]}
    contacts = {"resource": CONTACTS, "method": "list"}
    run_id = scenario.run(contacts, {**GET_ACCOUNT, "id": "{{resources.crm.contacts.of:any}}"})
    assert scenario.work(run_id) == "failed"
    assert scenario.requests(ACCOUNTS) == []
    assert scenario.database.execution(run_id)["error"]["code"] == "source_params_invalid"


def test_loop_on__argument_list(scenario: Scenario) -> None:
    scenario.source.family(3, 2)
    for loop_on in ("args.ids", "{{args.ids}}", " {{ args.ids }} "):
        scenario.source.requests.clear()
        looped = {"resource": CONTACTS, "method": "list", "loop_on": loop_on, "query": {"of": "{{args.ids}}"}}
        run_id = scenario.run(looped, args={"ids": ["a2", "a0", "none", "a2"]})
        assert scenario.work(run_id) == "completed"
        assert [query["of"] for _, query in scenario.requests()] == [["a2"], ["a0"], ["none"], ["a2"]]
        assert scenario.stats(run_id) == {CONTACTS: {"list": {"fetched": 6, "persisted": 6}}}
        assert scenario.keys(run_id, CONTACTS) == ["a0c0", "a0c1", "a2c0", "a2c1"]


def test_loop_on__list_of_the_parent_record(scenario: Scenario) -> None:
    scenario.source.family(3)
    scenario.source.tables["plain"] = [{"id": "p", "accounts": ["a0", "a2"]}, {"id": "q", "accounts": []}]
    plain = {"resource": "plain", "method": "list"}
    path = "resources.plain.accounts"
    looped = {"resource": ACCOUNTS, "method": "get", "id": f"{{{{{path}}}}}", "loop_on": path, "depends_on": "plain"}
    run_id = scenario.run(plain, looped)
    assert scenario.work(run_id) == "completed"
    assert [key for _, key in scenario.requests(ACCOUNTS)] == ["a0", "a2"]
    # The name has no slash, so the records are passed to dependent resources only.
    assert scenario.stats(run_id)["plain"] == {"list": {"fetched": 2, "persisted": 0}}


@pytest.mark.parametrize("persist", [None, True, False])
@pytest.mark.parametrize("delivers", [False, True])
def test_persist__false__read_and_not_stored(scenario: Scenario, persist: bool | None, delivers: bool) -> None:
    scenario.source.family(3, 1)
    first = LIST_ACCOUNTS if persist is None else {**LIST_ACCOUNTS, "persist": persist}
    run_id = scenario.run(first, LIST_CONTACTS, delivers=delivers)
    assert scenario.work(run_id) == "completed"
    kept = 0 if persist is False else 3
    assert scenario.stats(run_id)[ACCOUNTS] == {"list": {"fetched": 3, "persisted": kept}}
    assert scenario.stats(run_id)[CONTACTS] == {"list": {"fetched": 3, "persisted": 3}}
    persisted = (
        scenario.receiver.keys(run_id)
        if delivers
        else [*scenario.keys(run_id, ACCOUNTS), *scenario.keys(run_id, CONTACTS)]
    )
    assert len(persisted) == kept + 3


def test_placeholder__previous_run_date(scenario: Scenario) -> None:
    since = {"resource": ACCOUNTS, "method": "list", "query": {"since": "{{previous_run_date:undefined}}"}}
    scenario.source.tables = {ACCOUNTS: []}
    job = scenario.call("create_sync_job", resources=[since])["id"]
    dates: list[Any] = []

    def run(end: str, **members: Any) -> Any:
        run_id = scenario.run(job=job, **members)
        if end == "failed":
            scenario.source.before = lambda _: 404
        assert scenario.work(run_id) == end
        scenario.source.before = lambda _: None
        since_ = scenario.source.requests[-1].query.get("since", [None])[0]
        dates.append(datetime.fromisoformat(since_) if since_ else None)
        return scenario.database.execution(run_id)["started_at"]

    first = run("completed")
    run("failed")
    run("completed", ignore_previous_run=True)
    last = run("completed")
    run("completed")
    assert dates[0] is dates[2] is None
    assert dates[1] == first
    assert first < dates[3] < last
    assert dates[4] == last
    scenario.account = scenario.database.connection(scenario.user.agency_id, config=scenario.source.config(PAGE))
    run("completed")  # other accounts' runs do not count
    assert dates[5] is None


# Failures


def reject(*queries: str, status: int = 404) -> Callable[[SourceRequest], int | None]:
    """Requests for the contacts of these accounts fail. "" stands for the second page of accounts."""

    def before(request: SourceRequest) -> int | None:
        if request.resource == CONTACTS and request.query["of"][0] in queries:
            return status
        return status if "" in queries and (request.resource, request.page) == (ACCOUNTS, 2) else None

    return before


@pytest.mark.parametrize("delivers", [False, True])
def test_error_handling__fail_fast(scenario: Scenario, delivers: bool) -> None:
    scenario.source.family(5, 1)
    scenario.source.before = reject("a1")
    run_id = scenario.run(LIST_ACCOUNTS, LIST_CONTACTS, delivers=delivers)
    assert scenario.work(run_id) == "failed"
    assert scenario.stats(run_id)[CONTACTS]["list"]["persisted"] == 1
    assert ("record_error" in scenario.receiver.events(run_id)) is False
    assert scenario.database.execution(run_id)["error"]["code"] == "source_not_found"
    assert [query for _, query in scenario.requests(CONTACTS)] == [{"of": ["a0"]}, {"of": ["a1"]}]


@pytest.mark.parametrize("delivers", [False, True])
@pytest.mark.parametrize("errors", ["ignore", "batch"])
def test_error_handling__ignore_and_batch__skipped_and_reported(
    scenario: Scenario, errors: str, delivers: bool
) -> None:
    scenario.source.family(4, 1)
    scenario.source.before = reject("a1", "a2")
    run_id = scenario.run(LIST_ACCOUNTS, LIST_CONTACTS, delivers=delivers, error_handling=errors)
    assert scenario.work(run_id) == "completed"
    [_, contacts] = scenario.counts(run_id)
    assert (contacts["records"], contacts["persisted"], contacts["failed"], len(contacts["errors"])) == (2, 2, 2, 2)
    messages = scenario.receiver.of(run_id, "record_error")
    if not delivers:
        assert messages == []
    elif errors == "ignore":
        assert [message.body["payload"]["code"] for message in messages] == ["source_not_found"] * 2
        assert scenario.receiver.events(run_id) == [
            "started", "record", "record", "record_error", "record", "record_error", "record",
        ]  # fmt: skip
    else:
        [message] = messages
        assert scenario.receiver.events(run_id)[-1] == "record_error"
        errors_sent = [(one["resource"], one["method"], one["code"]) for one in message.body["payload"]["errors"]]
        assert errors_sent == [(CONTACTS, "list", "source_not_found")] * 2


def test_error_handling__batch__at_most_a_hundred_errors(scenario: Scenario) -> None:
    scenario.source.family(150, 1)
    scenario.source.before = lambda request: 404 if request.resource == CONTACTS else None
    run_id = scenario.run(LIST_ACCOUNTS, LIST_CONTACTS, delivers=True, error_handling="batch")
    assert scenario.work(run_id) == "completed"
    [message] = scenario.receiver.of(run_id, "record_error")
    assert len(message.body["payload"]["errors"]) == 100
    assert [one["failed"] for one in scenario.counts(run_id)] == [0, 150]


UNRENDERABLE: dict[str, dict[str, Any]] = {
    "not a list": {"loop_on": "args.none"},
    "a text": {"loop_on": "args.text"},
    "an unknown type": {"query": {"x": "{{args.text:nothing}}"}},
}


@pytest.mark.parametrize("errors", ["fail_fast", "ignore", "batch"])
@pytest.mark.parametrize("case", UNRENDERABLE)
@pytest.mark.parametrize("at", ["root", "below"])
def test_placeholders__cannot_be_rendered__reported_as_an_error(
    scenario: Scenario, at: str, case: str, errors: str
) -> None:
    """They are not retried. Everything else is read."""
    scenario.source.family(3, 1)
    wrong = {"resource": CONTACTS, "method": "list", **UNRENDERABLE[case]}
    nodes = [LIST_ACCOUNTS, {**wrong, "depends_on": ACCOUNTS}] if at == "below" else [wrong, LIST_ACCOUNTS]
    run_id = scenario.run(*nodes, args={"text": "x"}, error_handling=errors)
    outcome = scenario.work(run_id)
    counts = {one["resource"]: one for one in scenario.counts(run_id)}
    if errors == "fail_fast":
        assert outcome == "failed"
        assert scenario.database.execution(run_id)["error"]["code"] == "invalid_placeholder"
        assert scenario.database.execution(run_id)["attempts"] == 1
    else:
        assert outcome == "completed"
        assert counts[ACCOUNTS]["persisted"] == 3
        assert counts[CONTACTS]["failed"] == (3 if at == "below" else 1)


# Resuming


def second(resource: str) -> dict[str, Any]:
    return {"resource": resource, "method": "list", "query": {"name": ["account 1", "account 2"]}}


LOOPED = {"resource": CONTACTS, "method": "list", "loop_on": "args.ids", "query": {"of": "{{args.ids}}"}}
FORESTS: dict[str, tuple[list[dict[str, Any]], tuple[int, int, int], Callable[[SourceRequest], int | None]]] = {
    "a chain": ([LIST_ACCOUNTS, LIST_CONTACTS, LIST_NOTES], (3, 3, 1), lambda _: None),
    "siblings and singles": ([LIST_ACCOUNTS, LIST_CONTACTS, GET_ACCOUNT, second(ACCOUNTS)], (3, 2, 0), lambda _: None),
    "loops": ([LOOPED, LIST_NOTES, second(ACCOUNTS)], (3, 3, 1), lambda _: None),
    "not kept": ([{**LIST_ACCOUNTS, "persist": False}, LIST_CONTACTS], (5, 3, 0), lambda _: None),
    "errors below": ([LIST_ACCOUNTS, LIST_CONTACTS, second(ACCOUNTS)], (5, 1, 0), reject("a1", "a2", "a4")),
    "errors above": ([LIST_ACCOUNTS, LIST_CONTACTS, LOOPED], (5, 2, 0), reject("", "a0")),
    "all fail": ([LIST_CONTACTS, LIST_ACCOUNTS, LOOPED], (4, 1, 0), lambda request: 404 if request.page > 1 else None),
}


# The kind of error handling matters only with errors.
WITH_ERRORS = ["errors below", "errors above", "all fail"]
CASES = [(name, "ignore") for name in FORESTS] + [(name, "batch") for name in WITH_ERRORS]


@pytest.mark.parametrize("delivers", [False, True], ids=["stored", "delivered"])
@pytest.mark.parametrize(("forest", "errors"), CASES)
def test_resume__from_each_checkpoint__same_end(scenario: Scenario, forest: str, errors: str, delivers: bool) -> None:
    """A run released after any batch reads, stores, delivers and counts the same as an uninterrupted run."""
    nodes, (accounts, contacts, notes), before = FORESTS[forest]
    scenario.source.family(accounts, contacts, notes)
    scenario.source.before = before
    members: dict[str, Any] = {"delivers": delivers, "error_handling": errors, "args": {"ids": ["a2", "a0", "a2"]}}

    def result(run_id: str) -> Any:
        messages = [
            (message.event, message.keys, len(message.body["payload"].get("errors", [])))
            for message in {message.id: message for message in scenario.receiver.of(run_id)}.values()
        ]
        return scenario.seq(run_id), scenario.counts(run_id), stored(scenario.database, run_id), messages

    whole = scenario.run(*nodes, **members)
    assert scenario.work(whole) == "completed"
    expected = result(whole)
    with scenario.database.connect() as connection:
        connection.execute("delete from app.records")
    for batches in range(1, expected[0] + 1):
        run_id = scenario.run(*nodes, **members)
        assert scenario.work(run_id, batches) == "queued"
        assert scenario.seq(run_id) == batches
        assert scenario.work(run_id) == "completed"
        assert result(run_id) == expected, batches
        with scenario.database.connect() as connection:
            connection.execute("delete from app.records")


def test_resume__from_every_checkpoint_of_one_run(scenario: Scenario) -> None:
    """The run is released after each batch."""
    scenario.source.family(3, 3, 1)
    run_id = scenario.run(LIST_ACCOUNTS, LIST_CONTACTS, LIST_NOTES)
    for batches in range(1, 100):
        if scenario.work(run_id, batches) == "completed":
            break
    fetched = {name: one["list"]["fetched"] for name, one in scenario.stats(run_id).items()}
    assert fetched == {ACCOUNTS: 3, CONTACTS: 9, NOTES: 9}
    assert len(stored(scenario.database, run_id)) == 21


@pytest.mark.parametrize("change", ["one deleted", "one inserted first", "all replaced", "all deleted"])
@pytest.mark.parametrize("errors", ["fail_fast", "ignore"])
def test_resume__source_changed(scenario: Scenario, change: str, errors: str) -> None:
    """The dependent resources of each record of the following pages are read, even if they were replaced."""
    for batches in range(1, 7):
        scenario.source.family(4, 1)
        run_id = scenario.run(LIST_ACCOUNTS, LIST_CONTACTS, error_handling=errors)
        assert scenario.work(run_id, batches) == "queued"
        before = len(scenario.source.requests)
        accounts = scenario.source.tables[ACCOUNTS]
        if change == "one deleted":
            del accounts[0]
        elif change == "one inserted first":
            accounts.insert(0, {"id": "new"})
        else:
            accounts[:] = [{"id": f"other{n}"} for n in range(4 if change == "all replaced" else 0)]
        scenario.source.tables[CONTACTS] = [{"id": f"{one['id']}c", "of": one["id"]} for one in accounts]
        assert scenario.work(run_id) == "completed"
        requests = scenario.source.requests[before:]
        pages = sorted({one.page for one in requests if one.resource == ACCOUNTS})
        of = {one.query["of"][0] for one in requests if one.resource == CONTACTS}
        later = {row["id"] for page in pages[1:] for row in accounts[(page - 1) * PAGE : page * PAGE]}
        assert of >= later
        if change == "all replaced":
            assert of == {row["id"] for row in accounts[(pages[0] - 1) * PAGE :]}
        with scenario.database.connect() as connection:
            connection.execute("delete from app.records")


def test_source__unavailable__retried(scenario: Scenario) -> None:
    scenario.source.family(4, 1)
    run_id = scenario.run(LIST_ACCOUNTS, LIST_CONTACTS)
    assert scenario.work(run_id, 3) == "queued"
    with scenario.database.worker() as worker:
        claimed = worker.claim(3600, "sync_job_run")
        error = {"code": "source_unavailable", "message": "The source is unavailable."}
        response = worker.call(
            "worker_fail", execution_id=run_id, lease_token=claimed["lease_token"], error=error, retry=True
        )
    assert response == {"result": "queued"}
    scenario.end_waits(run_id)
    assert scenario.work(run_id) == "completed"
    assert scenario.stats(run_id) == {name: {"list": {"fetched": 4, "persisted": 4}} for name in (ACCOUNTS, CONTACTS)}


# Counts and memory


def test_counts__exact_after_every_batch(scenario: Scenario) -> None:
    scenario.source.family(4, 3)
    comparisons = 0

    def compare_counts(request: SourceRequest) -> None:
        nonlocal comparisons
        if request.resource:
            comparisons += 1
            with scenario.database.connect() as connection, connection.transaction():
                connection.execute("set transaction isolation level repeatable read")
                stats = connection.execute(
                    "select resource, records, inserted + updated as persisted from app.execution_resources"
                    " where execution_id = %s",
                    (run_id,),
                ).fetchall()
                there = connection.execute(
                    "select resource, count(*) as n from app.records where execution_id = %s group by 1", (run_id,)
                ).fetchall()
            counted = {one["resource"]: (one["records"], one["persisted"]) for one in stats}
            assert counted == {one["resource"]: (one["n"], one["n"]) for one in there}

    run_id = scenario.run(LIST_ACCOUNTS, LIST_CONTACTS)
    scenario.source.before = compare_counts
    assert scenario.work(run_id) == "completed"
    assert comparisons == 10


def test_tree__wide__one_page_per_level_in_memory(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario.source.family(60, 4, 4)
    pages: list[weakref.ref[Page]] = []
    most = 0
    original = HttpConnector._page

    async def counted(self: HttpConnector, *arguments: Any) -> Page:
        nonlocal most, pages
        page = await original(self, *arguments)
        pages.append(weakref.ref(page))
        pages = [one for one in pages if one() is not None]
        most = max(most, len(pages))
        return page

    monkeypatch.setattr(HttpConnector, "_page", counted)
    run_id = scenario.run({**LIST_ACCOUNTS, "persist": False}, {**LIST_CONTACTS, "persist": False}, LIST_NOTES)
    gc.collect()
    assert scenario.work(run_id, 150) == "queued"
    assert len(scenario.source.requests) > 100
    # One page per level, and the next page of the last level while it turns.
    assert most <= 3 + 1
    checkpoint = scenario.database.execution(run_id)["checkpoint"]
    assert len(checkpoint["frames"]) <= 3
    assert len(str(checkpoint)) < 2000
