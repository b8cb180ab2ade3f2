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
    Asked,
    Receiver,
    Tree,
    stored,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

    from functions.worker.client import Batch, Execution
    from functions.worker.connectors.http import Page
    from tests.support.database import Database

PAGE = 2
GET_ACCOUNT = {"resource": ACCOUNTS, "method": "get", "depends_on": CONTACTS, "id": "{{resources.crm.contacts.of}}"}


class Bench:
    """One account of an agency, runs on it, and a worker that does as many batches as it is told."""

    def __init__(self, database: Database, source: Tree, receiver: Receiver) -> None:
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
        """To its end, or until so many batches are stored: then it is given back."""
        return asyncio.run(self._work(run_id, batches))

    def due(self, run_id: str) -> None:
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

    def asked(self, resource: str | None = None) -> list[tuple[str, Any]]:
        """The queries, or the key where one record was asked for."""
        return [
            (one.resource, one.key or dict(one.query)) for one in self.source.asked if resource in (None, one.resource)
        ]


@pytest.fixture
def bench(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(engine, "DELIVERY_WAITS_SECONDS", (0.0, 0.0))
    with Tree() as source, Receiver() as receiver:
        made = Bench(database, source, receiver)
        yield made
        asyncio.run(made.client.aclose())


# What is read


def test_each_record_leads_to_those_that_depend_on_it(bench: Bench) -> None:
    bench.source.family(3, 3, 2)
    run_id = bench.run(LIST_NOTES, LIST_CONTACTS, LIST_ACCOUNTS)  # in whatever order they are given
    assert bench.work(run_id) == "completed"
    for name in (ACCOUNTS, CONTACTS, NOTES):
        assert bench.keys(run_id, name) == sorted(row["id"] for row in bench.source.tables[name])
    assert bench.stats(run_id) == {
        name: {"list": {"fetched": count, "persisted": count}}
        for name, count in {ACCOUNTS: 3, CONTACTS: 9, NOTES: 18}.items()
    }
    # As they arrive: an account's contacts before the next page of accounts.
    order = [(one.resource, one.query.get("of", [""])[0], one.page) for one in bench.source.asked]
    assert order.index((NOTES, "a1c2", 1)) < order.index((ACCOUNTS, "", 2)) < order.index((CONTACTS, "a2", 1))


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_any_depth(bench: Bench, depth: int) -> None:
    """Of so many levels the first two lead to one record each, which the others are of."""
    names = [ACCOUNTS, CONTACTS, NOTES, "plain"]
    bench.source.tables = {name: [{"id": "x"}] for name in names}
    nodes: list[dict[str, Any]] = [{"resource": name, "method": "list"} for name in names[:depth]]
    for above, node in zip(names, nodes[1:], strict=False):
        node |= {
            "depends_on": above,
            "query": {"id": f"{{{{resources.{above.replace('/', '.')}.id}}}}"},
            "persist": True,
        }
    run_id = bench.run(*nodes[::-1])
    assert bench.work(run_id) == "completed"
    assert bench.asked() == [(name, {"id": ["x"]} if name != ACCOUNTS else {}) for name in names[:depth]]
    assert {*bench.stats(run_id)} == {*names[:depth]}


def test_one_by_its_id(bench: Bench) -> None:
    bench.source.family(2, 2)
    bench.source.tables[CONTACTS][3]["of"] = "a0"
    single = {"resource": ACCOUNTS, "method": "get", "id": "{{args.which}}"}
    run_id = bench.run({**LIST_CONTACTS, "depends_on": None, "query": {}}, GET_ACCOUNT, single, args={"which": "a1"})
    assert bench.work(run_id) == "completed"
    keys = [key for _, key in bench.asked(ACCOUNTS)]
    assert keys == ["a0", "a0", "a1", "a0", "a1"]
    assert bench.stats(run_id)[ACCOUNTS] == {"get": {"fetched": 5, "persisted": 5}}
    assert bench.keys(run_id, ACCOUNTS) == ["a0", "a1"]


@pytest.mark.parametrize("nothing", [None, True, 1.5, [], {}])
def test_an_id_that_is_none_is_not_asked_for(bench: Bench, nothing: Any) -> None:
    bench.source.tables = {CONTACTS: [{"id": "c", "of": nothing}]}
    contacts = {"resource": CONTACTS, "method": "list"}
    run_id = bench.run(contacts, {**GET_ACCOUNT, "id": "{{resources.crm.contacts.of:any}}"})
    assert bench.work(run_id) == "failed"
    assert bench.asked(ACCOUNTS) == []
    assert bench.database.execution(run_id)["error"]["code"] == "source_params_invalid"


def test_once_per_element_of_a_list(bench: Bench) -> None:
    bench.source.family(3, 2)
    for loop_on in ("args.ids", "{{args.ids}}", " {{ args.ids }} "):
        bench.source.asked.clear()
        looped = {"resource": CONTACTS, "method": "list", "loop_on": loop_on, "query": {"of": "{{args.ids}}"}}
        run_id = bench.run(looped, args={"ids": ["a2", "a0", "none", "a2"]})
        assert bench.work(run_id) == "completed"
        assert [query["of"] for _, query in bench.asked()] == [["a2"], ["a0"], ["none"], ["a2"]]
        assert bench.stats(run_id) == {CONTACTS: {"list": {"fetched": 6, "persisted": 6}}}
        assert bench.keys(run_id, CONTACTS) == ["a0c0", "a0c1", "a2c0", "a2c1"]


def test_a_list_of_the_record_above(bench: Bench) -> None:
    bench.source.family(3)
    bench.source.tables["plain"] = [{"id": "p", "accounts": ["a0", "a2"]}, {"id": "q", "accounts": []}]
    plain = {"resource": "plain", "method": "list"}
    path = "resources.plain.accounts"
    looped = {"resource": ACCOUNTS, "method": "get", "id": f"{{{{{path}}}}}", "loop_on": path, "depends_on": "plain"}
    run_id = bench.run(plain, looped)
    assert bench.work(run_id) == "completed"
    assert [key for _, key in bench.asked(ACCOUNTS)] == ["a0", "a2"]
    assert bench.stats(run_id)["plain"] == {"list": {"fetched": 2, "persisted": 0}}  # no slash: passed on only


@pytest.mark.parametrize("persist", [None, True, False])
@pytest.mark.parametrize("delivers", [False, True])
def test_what_is_not_kept_is_read_all_the_same(bench: Bench, persist: bool | None, delivers: bool) -> None:
    bench.source.family(3, 1)
    first = LIST_ACCOUNTS if persist is None else {**LIST_ACCOUNTS, "persist": persist}
    run_id = bench.run(first, LIST_CONTACTS, delivers=delivers)
    assert bench.work(run_id) == "completed"
    kept = 0 if persist is False else 3
    assert bench.stats(run_id)[ACCOUNTS] == {"list": {"fetched": 3, "persisted": kept}}
    assert bench.stats(run_id)[CONTACTS] == {"list": {"fetched": 3, "persisted": 3}}
    told = bench.receiver.keys(run_id) if delivers else [*bench.keys(run_id, ACCOUNTS), *bench.keys(run_id, CONTACTS)]
    assert len(told) == kept + 3


def test_the_date_of_the_run_before(bench: Bench) -> None:
    since = {"resource": ACCOUNTS, "method": "list", "query": {"since": "{{previous_run_date:undefined}}"}}
    bench.source.tables = {ACCOUNTS: []}
    job = bench.call("create_sync_job", resources=[since])["id"]
    dates: list[Any] = []

    def run(end: str, **members: Any) -> Any:
        run_id = bench.run(job=job, **members)
        if end == "failed":
            bench.source.before = lambda _: 404
        assert bench.work(run_id) == end
        bench.source.before = lambda _: None
        since_ = bench.source.asked[-1].query.get("since", [None])[0]
        dates.append(datetime.fromisoformat(since_) if since_ else None)
        return bench.database.execution(run_id)["started_at"]

    first = run("completed")
    run("failed")
    run("completed", ignore_previous_run=True)
    last = run("completed")
    run("completed")
    assert dates[0] is dates[2] is None
    assert dates[1] == first
    assert first < dates[3] < last
    assert dates[4] == last
    bench.account = bench.database.connection(bench.user.agency_id, config=bench.source.config(PAGE))
    run("completed")  # another account's runs are not its
    assert dates[5] is None


# What fails


def refuse(*queries: str, status: int = 404) -> Callable[[Asked], int | None]:
    """The contacts of these accounts cannot be had; "": nor the accounts' second page."""

    def before(asked: Asked) -> int | None:
        if asked.resource == CONTACTS and asked.query["of"][0] in queries:
            return status
        return status if "" in queries and (asked.resource, asked.page) == (ACCOUNTS, 2) else None

    return before


@pytest.mark.parametrize("delivers", [False, True])
def test_fail_fast(bench: Bench, delivers: bool) -> None:
    bench.source.family(5, 1)
    bench.source.before = refuse("a1")
    run_id = bench.run(LIST_ACCOUNTS, LIST_CONTACTS, delivers=delivers)
    assert bench.work(run_id) == "failed"
    assert bench.stats(run_id)[CONTACTS]["list"]["persisted"] == 1
    assert ("record_error" in bench.receiver.events(run_id)) is False
    assert bench.database.execution(run_id)["error"]["code"] == "source_not_found"
    assert [query for _, query in bench.asked(CONTACTS)] == [{"of": ["a0"]}, {"of": ["a1"]}]


@pytest.mark.parametrize("delivers", [False, True])
@pytest.mark.parametrize("errors", ["ignore", "batch"])
def test_what_fails_is_passed_over_and_told(bench: Bench, errors: str, delivers: bool) -> None:
    bench.source.family(4, 1)
    bench.source.before = refuse("a1", "a2")
    run_id = bench.run(LIST_ACCOUNTS, LIST_CONTACTS, delivers=delivers, error_handling=errors)
    assert bench.work(run_id) == "completed"
    [_, contacts] = bench.counts(run_id)
    assert (contacts["records"], contacts["persisted"], contacts["failed"], len(contacts["errors"])) == (2, 2, 2, 2)
    told = bench.receiver.of(run_id, "record_error")
    if not delivers:
        assert told == []
    elif errors == "ignore":
        assert [letter.body["payload"]["code"] for letter in told] == ["source_not_found"] * 2
        assert bench.receiver.events(run_id) == [
            "started", "record", "record", "record_error", "record", "record_error", "record",
        ]  # fmt: skip
    else:
        [letter] = told
        assert bench.receiver.events(run_id)[-1] == "record_error"
        said = [(one["resource"], one["method"], one["code"]) for one in letter.body["payload"]["errors"]]
        assert said == [(CONTACTS, "list", "source_not_found")] * 2


def test_a_batch_of_errors_has_a_hundred_of_them(bench: Bench) -> None:
    bench.source.family(150, 1)
    bench.source.before = lambda asked: 404 if asked.resource == CONTACTS else None
    run_id = bench.run(LIST_ACCOUNTS, LIST_CONTACTS, delivers=True, error_handling="batch")
    assert bench.work(run_id) == "completed"
    [letter] = bench.receiver.of(run_id, "record_error")
    assert len(letter.body["payload"]["errors"]) == 100
    assert [one["failed"] for one in bench.counts(run_id)] == [0, 150]


PLACELESS: dict[str, dict[str, Any]] = {
    "no list": {"loop_on": "args.none"},
    "a text": {"loop_on": "args.text"},
    "an unknown type": {"query": {"x": "{{args.text:nothing}}"}},
}


@pytest.mark.parametrize("errors", ["fail_fast", "ignore", "batch"])
@pytest.mark.parametrize("what", PLACELESS)
@pytest.mark.parametrize("at", ["root", "below"])
def test_placeholders_that_cannot_be_filled(bench: Bench, at: str, what: str, errors: str) -> None:
    """Another attempt would not mend them; what else there is is read."""
    bench.source.family(3, 1)
    wrong = {"resource": CONTACTS, "method": "list", **PLACELESS[what]}
    nodes = [LIST_ACCOUNTS, {**wrong, "depends_on": ACCOUNTS}] if at == "below" else [wrong, LIST_ACCOUNTS]
    run_id = bench.run(*nodes, args={"text": "x"}, error_handling=errors)
    outcome = bench.work(run_id)
    counts = {one["resource"]: one for one in bench.counts(run_id)}
    if errors == "fail_fast":
        assert outcome == "failed"
        assert bench.database.execution(run_id)["error"]["code"] == "invalid_placeholder"
        assert bench.database.execution(run_id)["attempts"] == 1
    else:
        assert outcome == "completed"
        assert counts[ACCOUNTS]["persisted"] == 3
        assert counts[CONTACTS]["failed"] == (3 if at == "below" else 1)


# Where it goes on


def second(resource: str) -> dict[str, Any]:
    return {"resource": resource, "method": "list", "query": {"name": ["account 1", "account 2"]}}


LOOPED = {"resource": CONTACTS, "method": "list", "loop_on": "args.ids", "query": {"of": "{{args.ids}}"}}
FORESTS: dict[str, tuple[list[dict[str, Any]], tuple[int, int, int], Callable[[Asked], int | None]]] = {
    "a chain": ([LIST_ACCOUNTS, LIST_CONTACTS, LIST_NOTES], (3, 3, 1), lambda _: None),
    "siblings and singles": ([LIST_ACCOUNTS, LIST_CONTACTS, GET_ACCOUNT, second(ACCOUNTS)], (3, 2, 0), lambda _: None),
    "loops": ([LOOPED, LIST_NOTES, second(ACCOUNTS)], (3, 3, 1), lambda _: None),
    "not kept": ([{**LIST_ACCOUNTS, "persist": False}, LIST_CONTACTS], (5, 3, 0), lambda _: None),
    "errors below": ([LIST_ACCOUNTS, LIST_CONTACTS, second(ACCOUNTS)], (5, 1, 0), refuse("a1", "a2", "a4")),
    "errors above": ([LIST_ACCOUNTS, LIST_CONTACTS, LOOPED], (5, 2, 0), refuse("", "a0")),
    "all in vain": ([LIST_CONTACTS, LIST_ACCOUNTS, LOOPED], (4, 1, 0), lambda asked: 404 if asked.page > 1 else None),
}


# How errors are told matters where there are some.
WITH_ERRORS = ["errors below", "errors above", "all in vain"]
CASES = [(name, "ignore") for name in FORESTS] + [(name, "batch") for name in WITH_ERRORS]


@pytest.mark.parametrize("delivers", [False, True], ids=["stored", "delivered"])
@pytest.mark.parametrize(("forest", "errors"), CASES)
def test_from_each_checkpoint_it_goes_on_to_the_same_end(
    bench: Bench, forest: str, errors: str, delivers: bool
) -> None:
    """Given back after any batch, it reads, stores, delivers and counts what it would have without."""
    nodes, (accounts, contacts, notes), before = FORESTS[forest]
    bench.source.family(accounts, contacts, notes)
    bench.source.before = before
    members: dict[str, Any] = {"delivers": delivers, "error_handling": errors, "args": {"ids": ["a2", "a0", "a2"]}}

    def result(run_id: str) -> Any:
        messages = [
            (letter.event, letter.keys, len(letter.body["payload"].get("errors", [])))
            for letter in {letter.id: letter for letter in bench.receiver.of(run_id)}.values()
        ]
        return bench.seq(run_id), bench.counts(run_id), stored(bench.database, run_id), messages

    whole = bench.run(*nodes, **members)
    assert bench.work(whole) == "completed"
    expected = result(whole)
    with bench.database.connect() as connection:
        connection.execute("delete from app.records")
    for batches in range(1, expected[0] + 1):
        run_id = bench.run(*nodes, **members)
        assert bench.work(run_id, batches) == "queued"
        assert bench.seq(run_id) == batches
        assert bench.work(run_id) == "completed"
        assert result(run_id) == expected, batches
        with bench.database.connect() as connection:
            connection.execute("delete from app.records")


def test_from_every_checkpoint_of_one_run(bench: Bench) -> None:
    """Given back after each batch."""
    bench.source.family(3, 3, 1)
    run_id = bench.run(LIST_ACCOUNTS, LIST_CONTACTS, LIST_NOTES)
    for batches in range(1, 100):
        if bench.work(run_id, batches) == "completed":
            break
    fetched = {name: one["list"]["fetched"] for name, one in bench.stats(run_id).items()}
    assert fetched == {ACCOUNTS: 3, CONTACTS: 9, NOTES: 9}
    assert len(stored(bench.database, run_id)) == 21


@pytest.mark.parametrize("change", ["one goes", "one comes first", "all are others", "none is left"])
@pytest.mark.parametrize("errors", ["fail_fast", "ignore"])
def test_a_source_that_changes_while_it_waits(bench: Bench, change: str, errors: str) -> None:
    """The dependants of every record that a page from there on has are read, whatever it had before."""
    for batches in range(1, 7):
        bench.source.family(4, 1)
        run_id = bench.run(LIST_ACCOUNTS, LIST_CONTACTS, error_handling=errors)
        assert bench.work(run_id, batches) == "queued"
        before = len(bench.source.asked)
        accounts = bench.source.tables[ACCOUNTS]
        if change == "one goes":
            del accounts[0]
        elif change == "one comes first":
            accounts.insert(0, {"id": "new"})
        else:
            accounts[:] = [{"id": f"other{n}"} for n in range(4 if change == "all are others" else 0)]
        bench.source.tables[CONTACTS] = [{"id": f"{one['id']}c", "of": one["id"]} for one in accounts]
        assert bench.work(run_id) == "completed"
        asked = bench.source.asked[before:]
        pages = sorted({one.page for one in asked if one.resource == ACCOUNTS})
        of = {one.query["of"][0] for one in asked if one.resource == CONTACTS}
        later = {row["id"] for page in pages[1:] for row in accounts[(page - 1) * PAGE : page * PAGE]}
        assert of >= later
        if change == "all are others":
            assert of == {row["id"] for row in accounts[(pages[0] - 1) * PAGE :]}
        with bench.database.connect() as connection:
            connection.execute("delete from app.records")


def test_a_source_that_is_away_is_waited_for(bench: Bench) -> None:
    bench.source.family(4, 1)
    run_id = bench.run(LIST_ACCOUNTS, LIST_CONTACTS)
    assert bench.work(run_id, 3) == "queued"
    with bench.database.worker() as worker:
        claimed = worker.claim(3600, "sync_job_run")
        error = {"code": "source_unavailable", "message": "It is away."}
        response = worker.call(
            "worker_fail", execution_id=run_id, lease_token=claimed["lease_token"], error=error, retry=True
        )
    assert response == {"result": "queued"}
    bench.due(run_id)
    assert bench.work(run_id) == "completed"
    assert bench.stats(run_id) == {name: {"list": {"fetched": 4, "persisted": 4}} for name in (ACCOUNTS, CONTACTS)}


# What is true meanwhile, and what is held


def test_its_counts_are_true_at_every_moment(bench: Bench) -> None:
    bench.source.family(4, 3)
    moments = 0

    def source_check(asked: Asked) -> None:
        nonlocal moments
        if asked.resource:
            moments += 1
            with bench.database.connect() as connection, connection.transaction():
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

    run_id = bench.run(LIST_ACCOUNTS, LIST_CONTACTS)
    bench.source.before = source_check
    assert bench.work(run_id) == "completed"
    assert moments == 10


def test_of_a_wide_tree_one_page_per_level_is_held(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.source.family(60, 4, 4)
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
    run_id = bench.run({**LIST_ACCOUNTS, "persist": False}, {**LIST_CONTACTS, "persist": False}, LIST_NOTES)
    gc.collect()
    assert bench.work(run_id, 150) == "queued"
    assert len(bench.source.asked) > 100
    # One per level, and where the last level turns its page, that page.
    assert most <= 3 + 1
    checkpoint = bench.database.execution(run_id)["checkpoint"]
    assert len(checkpoint["frames"]) <= 3
    assert len(str(checkpoint)) < 2000
