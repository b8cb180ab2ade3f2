"""functions/worker/runners/model_sync.py over real sources: fields mapped, rows matched by their identity in each mode,
and counts that are what has become of the rows, whoever dies in between.
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
from tests.support.project import BOTH_TRANSPORTS, refusal
from tests.support.syncs import BULK, DIRECT, LOCAL, MODEL_SYNC, Client, Hand, Shelf, make_model, rows, run

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
def shelf() -> Iterator[Shelf]:
    with Shelf() as running:
        running.put("airlines", *AIRLINES)
        yield running


class Scenario:
    def __init__(self, project: Project, shelf: Shelf) -> None:
        self.client = Client(project, MODEL_SYNC, project.database.member())
        self.database = project.database
        self.shelf = shelf
        self.source = self.database.connection(self.client.user.agency_id, config=shelf.config("airlines"))
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
        """By key, what makes a row: who wrote it last, when, and what."""
        query = "select key, data, execution_id, stored_at from app.records where connection_id = %s order by key"
        found = self.database.all(query, (self.target["connection_id"],))
        return {one["key"]: (one["execution_id"], one["stored_at"], json.dumps(one["data"])) for one in found}

    def run(self, sync_id: str) -> dict[str, int]:
        """An execution's counts, held against what it did to the rows."""
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
def scene(project: Project, shelf: Shelf) -> Scenario:
    return Scenario(project, shelf)


def counts(total: int, insert: int = 0, update: int = 0, error: int = 0) -> dict[str, int]:
    return {"total": total, "insert": insert, "update": update, "error": error}


def key(value: Any) -> str:
    return json.dumps([value], ensure_ascii=False, separators=(",", ":"))


def accounts(*records: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {key(one["code"]): {"title": one.get("name"), "code": one["code"], **more} for one in records}


# Mapping


@through_both_doors
def test_fields_are_mapped_and_nothing_else(scene: Scenario) -> None:
    fields = [scene.field("name", "title"), scene.field("name", "日本"), scene.field("id", "number")]
    assert scene.run(scene.sync(fields=fields)) == counts(5, insert=5)
    assert scene.rows() == {
        key(one["code"]): {"title": one["name"], "日本": one["name"], "number": one["id"], "code": one["code"]}
        for one in AIRLINES
    }


@through_both_doors
def test_values_of_any_kind_are_mapped_as_they_are(scene: Scenario) -> None:
    values: list[Any] = [None, True, 0, -1.5, 10**30, "", "\u2028 🛫", [], [1, {"a": None}], {}, {"'": '"'}]
    scene.shelf.put("airlines", *({"id": n, "code": n, "name": value} for n, value in enumerate(values)))
    assert scene.run(scene.sync()) == counts(len(values), insert=len(values))
    assert scene.rows() == {f"[{n}]": {"code": n, "title": value} for n, value in enumerate(values)}


@through_both_doors
def test_a_field_that_has_vanished_is_null(scene: Scenario) -> None:
    """A row that was there loses its value: it is the source that decides."""
    sync_id = scene.sync(fields=[scene.field("name", "title"), scene.field("hub", "hub")])
    scene.shelf.put("airlines", {"id": 1, "code": "AA", "name": "American", "hub": "DFW"})
    assert scene.run(sync_id) == counts(1, insert=1)
    scene.shelf.put("airlines", {"id": 1, "code": "AA", "name": "American"})
    assert scene.run(sync_id) == counts(1, update=1)
    assert scene.rows() == {'["AA"]': {"code": "AA", "title": "American", "hub": None}}


# Modes


def before_of(scene: Scenario) -> dict[str, Any]:
    """Two rows that a bulk sync has stored, one of them the source's no longer."""
    other = Shelf()
    other.put("accounts", {"code": "AA", "title": "old", "more": 1}, {"code": "XX", "title": "gone", "more": 2})
    bulk = scene.client.of(BULK)
    connection_id = scene.database.connection(scene.client.user.agency_id, config=other.config(key=["code"]))
    target = scene.target["connection_id"]
    run(scene.database, bulk.started(bulk.made(source_connection_id=connection_id, destination_connection_id=target)))
    other.close()
    return scene.rows()


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
def test_each_mode_over_rows_that_a_bulk_sync_has_stored(
    scene: Scenario, mode: str, counted: dict[str, int], left: dict[str, Any]
) -> None:
    assert before_of(scene) == OLD
    sync_id = scene.sync(mode)
    assert scene.run(sync_id) == counted
    assert scene.rows() == left
    # Once more: what is created is there, what is updated is written again.
    again = {"create": counts(5), "update": counts(5, update=1), "updateOrCreate": counts(5, update=5)}
    assert scene.run(sync_id) == again[mode]
    assert scene.rows() == left


@through_both_doors
@pytest.mark.parametrize("identity", ["code", None])
def test_append_adds_every_record_of_every_execution(scene: Scenario, identity: str | None) -> None:
    """Beside whatever there is, also what is told apart otherwise. An identity that comes along is not looked at."""
    before_of(scene)
    sync_id = scene.sync("append", by=identity)
    for times in (1, 2):
        assert scene.run(sync_id) == counts(5, insert=5)
        appended = [data for one, data in scene.rows().items() if one not in OLD]
        expected = [{"title": one["name"]} for one in AIRLINES for _ in range(times)]
        assert sorted(map(json.dumps, appended)) == sorted(map(json.dumps, expected))
    assert {one: scene.rows()[one] for one in OLD} == OLD


@through_both_doors
@pytest.mark.parametrize("mode", ["update", "updateOrCreate"])
def test_without_all_records_a_row_that_would_not_change_is_left_alone(scene: Scenario, mode: str) -> None:
    before_of(scene)
    run(scene.database, scene.client.started(scene.sync()))
    sync_id = scene.sync(mode, sync_all_records=False)
    before = scene.stored()
    assert scene.run(sync_id) == counts(5)
    assert scene.stored() == before
    scene.shelf.tables["airlines"][1] = {"id": 2, "code": "UA", "name": "another"}
    scene.shelf.tables["airlines"].append({"id": 6, "code": "ZZ", "name": "new"})
    assert scene.run(sync_id) == counts(6, insert=int(mode == "updateOrCreate"), update=1)
    assert scene.rows()['["UA"]']["title"] == "another"


@through_both_doors
def test_with_all_records_every_row_is_written(scene: Scenario) -> None:
    sync_id = scene.sync()
    assert scene.run(sync_id) == counts(5, insert=5)
    assert scene.run(sync_id) == counts(5, update=5)


@through_both_doors
def test_two_syncs_fill_one_row(scene: Scenario) -> None:
    scene.run(scene.sync(fields=[scene.field("name", "title")]))
    assert scene.run(scene.sync("update", fields=[scene.field("id", "number")])) == counts(5, update=5)
    assert scene.rows() == {
        key(one["code"]): {"code": one["code"], "title": one["name"], "number": one["id"]} for one in AIRLINES
    }


# Identities


@through_both_doors
def test_numbers_and_texts_are_different_identities(scene: Scenario) -> None:
    values: list[Any] = [1, "1", "01", 1.5, -0.5, 10**20, "[1]", '"', "é", "e\u0301", "A", "a", " a", "", True, False]
    scene.shelf.put("airlines", *({"id": n, "code": value, "name": n} for n, value in enumerate(values)))
    sync_id = scene.sync()
    assert scene.run(sync_id) == counts(len(values), insert=len(values))
    assert scene.run(sync_id) == counts(len(values), update=len(values))
    assert scene.rows() == {key(value): {"code": value, "title": n} for n, value in enumerate(values)}


@through_both_doors
@pytest.mark.parametrize("other", ["1.0", "1e0", "10e-1"])
def test_one_number_is_one_identity_however_it_is_written(scene: Scenario, other: str) -> None:
    """JSON knows no other one, nor does the database."""
    sync_id = scene.sync()
    scene.shelf.put("airlines", {"id": 1, "code": 1, "name": "an integer"})
    scene.run(sync_id)
    scene.shelf.put("airlines", {"id": 1, "code": json.loads(other), "name": "a fraction"})
    assert scene.run(sync_id) == counts(1, update=1)
    assert list(scene.rows().values()) == [{"code": 1, "title": "a fraction"}]


@through_both_doors
def test_a_record_without_a_value_for_its_identity_is_an_error(scene: Scenario) -> None:
    scene.shelf.put(
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
        sync_id = scene.sync(mode)
        assert scene.run(sync_id) == by_mode
    assert {one["title"] for one in scene.rows().values()} == {"good", "as long as may be"}
    [execution] = scene.client.ask("GET", f"/{sync_id}/executions").json()["data"]
    assert execution["errors"] == [
        'The record [2] has no value for its identity "code".',
        'The record [3] has no value for its identity "code".',
        f'The record ["{"日" * 198} has no value for its identity "code".',
        'The record [5] has no value for its identity "code".',
        'A record\'s identity "code" has more than 2000 bytes.',
        'A record\'s identity "code" has more than 2000 bytes.',
    ]


@through_both_doors
def test_of_many_errors_the_first_hundred_are_told_and_all_are_counted(scene: Scenario) -> None:
    scene.shelf.put("airlines", *({"id": n, "code": None if n % 2 else n} for n in range(300)))
    sync_id = scene.sync()
    execution_id = scene.client.started(sync_id)
    run(scene.database, execution_id)
    execution = scene.client.execution(sync_id, execution_id)
    assert {name: execution["counts"][name] for name in ("total", "insert", "error")} == {
        "total": 300,
        "insert": 150,
        "error": 150,
    }
    sentence = 'The record [{}] has no value for its identity "code".'
    assert execution["errors"] == [sentence.format(n) for n in range(1, 200, 2)]


@through_both_doors
def test_of_records_with_one_identity_the_last_counts(scene: Scenario) -> None:
    """In one batch it is one row, written once; in the next it is an update."""
    scene.shelf.put("airlines", *({"id": n, "code": "AA", "name": n} for n in range(5)))
    sync_id = scene.sync()
    execution_id = scene.client.started(sync_id)
    run(scene.database, execution_id)
    shown = scene.client.execution(sync_id, execution_id)["counts"]
    assert (shown["total"], shown["insert"], shown["update"], shown["error"]) == (5, 1, 2, 0)
    assert scene.rows() == {'["AA"]': {"code": "AA", "title": 4}}


# Status and counts on the way


@through_both_doors
def test_counts_grow_with_each_batch(scene: Scenario) -> None:
    before_of(scene)
    scene.shelf.tables["airlines"].insert(1, {"id": 9, "code": None})
    sync_id = scene.sync()
    execution_id = scene.client.started(sync_id)

    def shown() -> tuple[int, ...]:
        found = scene.client.execution(sync_id, execution_id)["counts"]
        return tuple(found[name] for name in ("total", "insert", "update", "error"))

    with Hand(scene.database, execution_id) as hand:
        for expected in ((0, 0, 0, 0), (2, 0, 1, 1), (4, 2, 1, 1), (6, 4, 1, 1)):
            assert shown() == expected
            if expected[0] < 6:
                hand.steps(1)
        hand.rest()
    assert shown() == (6, 4, 1, 1)


@through_both_doors
@pytest.mark.parametrize("mode", ["create", "update", "updateOrCreate", "append"])
@pytest.mark.parametrize("done", range(BATCHES + 1))
def test_from_wherever_a_worker_died_another_goes_on_and_counts_once(scene: Scenario, mode: str, done: int) -> None:
    before_of(scene)
    scene.shelf.tables["airlines"][3] = {"id": 4, "name": "no code"}
    sync_id = scene.sync(mode)
    before = scene.stored()
    execution_id = scene.client.started(sync_id)
    hand = Hand(scene.database, execution_id)
    for _ in range(done):
        batch = hand.batch()
        assert batch is not None
        assert hand.commit(batch) == hand.commit(batch, hand.seq) == "continue"  # the answer was lost
    hand.dies()
    scene.shelf.asked.clear()
    with Hand(scene.database, execution_id) as heir:
        assert heir.rest() == BATCHES - done
    assert len(scene.shelf.asked) == BATCHES - done
    assert (
        scene.counted(sync_id, execution_id, before)
        == {
            "create": counts(5, insert=3, error=1),
            "update": counts(5, update=1, error=1),
            "updateOrCreate": counts(5, insert=3, update=1, error=1),
            "append": counts(5, insert=5),
        }[mode]
    )


@through_both_doors
def test_a_cancel_in_the_middle_keeps_what_is_stored(scene: Scenario) -> None:
    sync_id = scene.sync()
    execution_id = scene.client.started(sync_id)
    with Hand(scene.database, execution_id) as hand:
        hand.steps(1)
        assert scene.client.ask("POST", f"/{sync_id}/cancel").json()["data"]["status"] == "canceling"
        assert hand.tell("worker_release") == "cancelled"
    shown = scene.client.execution(sync_id, execution_id)
    assert (shown["status"], shown["counts"]["insert"], shown["errors"]) == ("canceled", 2, [])
    assert scene.rows() == accounts(*AIRLINES[:2])


@through_both_doors
def test_a_source_that_refuses_in_the_middle(scene: Scenario) -> None:
    """The sentence about it goes before those about records."""
    scene.shelf.tables["airlines"][0] = {"id": 1, "name": "no code"}
    scene.shelf.before = lambda _resource, page: 401 if page == 2 else None
    sync_id = scene.sync()
    execution_id = scene.client.started(sync_id)
    with Hand(scene.database, execution_id) as hand:
        execution = Execution(**hand.claimed)
    client = WorkerClient(PostgresTransport(scene.database.login("authenticator")), service_caller(""))
    assert asyncio.run(Engine(client, 5).run(execution, LOCAL["model_sync"], Signals())) == "failed"
    asyncio.run(client.aclose())
    shown = scene.client.execution(sync_id, execution_id)
    assert (shown["status"], shown["counts"]["insert"], shown["counts"]["error"]) == ("failed", 1, 1)
    assert shown["errors"] == [
        'The source returned 401 for "airlines". Check the secret and what it may read.',
        'The record [1] has no value for its identity "code".',
    ]


@through_one_door
def test_what_is_complete_reads_nothing(scene: Scenario) -> None:
    execution_id = scene.client.started(scene.sync())
    hand = Hand(scene.database, execution_id)
    hand.steps(BATCHES)
    hand.dies()
    scene.shelf.asked.clear()
    scene.database.admin.execute("update app.connections set config = '{}' where id = %s", (scene.source,))
    with Hand(scene.database, execution_id) as heir:
        assert heir.rest() == 0
    assert scene.shelf.asked == []


@through_both_doors
def test_an_object_that_was_filled_meanwhile_is_looked_at_again_at_the_start(scene: Scenario) -> None:
    """Two syncs of an empty object, each with an identity of its own: the second is told when it is started."""
    first = scene.sync()
    identity = {**scene.field("id", "number"), "function": "Equality"}
    second = scene.client.made(identity=identity, fields=[scene.field("name", "title")], target=scene.target)
    scene.run(first)
    with scene.client.project.unchanged():
        members = refusal(scene.client.start(second), 400, "not_the_identity")
    assert members == {"object": "accounts", "target": "number"}
    assert scene.run(first) == counts(5, update=5)


def test_mapping_by_itself() -> None:
    spec: dict[str, Any] = {"fields": [{"source": {"field": "a"}, "target": "b"}], "identity": None}
    records = [{"key": "[1]", "data": {"a": 1, "c": 2}}, {"key": "[2]", "data": {}}]
    assert mapped(spec, records) == (
        [{"key": "[1]", "data": {"b": 1}}, {"key": "[2]", "data": {"b": None}}],
        [],
    )
