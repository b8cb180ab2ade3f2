"""DELETE /api/connections/{connection_id}: executions on it are cancelled, also those that start meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.connections import CONFIG, GOOD, PATH, SECRET, UNKNOWN, created, ids, make_key, row
from tests.support.project import JANUARY, Project, both_transports, expect_error, one_transport
from tests.support.requests import a_model_sync
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from tests.support.database import Database, User

SYNCS = "/api/bulk/syncs"
# Executions that must not exist on a deleted connection. A cancelling one may: its worker has its grace period.
ACTIVE = (
    "select e.id, e.status from app.executions as e"
    " join app.connections as c on c.id in (e.connection_id, e.destination_id)"
    " where c.deleted_at is not null and e.status in ('queued', 'running') and e.agency_id = %s"
)


def delete(project: Project, token: str | None, connection_id: str, **query: Any) -> httpx.Response:
    return project.request("DELETE", f"{PATH}/{connection_id}", token, params=query)


def assert_deleted(response: httpx.Response) -> None:
    assert (response.status_code, response.content) == (204, b""), response.text


@dataclass(frozen=True)
class Scenario:
    """An agency with a source, a destination, and a bulk sync between them."""

    project: Project
    user: User
    token: str
    source: str
    destination: str
    sync: str

    @property
    def database(self) -> Database:
        return self.project.database

    def create_sync(self, name: str = "Flights") -> httpx.Response:
        body = {"name": name, "source_connection_id": self.source, "destination_connection_id": self.destination}
        return self.project.request("POST", SYNCS, self.token, json=body)

    def start(self) -> httpx.Response:
        return self.project.request("POST", f"{SYNCS}/{self.sync}/executions", self.token, json={})

    def started(self, *transitions: tuple[str, str]) -> str:
        response = self.start()
        assert response.status_code == 200, response.text
        execution_id = str(response.json()["data"]["id"])
        self.database.transition(execution_id, *transitions)
        return execution_id

    def start_job(self) -> httpx.Response:
        return self.project.start(self.token, {"connection_id": self.source, **JANUARY})

    def job(self, *transitions: tuple[str, str]) -> str:
        response = self.start_job()
        assert response.status_code == 201, response.text
        self.database.transition(response.json()["job_id"], *transitions)
        return str(response.json()["job_id"])

    def status(self, execution_id: str) -> str:
        return str(self.database.execution(execution_id)["status"])


@pytest.fixture
def scenario(project: Project) -> Iterator[Scenario]:
    user = project.database.member()
    source = project.database.connection(user.agency_id, secret=SECRET)
    destination = project.database.connection(user.agency_id, "records", {})
    without_sync = Scenario(project, user, project.token(user), source, destination, "")
    response = without_sync.create_sync()
    assert response.status_code == 200, response.text
    yield dataclasses.replace(without_sync, sync=response.json()["data"]["id"])
    assert project.database.all(ACTIVE, (user.agency_id,)) == []


# Unused connections


@both_transports
def test_delete_connection__deletes_the_secret(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    connection_id, other = (created(project.request("POST", PATH, token, json=GOOD))["id"] for _ in range(2))
    assert_deleted(delete(project, token, connection_id))
    stored = row(project.database, connection_id)
    assert stored["deleted_at"] is not None
    assert stored["secret"] == {}
    assert row(project.database, other)["secret"] == SECRET
    assert ids(project, token) == [other]
    with project.unchanged():
        for _ in range(2):
            assert expect_error(delete(project, token, connection_id), 404, "connection_not_found") == {}
            assert expect_error(delete(project, token, connection_id, force="true"), 404, "connection_not_found") == {}


@both_transports
def test_delete_connection__with_an_api_key(project: Project) -> None:
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id)
    job_id = project.database.start(user, connection_id)
    key, key_id = make_key(project, user)
    response = delete(project, key, connection_id)
    assert_deleted(response)
    event = project.database.events(job_id)[-1]
    assert (event["event"], event["actor"], event["reason"]) == ("cancel", f"api_key:{key_id}", "connection deleted")
    assert event["request_id"] == response.headers["x-request-id"]


@both_transports
def test_delete_connection__rejected_callers_and_unknown_ids(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    theirs = project.database.connection(owner.agency_id, secret=SECRET)
    token, without_agency = project.token(stranger), project.token(project.database.user(None))
    with project.unchanged():
        for connection_id in (theirs, UNKNOWN, str(owner.agency_id)):
            for query in ({}, {"force": "true"}):
                assert expect_error(delete(project, token, connection_id, **query), 404, "connection_not_found") == {}
        expect_error(delete(project, without_agency, theirs), 403, "no_agency")
        expect_error(delete(project, None, theirs), 401, "missing_token")


@one_transport
@pytest.mark.parametrize("force", ["", "x", "2", "null", "[]", "true\0"])
def test_delete_connection__invalid_force(project: Project, force: str) -> None:
    user = project.database.member()
    connection_id, token = project.database.connection(user.agency_id), project.token(user)
    with project.unchanged():
        assert expect_error(delete(project, token, connection_id, force=force), 400, "invalid_field") == {
            "field": "force"
        }


@both_transports
def test_delete_connection__body_is_ignored(scenario: Scenario) -> None:
    body = b'{"force": true, "connection_id": "x"}'
    with scenario.project.unchanged():
        response = scenario.project.request("DELETE", f"{PATH}/{scenario.source}", scenario.token, content=body)
    expect_error(response, 422, "connection_in_use")


# Connections in use


@both_transports
@pytest.mark.parametrize("which", ["source", "destination"])
def test_delete_connection__in_use_names_the_definitions(scenario: Scenario, which: str) -> None:
    second = scenario.create_sync("Also").json()["data"]["id"]
    connection_id = getattr(scenario, which)
    with scenario.project.unchanged():
        for query in ({}, {"force": "false"}):
            response = delete(scenario.project, scenario.token, connection_id, **query)
            assert expect_error(response, 422, "connection_in_use") == {
                "used_by": [
                    {"type": "bulk_sync", "id": second, "name": "Also"},
                    {"type": "bulk_sync", "id": scenario.sync, "name": "Flights"},
                ]
            }


@both_transports
def test_delete_connection__deleted_definitions_do_not_count(scenario: Scenario) -> None:
    assert scenario.project.request("DELETE", f"{SYNCS}/{scenario.sync}", scenario.token).status_code == 204
    assert_deleted(delete(scenario.project, scenario.token, scenario.destination))


@both_transports
@pytest.mark.parametrize("which", ["source", "destination"])
def test_delete_connection__force_deletes_only_its_definitions(scenario: Scenario, which: str) -> None:
    execution_id = scenario.started()
    third = scenario.database.connection(scenario.user.agency_id, secret=SECRET)
    body = {"name": "x", "source_connection_id": third, "destination_connection_id": scenario.destination}
    other = scenario.project.request("POST", SYNCS, scenario.token, json=body).json()["data"]["id"]
    assert_deleted(delete(scenario.project, scenario.token, getattr(scenario, which), force="true"))
    syncs = [sync["id"] for sync in scenario.project.request("GET", SYNCS, scenario.token).json()["data"]]
    assert syncs == ([other] if which == "source" else [])
    for path in (f"{SYNCS}/{scenario.sync}", f"{SYNCS}/{scenario.sync}/executions"):
        expect_error(scenario.project.request("GET", path, scenario.token), 404, "bulk_sync_not_found")
    expect_error(scenario.start(), 404, "bulk_sync_not_found")
    assert scenario.status(execution_id) == "cancelled"
    assert row(scenario.database, third)["secret"] == SECRET
    assert row(scenario.database, scenario.source)["secret"] == ({} if which == "source" else SECRET)


@both_transports
def test_delete_connection__force_cancels_queued_and_running_executions(scenario: Scenario) -> None:
    queued = scenario.started()
    job_id = scenario.job(("claim", "running"))
    assert_deleted(delete(scenario.project, scenario.token, scenario.source, force="true"))
    for execution_id in (queued, job_id):
        assert scenario.status(execution_id) == "cancelled"
        assert scenario.database.execution(execution_id)["cancelled_by"] == f"user:{scenario.user.id}"
    shown = scenario.project.get(scenario.token, job_id).json()
    assert (shown["status"], shown["connection_id"]) == ("cancelled", scenario.source)


@both_transports
def test_delete_connection__force_requests_cancel_of_a_running_bulk_sync(scenario: Scenario) -> None:
    execution_id = scenario.started(("claim", "running"))
    assert_deleted(delete(scenario.project, scenario.token, scenario.source, force="true"))
    execution = scenario.database.execution(execution_id)
    assert (execution["status"], execution["cancelled_by"]) == ("cancelling", f"user:{scenario.user.id}")
    assert execution["cancel_deadline"] is not None
    with scenario.database.worker() as worker:
        assert worker.call("worker_heartbeat", execution_id=execution_id, lease_token=1)["result"] == "cancel"
        assert worker.call("worker_release", execution_id=execution_id, lease_token=1) == {"result": "cancelled"}
    assert scenario.status(execution_id) == "cancelled"


@both_transports
def test_delete_connection__keeps_the_deadline_of_a_cancelling_execution(scenario: Scenario) -> None:
    execution_id = scenario.started(("claim", "running"))
    assert scenario.project.request("POST", f"{SYNCS}/{scenario.sync}/cancel", scenario.token).status_code == 200
    before = scenario.database.execution(execution_id)
    assert_deleted(delete(scenario.project, scenario.token, scenario.destination, force="true"))
    assert scenario.database.execution(execution_id) == before


@both_transports
def test_delete_connection__definition_deleted_while_running(scenario: Scenario) -> None:
    execution_id = scenario.started(("claim", "running"))
    assert scenario.project.request("DELETE", f"{SYNCS}/{scenario.sync}", scenario.token).status_code == 204
    for connection_id in (scenario.source, scenario.destination):
        assert_deleted(delete(scenario.project, scenario.token, connection_id))
    assert scenario.status(execution_id) == "cancelling"


@both_transports
@pytest.mark.parametrize("transitions", [[], [("claim", "running")]], ids=["queued", "running"])
def test_delete_connection__force_cancels_a_source_check(
    scenario: Scenario, transitions: list[tuple[str, str]]
) -> None:
    with scenario.database.session(scenario.user.claims) as session:
        check_id = session.source_check(scenario.source)
    scenario.database.transition(check_id, *transitions)
    assert_deleted(delete(scenario.project, scenario.token, scenario.source, force="true"))
    assert scenario.status(check_id) == "cancelled"


@both_transports
def test_delete_connection__force_cancels_executions_without_a_definition(scenario: Scenario) -> None:
    execution_id = scenario.database.insert(scenario.user.agency_id, "model_sync", destination_id=scenario.destination)
    assert_deleted(delete(scenario.project, scenario.token, scenario.destination, force="true"))
    assert scenario.status(execution_id) == "cancelled"


@both_transports
@pytest.mark.parametrize("outcome", ["complete", "fail"])
def test_delete_connection__keeps_terminal_executions(scenario: Scenario, outcome: str) -> None:
    ended = {"complete": "completed", "fail": "failed"}[outcome]
    job_id = scenario.job(("claim", "running"), (outcome, ended))
    before = scenario.database.execution(job_id), scenario.database.events(job_id)
    assert_deleted(delete(scenario.project, scenario.token, scenario.source, force="true"))
    assert (scenario.database.execution(job_id), scenario.database.events(job_id)) == before


@both_transports
def test_delete_connection__in_use_changes_nothing(scenario: Scenario) -> None:
    execution_id, job_id = scenario.started(("claim", "running")), scenario.job()
    with scenario.project.unchanged():
        expect_error(delete(scenario.project, scenario.token, scenario.source), 422, "connection_in_use")
    assert (scenario.status(execution_id), scenario.status(job_id)) == ("running", "queued")


# Use of a deleted connection


@both_transports
def test_delete_connection__source_is_unusable_afterwards(scenario: Scenario) -> None:
    project, token = scenario.project, scenario.token
    ended = scenario.job(("claim", "running"), ("fail", "failed"))
    assert_deleted(delete(project, token, scenario.source, force="true"))
    with project.unchanged():
        expect_error(project.request("GET", f"{PATH}/{scenario.source}", token), 404, "connection_not_found")
        expect_error(scenario.start_job(), 404, "connection_not_found")
        expect_error(project.retry(token, {"job_id": ended}), 404, "connection_not_found")
        expect_error(scenario.create_sync(), 404, "connection_not_found")
        tested = {"type": "http", "configuration": CONFIG, "connection_id": scenario.source}
        expect_error(project.request("POST", f"{PATH}/test", token, json=tested), 404, "connection_not_found")
    stranger = project.token(project.database.member())
    assert scenario.source not in project.request("GET", PATH, token).text
    expect_error(project.start(stranger, {"connection_id": scenario.source, **JANUARY}), 404, "connection_not_found")


@both_transports
def test_delete_connection__destination_is_unusable_afterwards(scenario: Scenario) -> None:
    assert_deleted(delete(scenario.project, scenario.token, scenario.destination, force="true"))
    with scenario.project.unchanged():
        expect_error(scenario.create_sync(), 404, "connection_not_found")


# Concurrent calls


def is_waiting_for_a_lock(database: Database) -> bool:
    """Whether any session of this database waits for a lock."""
    return bool(
        database.all(
            "select from pg_stat_activity"
            " where datname = current_database() and state = 'active' and wait_event_type = 'Lock'"
        )
    )


@contextlib.contextmanager
def uncommitted_call(
    scenario: Scenario, rpc: str, **arguments: Any
) -> Iterator[Callable[[Callable[[], httpx.Response]], httpx.Response]]:
    """Make a call and leave its transaction open. The yielded function starts a second call, checks that it waits,
    commits the first and returns the second call's response.
    """
    with scenario.database.session(scenario.user.claims) as first, ThreadPoolExecutor(1) as threads:
        first.execute("begin")
        first.call(rpc, **arguments)

        def meanwhile(second: Callable[[], httpx.Response]) -> httpx.Response:
            future = threads.submit(second)
            until(lambda: future.done() or is_waiting_for_a_lock(scenario.database))
            assert not future.done(), future.result().text
            first.execute("commit")
            return future.result(30)

        yield meanwhile


@both_transports
def test_delete_connection__cancels_a_job_started_meanwhile(scenario: Scenario) -> None:
    arguments = {"connection_id": scenario.source, **JANUARY}
    with uncommitted_call(scenario, "start_historical_sync", **arguments) as meanwhile:
        assert_deleted(meanwhile(lambda: delete(scenario.project, scenario.token, scenario.source, force="true")))
    [job] = scenario.project.jobs(scenario.token).json()["jobs"]
    assert job["status"] == "cancelled"


@both_transports
def test_start_historical_sync__while_its_connection_is_deleted(scenario: Scenario) -> None:
    with uncommitted_call(scenario, "delete_connection", connection_id=scenario.source, force=True) as meanwhile:
        expect_error(meanwhile(scenario.start_job), 404, "connection_not_found")


@both_transports
def test_delete_connection__cancels_a_retry_started_meanwhile(scenario: Scenario) -> None:
    ended = scenario.job(("claim", "running"), ("fail", "failed"))
    with uncommitted_call(scenario, "retry_historical_sync", job_id=ended) as meanwhile:
        assert_deleted(meanwhile(lambda: delete(scenario.project, scenario.token, scenario.source, force="true")))
    assert scenario.project.jobs(scenario.token).json()["jobs"][0]["status"] == "cancelled"


@both_transports
def test_retry_historical_sync__while_its_connection_is_deleted(scenario: Scenario) -> None:
    ended = scenario.job(("claim", "running"), ("fail", "failed"))
    with uncommitted_call(scenario, "delete_connection", connection_id=scenario.source, force=True) as meanwhile:
        response = meanwhile(lambda: scenario.project.retry(scenario.token, {"job_id": ended}))
        expect_error(response, 404, "connection_not_found")


@both_transports
@pytest.mark.parametrize("which", ["source", "destination"])
def test_delete_connection__cancels_an_execution_started_meanwhile(scenario: Scenario, which: str) -> None:
    with uncommitted_call(scenario, "start_bulk_sync", sync_id=scenario.sync) as meanwhile:
        assert_deleted(
            meanwhile(lambda: delete(scenario.project, scenario.token, getattr(scenario, which), force="true"))
        )
    [execution] = scenario.database.all("select status from app.executions where definition_id = %s", (scenario.sync,))
    assert execution["status"] == "cancelled"


@both_transports
@pytest.mark.parametrize("which", ["source", "destination"])
def test_start_bulk_sync__while_its_connection_is_deleted(scenario: Scenario, which: str) -> None:
    arguments = {"connection_id": getattr(scenario, which), "force": True}
    with uncommitted_call(scenario, "delete_connection", **arguments) as meanwhile:
        expect_error(meanwhile(scenario.start), 404, "bulk_sync_not_found")


@one_transport
@pytest.mark.parametrize("which", ["source", "destination"])
def test_start_model_sync__does_not_wait_for_a_deletion(scenario: Scenario, which: str) -> None:
    """The deletion holds a lock on the connection and will wait for the sync, so a sync that waited would deadlock."""
    sync = a_model_sync(scenario.project, scenario.user)
    query = f"select {which}_id as id from app.definitions where id = %s"
    connection_id = scenario.database.one(query, (sync["sync_id"],))["id"]
    with scenario.database.connect() as deletion, deletion.transaction():
        deletion.execute("select from app.connections where id = %s for no key update", (connection_id,))
        with scenario.database.session(scenario.user.claims) as session:
            assert session.call("start_model_sync", **sync)["data"]["status"] == "created"


@both_transports
@pytest.mark.parametrize("which", ["source", "destination"])
def test_delete_connection__in_use_by_a_sync_created_meanwhile(scenario: Scenario, which: str) -> None:
    assert scenario.project.request("DELETE", f"{SYNCS}/{scenario.sync}", scenario.token).status_code == 204
    arguments = {"source_connection_id": scenario.source, "destination_connection_id": scenario.destination}
    with uncommitted_call(scenario, "create_bulk_sync", name="x", **arguments) as meanwhile:
        response = meanwhile(lambda: delete(scenario.project, scenario.token, getattr(scenario, which)))
    [used_by] = expect_error(response, 422, "connection_in_use")["used_by"]
    assert used_by["name"] == "x"


@both_transports
@pytest.mark.parametrize("which", ["source", "destination"])
def test_create_bulk_sync__while_its_connection_is_deleted(scenario: Scenario, which: str) -> None:
    arguments = {"connection_id": getattr(scenario, which), "force": True}
    with uncommitted_call(scenario, "delete_connection", **arguments) as meanwhile:
        expect_error(meanwhile(scenario.create_sync), 404, "connection_not_found")


@both_transports
def test_delete_connection__cancels_executions_claimed_meanwhile(scenario: Scenario) -> None:
    execution_id, job_id = scenario.started(), scenario.job()
    with scenario.database.worker() as worker, ThreadPoolExecutor(1) as threads:
        worker.execute("begin")
        families = ["bulk_sync", "historical_sync"]
        claimed = worker.call("worker_claim", worker="w", families=families, max_executions=100)
        assert {execution_id, job_id} <= {execution["id"] for execution in claimed}
        deletion = threads.submit(lambda: delete(scenario.project, scenario.token, scenario.source, force="true"))
        until(lambda: deletion.done() or is_waiting_for_a_lock(scenario.database))
        assert not deletion.done()
        worker.execute("commit")
        assert_deleted(deletion.result(30))
    assert (scenario.status(execution_id), scenario.status(job_id)) == ("cancelling", "cancelled")


@both_transports
def test_delete_connection__concurrent_calls_delete_once(scenario: Scenario) -> None:
    scenario.started()
    responses = scenario.project.concurrently(
        lambda: delete(scenario.project, scenario.token, scenario.source, force="true")
    )
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [204] + [404] * (len(responses) - 1)


@both_transports
def test_delete_connection__under_load_without_deadlocks(project: Project) -> None:
    """Both connections of several syncs are deleted while syncs are created, started and cancelled."""
    for _ in range(8):
        user = project.database.member()
        source = project.database.connection(user.agency_id, secret=SECRET)
        destination = project.database.connection(user.agency_id, "records", {})
        base = Scenario(project, user, project.token(user), source, destination, "")
        syncs = [base.create_sync(f"{n}").json()["data"]["id"] for n in range(3)]
        starts = [dataclasses.replace(base, sync=sync).start for sync in syncs]
        calls: list[Callable[[], httpx.Response]] = [
            *starts,
            base.start_job,
            base.create_sync,
            lambda: delete(project, base.token, source, force="true"),  # noqa: B023 (called here)
            lambda: delete(project, base.token, destination, force="true"),  # noqa: B023 (called here)
            lambda: project.request("DELETE", f"{SYNCS}/{syncs[1]}", base.token),  # noqa: B023 (called here)
            lambda: project.request("POST", f"{SYNCS}/{syncs[2]}/cancel", base.token),  # noqa: B023 (called here)
            *starts,
            base.start_job,
            lambda: delete(project, base.token, source),  # noqa: B023 (called here)
        ]
        with ThreadPoolExecutor(len(calls)) as threads:
            responses = [future.result(60) for future in [threads.submit(call) for call in calls]]
        assert {response.status_code for response in responses} <= {200, 201, 204, 404, 409, 422}
        for connection_id in (source, destination):
            assert row(project.database, connection_id)["deleted_at"] is not None
        assert project.database.all(ACTIVE, (user.agency_id,)) == []
        definitions = "select from app.definitions where agency_id = %s and deleted_at is null"
        assert project.database.all(definitions, (user.agency_id,)) == []
