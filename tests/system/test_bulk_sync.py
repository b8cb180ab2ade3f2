"""functions/worker/runners/bulk_sync.py with real sources. Counts match the stored rows, even if a worker dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import Execution, WorkerClient, service_caller
from functions.worker.engine import Engine, Signals
from tests.support.historical_syncs import LoggedWorker
from tests.support.project import BOTH_TRANSPORTS
from tests.support.syncs import BULK, DIRECT, LOCAL, Client, StepWorker, TableSource, rows, run
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.project import Project

through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
through_one_door = pytest.mark.parametrize("project", DIRECT, indirect=True, ids=str)


@pytest.fixture
def table_source() -> Iterator[TableSource]:
    """Five flights on three pages, no planes, three airports on two."""
    with TableSource() as running:
        running.put("flights", *({"id": n, "number": f"F{n}"} for n in range(5)))
        running.put("planes")
        running.put("airports", *({"id": n, "name": f"A{n}"} for n in range(3)))
        yield running


NAMES = ["flights", "planes", "airports"]
BATCHES = 3 + 1 + 2


class Scenario:
    def __init__(self, project: Project, table_source: TableSource) -> None:
        self.client = Client(project, BULK, project.database.member())
        self.database = project.database
        self.table_source = table_source
        self.source = self.database.connection(self.client.user.agency_id, config=table_source.config(*NAMES))
        self.destination = self.client.records_connection()

    def sync(self, **members: Any) -> str:
        body = {"source_connection_id": self.source, "destination_connection_id": self.destination, "schemas": NAMES}
        return self.client.made(**{**body, **members})

    def rows(self) -> dict[str, Any]:
        return rows(self.database, self.destination)

    def held(self, *names: str, prefix: str = "") -> dict[str, Any]:
        """The rows of a destination after these tables are copied."""
        return {
            f"{prefix}{name} [{one['id']}]": one for name in names or NAMES for one in self.table_source.tables[name]
        }

    def shown(self, sync_id: str, execution_id: str) -> dict[str, tuple[str, int]]:
        """Status and count of each schema. Checks what holds for every execution."""
        execution = self.client.execution(sync_id, execution_id)
        schemas = execution["schemas"]
        assert execution["record_count"] == sum(one["record_count"] for one in schemas)
        assert execution["error_count"] == sum(one["error_count"] for one in schemas) == 0
        for one in schemas:
            begun, ended = one["started_at"], one["completed_at"]
            assert (one["status"] in {"completed", "canceled", "failed"}) == (ended is not None)
            assert one["status"] not in {"running", "completed"} or begun is not None
            assert begun is None or execution["created_at"] <= begun
            assert begun is None or ended is None or begun <= ended
        return {one["schema"]: (one["status"], one["record_count"]) for one in schemas}


@pytest.fixture
def scenario(project: Project, table_source: TableSource) -> Scenario:
    return Scenario(project, table_source)


# From the first batch to the last


@through_both_doors
def test_execution__schemas_progress_to_completed(scenario: Scenario) -> None:
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id)
    states = [
        {"flights": ("created", 0), "planes": ("created", 0), "airports": ("created", 0)},
        {"flights": ("running", 2), "planes": ("created", 0), "airports": ("created", 0)},
        {"flights": ("running", 4), "planes": ("created", 0), "airports": ("created", 0)},
        {"flights": ("completed", 5), "planes": ("created", 0), "airports": ("created", 0)},
        {"flights": ("completed", 5), "planes": ("completed", 0), "airports": ("created", 0)},
        {"flights": ("completed", 5), "planes": ("completed", 0), "airports": ("running", 2)},
        {"flights": ("completed", 5), "planes": ("completed", 0), "airports": ("completed", 3)},
    ]
    assert scenario.shown(sync_id, execution_id) == states[0]
    with StepWorker(scenario.database, execution_id) as step_worker:
        for state in states:
            assert scenario.shown(sync_id, execution_id) == state
            assert len(scenario.rows()) == sum(count for _, count in state.values())
            assert scenario.client.execution(sync_id, execution_id)["version"] == str(step_worker.seq)
            if state is not states[-1]:
                step_worker.steps(1)
        assert scenario.client.execution(sync_id, execution_id)["status"] == "running"
        assert step_worker.rest() == 0
    ended = scenario.client.execution(sync_id, execution_id)
    assert (ended["status"], ended["record_count"], ended["status_message"]) == ("completed", 8, None)
    assert scenario.shown(sync_id, execution_id) == states[-1]
    assert scenario.rows() == scenario.held()


@through_both_doors
@pytest.mark.parametrize("done", range(BATCHES))
@pytest.mark.parametrize("end", ["canceled", "failed"])
def test_execution__ended_in_the_middle__status_of_each_schema(scenario: Scenario, done: int, end: str) -> None:
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id)
    with StepWorker(scenario.database, execution_id) as step_worker:
        step_worker.steps(done)
        before = scenario.shown(sync_id, execution_id)
        if end == "failed":
            assert step_worker.fails() == "failed"
        else:
            assert scenario.client.request("POST", f"/{sync_id}/cancel").json()["data"]["status"] == "canceling"
            assert scenario.client.execution(sync_id, execution_id)["status"] == "canceling"
            assert scenario.shown(sync_id, execution_id) == before
            assert step_worker.call("worker_release") == "cancelled"
    after = scenario.shown(sync_id, execution_id)
    assert after == {name: (status if status == "completed" else end, n) for name, (status, n) in before.items()}
    execution = scenario.client.execution(sync_id, execution_id)
    message = "The source is gone." if end == "failed" else None
    assert (execution["status"], execution["status_message"]) == (end, message)
    for one in execution["schemas"]:
        assert one["status_message"] == (None if one["status"] == "completed" else message)
    assert len(scenario.rows()) == execution["record_count"] == sum(count for _, count in after.values())


@through_both_doors
def test_execution__cancelled_before_a_claim(scenario: Scenario) -> None:
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id)
    assert scenario.client.request("POST", f"/{sync_id}/cancel").json()["data"]["status"] == "canceled"
    assert scenario.shown(sync_id, execution_id) == dict.fromkeys(NAMES, ("canceled", 0))
    assert scenario.rows() == {}


@through_both_doors
def test_execution__next_one__counts_begin_at_zero(scenario: Scenario) -> None:
    sync_id = scenario.sync()
    first = scenario.client.started(sync_id)
    run(scenario.database, first)
    shown = scenario.client.execution(sync_id, first)
    scenario.table_source.tables["flights"].append({"id": 5, "number": "F5"})
    scenario.table_source.tables["airports"][0] = {"id": 0, "name": "another"}
    second = scenario.client.started(sync_id)
    assert scenario.shown(sync_id, second) == dict.fromkeys(NAMES, ("created", 0))
    run(scenario.database, second)
    assert scenario.shown(sync_id, second)["flights"] == ("completed", 6)
    assert scenario.client.execution(sync_id, first) == shown
    assert scenario.rows() == scenario.held()


@through_both_doors
def test_records__deleted_at_the_source__kept(scenario: Scenario) -> None:
    """A bulk sync deletes no rows (retain), and replaces a row as a whole."""
    sync_id = scenario.sync()
    run(scenario.database, scenario.client.started(sync_id))
    gone = scenario.held()
    scenario.table_source.put("flights", {"id": 0})
    run(scenario.database, scenario.client.started(sync_id))
    assert scenario.rows() == {**gone, "flights [0]": {"id": 0}}


# Some of the schemas, and their names


@through_both_doors
def test_start__some_schemas__others_untouched(scenario: Scenario) -> None:
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id, {"schemas": ["airports"]})
    assert scenario.shown(sync_id, execution_id) == {"airports": ("created", 0)}
    run(scenario.database, execution_id)
    assert scenario.shown(sync_id, execution_id) == {"airports": ("completed", 3)}
    assert scenario.client.execution(sync_id, execution_id)["is_partial"] is True
    assert scenario.rows() == scenario.held("airports")
    assert {resource for resource, _ in scenario.table_source.requests} == {"airports"}


@through_both_doors
def test_records__output_prefix(scenario: Scenario) -> None:
    sync_id = scenario.sync(destination_configuration={"schema": "crm.日本"})
    execution_id = scenario.client.started(sync_id)
    with StepWorker(scenario.database, execution_id) as step_worker:
        step_worker.steps(1)
        assert scenario.shown(sync_id, execution_id)["flights"] == ("running", 2)
        step_worker.rest()
    assert scenario.shown(sync_id, execution_id)["flights"] == ("completed", 5)
    assert scenario.rows() == scenario.held(prefix="crm.日本.")
    assert {one["output_name"] for one in scenario.client.execution(sync_id, execution_id)["schemas"]} == {
        f"crm.日本.{name}" for name in NAMES
    }


@through_both_doors
def test_records__longest_names(scenario: Scenario) -> None:
    scenario.table_source.put("x" * 99, {"id": 1})
    source = scenario.database.connection(scenario.client.user.agency_id, config=scenario.table_source.config("x" * 99))
    destination_configuration = {"schema": "y" * 100}
    sync_id = scenario.sync(
        source_connection_id=source, schemas=None, destination_configuration=destination_configuration
    )
    run(scenario.database, scenario.client.started(sync_id))
    assert scenario.rows() == {f"{'y' * 100}.{'x' * 99} [1]": {"id": 1}}


@through_both_doors
def test_records__two_syncs_into_one_destination(scenario: Scenario) -> None:
    """Concurrently. The last write of a row wins, and each execution counts its own writes."""
    other = scenario.database.connection(scenario.client.user.agency_id, config=scenario.table_source.config(*NAMES))
    syncs = [
        scenario.sync(),
        scenario.sync(source_connection_id=other),
        scenario.sync(destination_configuration={"schema": "b"}),
    ]
    executions = [scenario.client.started(sync_id) for sync_id in syncs]
    with contextlib.ExitStack() as stack:
        step_workers = [stack.enter_context(StepWorker(scenario.database, one)) for one in executions]
        for _ in range(BATCHES):
            for step_worker in step_workers:
                step_worker.steps(1)
        for step_worker in step_workers:
            assert step_worker.rest() == 0
    for sync_id, execution_id in zip(syncs, executions, strict=True):
        assert scenario.shown(sync_id, execution_id) == {
            n: ("completed", len(scenario.table_source.tables[n])) for n in NAMES
        }
    assert scenario.rows() == {**scenario.held(), **scenario.held(prefix="b.")}


@through_both_doors
def test_records__many_workers_store_the_same_rows__no_deadlock(scenario: Scenario) -> None:
    """Each stores them in another order."""
    sources = [TableSource() for _ in range(4)]
    try:
        executions = []
        for nth, table_source in enumerate(sources):
            records = [{"id": n, "from": nth} for n in range(400)]
            random.Random(nth).shuffle(records)
            table_source.put("flights", *records)
            source = scenario.database.connection(
                scenario.client.user.agency_id, config=table_source.config("flights", size=50)
            )
            executions.append(scenario.client.started(scenario.sync(source_connection_id=source, schemas=["flights"])))
        step_workers = [StepWorker(scenario.database, one) for one in executions]
        threads = [threading.Thread(target=step_worker.rest) for step_worker in step_workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for step_worker in step_workers:
            step_worker.close()
    finally:
        for table_source in sources:
            table_source.close()
    assert {scenario.database.execution(one)["status"] for one in executions} == {"completed"}
    assert {scenario.database.execution(one)["records"] for one in executions} == {400}
    assert len(scenario.rows()) == 400


# Append


@through_both_doors
def test_append__every_execution_adds_every_record(scenario: Scenario) -> None:
    sync_id = scenario.sync(mode="append")
    for times in (1, 2, 3):
        execution_id = scenario.client.started(sync_id)
        run(scenario.database, execution_id)
        assert scenario.client.execution(sync_id, execution_id)["record_count"] == 8
        stored = sorted(json.dumps(one) for one in scenario.rows().values())
        assert stored == sorted(json.dumps(one) for one in scenario.held().values() for _ in range(times))


@through_both_doors
@pytest.mark.parametrize("done", range(1, BATCHES + 1))
def test_append__worker_dies__no_duplicates(scenario: Scenario, done: int) -> None:
    sync_id = scenario.sync(mode="append")
    execution_id = scenario.client.started(sync_id)
    step_worker = StepWorker(scenario.database, execution_id)
    step_worker.steps(done - 1)
    batch = step_worker.batch()
    assert batch is not None
    assert step_worker.commit(batch) == "continue"
    assert step_worker.commit(batch, step_worker.seq) == "continue"  # as after a lost response
    step_worker.dies()
    run(scenario.database, execution_id)
    assert sorted(json.dumps(one) for one in scenario.rows().values()) == sorted(
        json.dumps(one) for one in scenario.held().values()
    )
    assert scenario.shown(sync_id, execution_id) == {
        n: ("completed", len(scenario.table_source.tables[n])) for n in NAMES
    }


# Workers that die


@through_both_doors
@pytest.mark.parametrize("done", range(BATCHES + 1))
def test_runner__worker_dies_after_any_batch__another_resumes(scenario: Scenario, done: int) -> None:
    """Between schemas or within one. Nothing is read again, lost or counted twice."""
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id)
    step_worker = StepWorker(scenario.database, execution_id)
    step_worker.steps(done)
    before = scenario.shown(sync_id, execution_id)
    late = step_worker.batch()
    step_worker.dies()
    heir = StepWorker(scenario.database, execution_id)
    assert scenario.shown(sync_id, execution_id) == before
    scenario.table_source.requests.clear()
    with heir:
        assert heir.rest() == BATCHES - done
    assert len(scenario.table_source.requests) == BATCHES - done
    assert scenario.shown(sync_id, execution_id) == {
        n: ("completed", len(scenario.table_source.tables[n])) for n in NAMES
    }
    assert scenario.client.execution(sync_id, execution_id)["record_count"] == 8
    assert scenario.rows() == scenario.held()
    assert late is None or done < BATCHES


@through_one_door
def test_commit__late_batch_of_a_dead_worker__not_stored(scenario: Scenario) -> None:
    execution_id = scenario.client.started(scenario.sync())
    with StepWorker(scenario.database, execution_id) as dead:
        dead.steps(2)
        late = dead.batch()
        assert late is not None
        scenario.database.expire_lease(execution_id)
        with StepWorker(scenario.database, execution_id) as heir:
            with scenario.client.project.unchanged():
                assert dead.commit(late) == "lost"
            heir.rest()
    assert scenario.rows() == scenario.held()


@through_both_doors
def test_runner__page_of_several_batches__resumed_within_it(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.worker.runners.pages.BATCH_RECORDS", 2)
    scenario.table_source.put("flights", *({"id": n} for n in range(7)))
    source = scenario.database.connection(
        scenario.client.user.agency_id, config=scenario.table_source.config("flights", size=7)
    )
    for done in range(5):
        sync_id = scenario.sync(source_connection_id=source, schemas=["flights"])
        execution_id = scenario.client.started(sync_id)
        step_worker = StepWorker(scenario.database, execution_id)
        step_worker.steps(done)
        assert scenario.shown(sync_id, execution_id)["flights"][1] == min(2 * done, 7)
        step_worker.dies()
        with StepWorker(scenario.database, execution_id) as heir:
            assert heir.rest() == 4 - done
        assert scenario.shown(sync_id, execution_id) == {"flights": ("completed", 7)}
    assert scenario.rows() == scenario.held("flights")


@through_one_door
def test_runner__complete__reads_nothing(scenario: Scenario) -> None:
    """The worker died between its last batch and its completion."""
    execution_id = scenario.client.started(scenario.sync())
    step_worker = StepWorker(scenario.database, execution_id)
    step_worker.steps(BATCHES)
    step_worker.dies()
    scenario.table_source.requests.clear()
    scenario.database.admin.execute("update app.connections set config = '{}' where id = %s", (scenario.source,))
    with StepWorker(scenario.database, execution_id) as heir:
        assert heir.rest() == 0
    assert scenario.table_source.requests == []


@through_one_door
def test_runner__resource_config_changed__resource_begins_again(scenario: Scenario) -> None:
    """The stored position belongs to another request. Stored rows are written and counted again, but not duplicated."""
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id)
    step_worker = StepWorker(scenario.database, execution_id)
    step_worker.steps(1)
    step_worker.dies()
    changed = json.dumps(scenario.table_source.config(*NAMES, size=3))
    scenario.database.admin.execute("update app.connections set config = %s where id = %s", (changed, scenario.source))
    run(scenario.database, execution_id)
    assert scenario.rows() == scenario.held()
    assert scenario.shown(sync_id, execution_id)["flights"] == ("completed", 2 + 5)


# With the engine


def ended(database: Database, execution_id: str) -> str:
    """Run the execution with a real engine. Return how it ended."""
    with StepWorker(database, execution_id) as claimed:
        execution = Execution(**claimed.claimed)
    client = WorkerClient(PostgresTransport(database.login("authenticator")), service_caller(""))
    try:
        return asyncio.run(Engine(client, 5).run(execution, LOCAL["bulk_sync"], Signals()))
    finally:
        asyncio.run(client.aclose())


@through_both_doors
@pytest.mark.parametrize(
    ("status", "code"), [(401, "source_unauthorized"), (404, "source_not_found"), (418, "source_refused")]
)
def test_source__fails_in_the_middle__earlier_batches_stay(scenario: Scenario, status: int, code: str) -> None:
    sync_id = scenario.sync()
    execution_id = scenario.client.started(sync_id)
    scenario.table_source.before = lambda resource, page: status if (resource, page) == ("airports", 2) else None
    assert ended(scenario.database, execution_id) == "failed"
    row = scenario.database.execution(execution_id)
    assert row["error"]["code"] == code
    assert scenario.shown(sync_id, execution_id) == {
        "flights": ("completed", 5),
        "planes": ("completed", 0),
        "airports": ("failed", 2),
    }
    schemas = scenario.client.execution(sync_id, execution_id)["schemas"]
    assert [one["status_message"] for one in schemas] == [None, None, row["error"]["message"]]
    assert len(scenario.rows()) == 7
    # A second execution copies everything again.
    scenario.table_source.before = lambda _resource, _page: None
    again = scenario.client.started(sync_id)
    assert ended(scenario.database, again) == "completed"
    assert scenario.rows() == scenario.held()


@through_one_door
@pytest.mark.parametrize("what", ["resource", "connection kind"])
def test_source__resource_changed_or_gone__fails(scenario: Scenario, what: str) -> None:
    execution_id = scenario.client.started(scenario.sync())
    if what == "resource":
        changed = json.dumps(scenario.table_source.config("flights", "planes"))
        scenario.database.admin.execute(
            "update app.connections set config = %s where id = %s", (changed, scenario.source)
        )
    else:
        scenario.database.admin.execute("update app.connections set kind = 'records' where id = %s", (scenario.source,))
    assert ended(scenario.database, execution_id) == "failed"
    code = {"resource": "source_resource_gone", "connection kind": "source_not_readable"}[what]
    assert scenario.database.execution(execution_id)["error"]["code"] == code
    assert len(scenario.rows()) == {"resource": 5, "connection kind": 0}[what]


@through_one_door
def test_source__record_is_not_an_object__fails(scenario: Scenario) -> None:
    sync_id = scenario.sync()
    for broken in (1, {"number": "no id"}, {"id": None}, {"id": [1]}, {"id": "x" * 2001}):
        scenario.table_source.tables["airports"] = [{"id": 1}, broken]
        execution_id = scenario.client.started(sync_id)
        assert ended(scenario.database, execution_id) == "failed"
        assert scenario.database.execution(execution_id)["error"]["code"] == "source_malformed"
        assert scenario.shown(sync_id, execution_id)["airports"] == ("failed", 0)


@through_one_door
def test_records__any_json__stored_unchanged(scenario: Scenario) -> None:
    records: list[dict[str, Any]] = [
        {
            "id": 1,
            "big": 12345678901234567890123,
            "small": 1.5e-7,
            "text": "日本 🛫 \u2028 \x7f",
            "deep": [[{"a": []}]],
        },
        {"id": "1", "null": None, "true": True, "": {}, "'; --": '"'},
        {"id": -1.5, "zero": 0, "empty": ""},
        {"id": True},
    ]
    scenario.table_source.put("flights", *records)
    sync_id = scenario.sync(schemas=["flights"])
    execution_id = scenario.client.started(sync_id)
    assert ended(scenario.database, execution_id) == "completed"
    keys = ["[1]", '["1"]', "[-1.5]", "[true]"]
    assert rows(scenario.database, scenario.destination, "flights") == dict(zip(keys, records, strict=True))
    assert scenario.shown(sync_id, execution_id) == {"flights": ("completed", 4)}


@pytest.mark.parametrize("seed", [1, 2])
def test_worker__killed_repeatedly__another_completes(
    mortal_database: Database, table_source: TableSource, tmp_path: Path, seed: int
) -> None:
    """Real worker processes, killed with SIGKILL at any moment."""
    database, chance = mortal_database, random.Random(seed)
    for name in NAMES:
        table_source.put(name, *({"id": n} for n in range(40)))
    pause = threading.Event()
    table_source.before = lambda _resource, _page: pause.wait(0.01) and None
    user = database.member()
    source = database.connection(user.agency_id, config=table_source.config(*NAMES))
    destination = database.connection(user.agency_id, "records", {})
    with database.session(user.claims) as session:
        sync = session.call(
            "create_bulk_sync",
            name="S",
            source_connection_id=source,
            destination_connection_id=destination,
            schemas=[{"id": name} for name in NAMES],
        )["data"]
        execution_id = session.call("start_bulk_sync", sync_id=sync["id"])["data"]["id"]
    options = {
        "DATABASE_URL": database.login("authenticator"),
        "WORKER_LEASE_SECONDS": "1",
        "WORKER_HEARTBEAT_SECONDS": "0.1",
        "WORKER_TICK_SECONDS": "0.05",
        "WORKER_ALLOW_PRIVATE_ADDRESSES": "true",
    }
    workers = []
    try:
        for kill in range(4):
            worker = LoggedWorker(tmp_path / f"{kill}.log", options)
            workers.append(worker)
            if kill == 3:
                break
            seq = database.execution(execution_id)["seq"] + chance.randint(1, 12)
            until(lambda: (row := database.execution(execution_id))["seq"] >= seq or row["finished_at"])  # noqa: B023
            worker.send(signal.SIGKILL)
            worker.process.wait()
        row = until(lambda: (row := database.execution(execution_id)) and row["finished_at"] and row)
    finally:
        for worker in workers:
            worker.close()
    assert (row["status"], row["records"], row["seq"]) == ("completed", 120, 60)
    assert rows(database, destination) == {f"{name} [{n}]": {"id": n} for name in NAMES for n in range(40)}
    with database.session(user.claims) as session:
        shown = session.call("get_bulk_sync_execution", sync_id=sync["id"], execution_id=execution_id)["data"]
    assert [(one["status"], one["record_count"]) for one in shown["schemas"]] == [("completed", 40)] * 3
