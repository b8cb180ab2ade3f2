"""functions/worker/runners/model_sync.py with real sources: mapped fields, rows matched by identity in each
mode, and counts that match the rows, even if a worker dies.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import Execution, WorkerClient, service_caller
from functions.worker.engine import Engine, Signals
from functions.worker.runners.model_sync import mapped
from tests.support.project import BOTH_TRANSPORTS, expect_error
from tests.support.syncs import BULK, DIRECT, LOCAL, MODEL_SYNC, Client, StepWorker, TableSource, make_model, rows, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.project import Project

through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
through_one_door = pytest.mark.parametrize("project", DIRECT, indirect=True, ids=str)

AIRLINES: list[dict[str, Any]] = [
    {"id": 1, "code": "AA", "name": "American"},
    {"id": 2, "code": "UA", "name": "United"},
    {"id": 3, "code": "B6", "name": "JetBlue"},
    {"id": 4, "code": "日本 🛫", "name": "'; --"},
    {"id": 5, "code": "WN", "name": None},
]
BATCHES = 3
FIELDS = ["id", "code", "name", "hub", "since"]


@pytest.fixture
def table_source() -> Iterator[TableSource]:
    with TableSource() as running:
        running.put("airlines", *AIRLINES)
        yield running


class Scenario:
    def __init__(self, project: Project, table_source: TableSource) -> None:
        self.client = Client(project, MODEL_SYNC, project.database.member())
        self.database = project.database
        self.table_source = table_source
        self.source = self.database.connection(self.client.user.agency_id, config=table_source.config("airlines"))
        self.model = make_model(self.client, self.source, "airlines", FIELDS)
        self.target = {"connection_id": self.client.records_connection(), "object": "accounts"}

    def field(self, source: str, target: str) -> dict[str, Any]:
        return {"source": {"model_id": self.model, "field": source}, "target": target}

    def sync(self, mode: str = "updateOrCreate", by: str | None = "code", **members: Any) -> str:
        identity = {**self.field(by, "code"), "function": "Equality"} if by else None
        fields = members.pop("fields", [self.field("name", "title")])
        return self.client.made(mode=mode, identity=identity, fields=fields, target=self.target, **members)

    def rows(self) -> dict[str, Any]:
        return rows(self.database, self.target["connection_id"], self.target["object"])

    def stored(self) -> dict[str, tuple[Any, ...]]:
        """By key: the execution that last wrote the row, the time, and the data."""
        query = "select key, data, execution_id, stored_at from app.records where connection_id = %s order by key"
        found = self.database.all(query, (self.target["connection_id"],))
        return {one["key"]: (one["execution_id"], one["stored_at"], json.dumps(one["data"])) for one in found}

    def run(self, sync_id: str) -> dict[str, int]:
        """An execution's counts, compared with what it did to the rows."""
        before = self.stored()
        execution_id = self.client.started(sync_id)
        run(self.database, execution_id)
        return self.counted(sync_id, execution_id, before)

    def counted(self, sync_id: str, execution_id: str, before: dict[str, Any]) -> dict[str, int]:
        execution = self.client.execution(sync_id, execution_id)
        counts: dict[str, int] = execution["counts"]
        after = self.stored()
        assert execution["status"] == "completed"
        assert set(before) <= set(after)
        assert counts["insert"] == len(set(after) - set(before))
        assert counts["update"] == len([key for key in before if after[key] != before[key]])
        assert counts["error"] == len(execution["errors"])
        assert (counts["delete"], counts["upserts"], counts["warnings"]) == (0, 0, 0)
        assert counts["total"] == self.database.execution(execution_id)["records"]
        return {name: counts[name] for name in ("total", "insert", "update", "error")}


@pytest.fixture
def scenario(project: Project, table_source: TableSource) -> Scenario:
    return Scenario(project, table_source)


def counts(total: int, insert: int = 0, update: int = 0, error: int = 0) -> dict[str, int]:
    return {"total": total, "insert": insert, "update": update, "error": error}


def key(value: Any) -> str:
    return json.dumps([value], ensure_ascii=False, separators=(",", ":"))


def accounts(*records: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {key(one["code"]): {"title": one.get("name"), "code": one["code"], **more} for one in records}


# Mapping


@through_both_doors
def test_fields__only_mapped_ones_are_stored(scenario: Scenario) -> None:
    fields = [scenario.field("name", "title"), scenario.field("name", "日本"), scenario.field("id", "number")]
    assert scenario.run(scenario.sync(fields=fields)) == counts(5, insert=5)
    assert scenario.rows() == {
        key(one["code"]): {"title": one["name"], "日本": one["name"], "number": one["id"], "code": one["code"]}
        for one in AIRLINES
    }


@through_both_doors
def test_fields__any_json__stored_unchanged(scenario: Scenario) -> None:
    values: list[Any] = [None, True, 0, -1.5, 10**30, "", "\u2028 🛫", [], [1, {"a": None}], {}, {"'": '"'}]
    scenario.table_source.put("airlines", *({"id": n, "code": n, "name": value} for n, value in enumerate(values)))
    assert scenario.run(scenario.sync()) == counts(len(values), insert=len(values))
    assert scenario.rows() == {f"[{n}]": {"code": n, "title": value} for n, value in enumerate(values)}


@through_both_doors
def test_fields__missing_at_the_source__null(scenario: Scenario) -> None:
    """An existing row loses its value, because the source decides."""
    sync_id = scenario.sync(fields=[scenario.field("name", "title"), scenario.field("hub", "hub")])
    scenario.table_source.put("airlines", {"id": 1, "code": "AA", "name": "American", "hub": "DFW"})
    assert scenario.run(sync_id) == counts(1, insert=1)
    scenario.table_source.put("airlines", {"id": 1, "code": "AA", "name": "American"})
    assert scenario.run(sync_id) == counts(1, update=1)
    assert scenario.rows() == {'["AA"]': {"code": "AA", "title": "American", "hub": None}}


# Modes


def before_of(scenario: Scenario) -> dict[str, Any]:
    """Two rows that a bulk sync has stored, one of which the source no longer has."""
    other = TableSource()
    other.put("accounts", {"code": "AA", "title": "old", "more": 1}, {"code": "XX", "title": "gone", "more": 2})
    bulk = scenario.client.of(BULK)
    connection_id = scenario.database.connection(scenario.client.user.agency_id, config=other.config(key=["code"]))
    target = scenario.target["connection_id"]
    run(
        scenario.database, bulk.started(bulk.made(source_connection_id=connection_id, destination_connection_id=target))
    )
    other.close()
    return scenario.rows()


OLD = {'["AA"]': {"code": "AA", "title": "old", "more": 1}, '["XX"]': {"code": "XX", "title": "gone", "more": 2}}
NEW_AA = {'["AA"]': {"code": "AA", "title": "American", "more": 1}}


@through_both_doors
@pytest.mark.parametrize(
    ("mode", "counted", "left"),
    [
        ("create", counts(5, insert=4), {**accounts(*AIRLINES), **OLD}),
        ("update", counts(5, update=1), {**OLD, **NEW_AA}),
        ("updateOrCreate", counts(5, insert=4, update=1), {**accounts(*AIRLINES), **OLD, **NEW_AA}),
    ],
)
def test_mode__over_rows_of_a_bulk_sync(
    scenario: Scenario, mode: str, counted: dict[str, int], left: dict[str, Any]
) -> None:
    assert before_of(scenario) == OLD
    sync_id = scenario.sync(mode)
    assert scenario.run(sync_id) == counted
    assert scenario.rows() == left
    # In the second execution, created rows exist and updated rows are written again.
    again = {"create": counts(5), "update": counts(5, update=1), "updateOrCreate": counts(5, update=5)}
    assert scenario.run(sync_id) == again[mode]
    assert scenario.rows() == left


@through_both_doors
@pytest.mark.parametrize("identity", ["code", None])
def test_append__every_execution_adds_every_record(scenario: Scenario, identity: str | None) -> None:
    """Existing rows remain, also those with another identity. A given identity is ignored."""
    before_of(scenario)
    sync_id = scenario.sync("append", by=identity)
    for times in (1, 2):
        assert scenario.run(sync_id) == counts(5, insert=5)
        appended = [data for one, data in scenario.rows().items() if one not in OLD]
        expected = [{"title": one["name"]} for one in AIRLINES for _ in range(times)]
        assert sorted(map(json.dumps, appended)) == sorted(map(json.dumps, expected))
    assert {one: scenario.rows()[one] for one in OLD} == OLD


@through_both_doors
@pytest.mark.parametrize("mode", ["update", "updateOrCreate"])
def test_sync_all_records__false__unchanged_row_not_written(scenario: Scenario, mode: str) -> None:
    before_of(scenario)
    run(scenario.database, scenario.client.started(scenario.sync()))
    sync_id = scenario.sync(mode, sync_all_records=False)
    before = scenario.stored()
    assert scenario.run(sync_id) == counts(5)
    assert scenario.stored() == before
    scenario.table_source.tables["airlines"][1] = {"id": 2, "code": "UA", "name": "another"}
    scenario.table_source.tables["airlines"].append({"id": 6, "code": "ZZ", "name": "new"})
    assert scenario.run(sync_id) == counts(6, insert=int(mode == "updateOrCreate"), update=1)
    assert scenario.rows()['["UA"]']["title"] == "another"


@through_both_doors
def test_sync_all_records__true__every_row_written(scenario: Scenario) -> None:
    sync_id = scenario.sync()
    assert scenario.run(sync_id) == counts(5, insert=5)
    assert scenario.run(sync_id) == counts(5, update=5)


@through_both_doors
def test_fields__two_syncs_into_one_row(scenario: Scenario) -> None:
    scenario.run(scenario.sync(fields=[scenario.field("name", "title")]))
    assert scenario.run(scenario.sync("update", fields=[scenario.field("id", "number")])) == counts(5, update=5)
    assert scenario.rows() == {
        key(one["code"]): {"code": one["code"], "title": one["name"], "number": one["id"]} for one in AIRLINES
    }


# Identities


@through_both_doors
def test_identity__number_and_text_differ(scenario: Scenario) -> None:
    values: list[Any] = [1, "1", "01", 1.5, -0.5, 10**20, "[1]", '"', "é", "e\u0301", "A", "a", " a", "", True, False]
    scenario.table_source.put("airlines", *({"id": n, "code": value, "name": n} for n, value in enumerate(values)))
    sync_id = scenario.sync()
    assert scenario.run(sync_id) == counts(len(values), insert=len(values))
    assert scenario.run(sync_id) == counts(len(values), update=len(values))
    assert scenario.rows() == {key(value): {"code": value, "title": n} for n, value in enumerate(values)}


@through_both_doors
@pytest.mark.parametrize("other", ["1.0", "1e0", "10e-1"])
def test_identity__equal_numbers_are_equal(scenario: Scenario, other: str) -> None:
    """JSON and the database have one type of number."""
    sync_id = scenario.sync()
    scenario.table_source.put("airlines", {"id": 1, "code": 1, "name": "an integer"})
    scenario.run(sync_id)
    scenario.table_source.put("airlines", {"id": 1, "code": json.loads(other), "name": "a fraction"})
    assert scenario.run(sync_id) == counts(1, update=1)
    assert list(scenario.rows().values()) == [{"code": 1, "title": "a fraction"}]


@through_both_doors
def test_identity__missing_value__counted_as_error(scenario: Scenario) -> None:
    scenario.table_source.put(
        "airlines",
        {"id": 1, "code": "AA", "name": "good"},
        {"id": 2, "code": None, "name": "null"},
        {"id": 3, "name": "none"},
        {"id": "日" * 300, "code": [1], "name": "a list"},
        {"id": 5, "code": {"a": 1}, "name": "an object"},
        {"id": 6, "code": "x" * 1996, "name": "as long as may be"},
        {"id": 7, "code": "x" * 1997, "name": "too long"},
        {"id": 8, "code": "日" * 666, "name": "too long in bytes"},
    )
    for mode, by_mode in (
        ("create", counts(8, insert=2, error=6)),
        ("update", counts(8, update=2, error=6)),
        ("updateOrCreate", counts(8, update=2, error=6)),
    ):
        sync_id = scenario.sync(mode)
        assert scenario.run(sync_id) == by_mode
    assert {one["title"] for one in scenario.rows().values()} == {"good", "as long as may be"}
    [execution] = scenario.client.request("GET", f"/{sync_id}/executions").json()["data"]
    assert execution["errors"] == [
        'The record [2] has no value for its identity "code".',
        'The record [3] has no value for its identity "code".',
        f'The record ["{"日" * 198} has no value for its identity "code".',
        'The record [5] has no value for its identity "code".',
        'A record\'s identity "code" has more than 2000 bytes.',
        'A record\'s identity "code" has more than 2000 bytes.',
    ]


@through_both_doors
def test_errors__first_hundred_listed_and_all_counted(scenario: Scenario) -> None:
    scenario.table_source.put("airlines", *({"id": n, "code": None if n % 2 else n} for n in range(300)))
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id)
    run(scenario.database, execution_id)
    execution = scenario.client.execution(sync_id, execution_id)
    assert {name: execution["counts"][name] for name in ("total", "insert", "error")} == {
        "total": 300,
        "insert": 150,
        "error": 150,
    }
    sentence = 'The record [{}] has no value for its identity "code".'
    assert execution["errors"] == [sentence.format(n) for n in range(1, 200, 2)]


@through_both_doors
def test_identity__repeated__last_record_wins(scenario: Scenario) -> None:
    """A repeated identity is one row, written once, within a batch. In a later batch it is an update."""
    scenario.table_source.put("airlines", *({"id": n, "code": "AA", "name": n} for n in range(5)))
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id)
    run(scenario.database, execution_id)
    shown = scenario.client.execution(sync_id, execution_id)["counts"]
    assert (shown["total"], shown["insert"], shown["update"], shown["error"]) == (5, 1, 2, 0)
    assert scenario.rows() == {'["AA"]': {"code": "AA", "title": 4}}


# Status and counts during an execution


@through_both_doors
def test_counts__grow_with_each_batch(scenario: Scenario) -> None:
    before_of(scenario)
    scenario.table_source.tables["airlines"].insert(1, {"id": 9, "code": None})
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id)

    def shown() -> tuple[int, ...]:
        found = scenario.client.execution(sync_id, execution_id)["counts"]
        return tuple(found[name] for name in ("total", "insert", "update", "error"))

    with StepWorker(scenario.database, execution_id) as step_worker:
        for expected in ((0, 0, 0, 0), (2, 0, 1, 1), (4, 2, 1, 1), (6, 4, 1, 1)):
            assert shown() == expected
            if expected[0] < 6:
                step_worker.steps(1)
        step_worker.rest()
    assert shown() == (6, 4, 1, 1)


@through_both_doors
@pytest.mark.parametrize("mode", ["create", "update", "updateOrCreate", "append"])
@pytest.mark.parametrize("done", range(BATCHES + 1))
def test_runner__worker_dies_after_any_batch__another_resumes_and_counts_once(
    scenario: Scenario, mode: str, done: int
) -> None:
    before_of(scenario)
    scenario.table_source.tables["airlines"][3] = {"id": 4, "name": "no code"}
    sync_id = scenario.sync(mode)
    before = scenario.stored()
    execution_id = scenario.client.started(sync_id)
    step_worker = StepWorker(scenario.database, execution_id)
    for _ in range(done):
        batch = step_worker.batch()
        assert batch is not None
        assert (
            step_worker.commit(batch) == step_worker.commit(batch, step_worker.seq) == "continue"
        )  # as after a lost response
    step_worker.dies()
    scenario.table_source.requests.clear()
    with StepWorker(scenario.database, execution_id) as heir:
        assert heir.rest() == BATCHES - done
    assert len(scenario.table_source.requests) == BATCHES - done
    assert (
        scenario.counted(sync_id, execution_id, before)
        == {
            "create": counts(5, insert=3, error=1),
            "update": counts(5, update=1, error=1),
            "updateOrCreate": counts(5, insert=3, update=1, error=1),
            "append": counts(5, insert=5),
        }[mode]
    )


@through_both_doors
def test_cancel__in_the_middle__stored_rows_stay(scenario: Scenario) -> None:
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id)
    with StepWorker(scenario.database, execution_id) as step_worker:
        step_worker.steps(1)
        assert scenario.client.request("POST", f"/{sync_id}/cancel").json()["data"]["status"] == "canceling"
        assert step_worker.call("worker_release") == "cancelled"
    shown = scenario.client.execution(sync_id, execution_id)
    assert (shown["status"], shown["counts"]["insert"], shown["errors"]) == ("canceled", 2, [])
    assert scenario.rows() == accounts(*AIRLINES[:2])


@through_both_doors
def test_source__rejects_a_later_request__fails(scenario: Scenario) -> None:
    """The execution's error comes before those of records."""
    scenario.table_source.tables["airlines"][0] = {"id": 1, "name": "no code"}
    scenario.table_source.before = lambda _resource, page: 401 if page == 2 else None
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id)
    with StepWorker(scenario.database, execution_id) as step_worker:
        execution = Execution(**step_worker.claimed)
    client = WorkerClient(PostgresTransport(scenario.database.login("authenticator")), service_caller(""))
    assert asyncio.run(Engine(client, 5).run(execution, LOCAL["model_sync"], Signals())) == "failed"
    asyncio.run(client.aclose())
    shown = scenario.client.execution(sync_id, execution_id)
    assert (shown["status"], shown["counts"]["insert"], shown["counts"]["error"]) == ("failed", 1, 1)
    assert shown["errors"] == [
        'The source returned 401 for "airlines". Check the secret and what it may read.',
        'The record [1] has no value for its identity "code".',
    ]


@through_one_door
def test_runner__complete__reads_nothing(scenario: Scenario) -> None:
    execution_id = scenario.client.started(scenario.sync())
    step_worker = StepWorker(scenario.database, execution_id)
    step_worker.steps(BATCHES)
    step_worker.dies()
    scenario.table_source.requests.clear()
    scenario.database.admin.execute("update app.connections set config = '{}' where id = %s", (scenario.source,))
    with StepWorker(scenario.database, execution_id) as heir:
        assert heir.rest() == 0
    assert scenario.table_source.requests == []


@through_both_doors
def test_start__object_created_since__checked_again(scenario: Scenario) -> None:
    """Two syncs of an empty object with different identities. Starting the second one fails."""
    first = scenario.sync()
    identity = {**scenario.field("id", "number"), "function": "Equality"}
    second = scenario.client.made(identity=identity, fields=[scenario.field("name", "title")], target=scenario.target)
    scenario.run(first)
    with scenario.client.project.unchanged():
        members = expect_error(scenario.client.start(second), 400, "not_the_identity")
    assert members == {"object": "accounts", "target": "number"}
    assert scenario.run(first) == counts(5, update=5)


def test_mapped__rows_and_errors() -> None:
    spec: dict[str, Any] = {"fields": [{"source": {"field": "a"}, "target": "b"}], "identity": None}
    records = [{"key": "[1]", "data": {"a": 1, "c": 2}}, {"key": "[2]", "data": {}}]
    assert mapped(spec, records) == (
        [{"key": "[1]", "data": {"b": 1}}, {"key": "[2]", "data": {"b": None}}],
        [],
    )
