"""DELETE /api/connections/{connection_id} through both doors: it ends what runs on it, whoever starts meanwhile."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.connections import CONFIG, GOOD, PATH, SECRET, UNKNOWN, created, ids, make_key, row
from tests.support.project import BOTH_TRANSPORTS, JANUARY, Project, refusal
from tests.support.requests import a_model_sync
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from tests.support.database import Database, User

through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
SYNCS = "/api/bulk/syncs"
# What may still be active on a deleted connection: a worker that was told to stop, within its grace.
ACTIVE = (
    "select e.id, e.status from app.executions as e"
    " join app.connections as c on c.id in (e.connection_id, e.destination_id)"
    " where c.deleted_at is not null and e.status in ('queued', 'running') and e.agency_id = %s"
)


def delete(project: Project, token: str | None, connection_id: str, **query: Any) -> httpx.Response:
    return project.request("DELETE", f"{PATH}/{connection_id}", token, params=query)


def deleted(response: httpx.Response) -> None:
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

    def define(self, name: str = "Flights") -> httpx.Response:
        body = {"name": name, "source_connection_id": self.source, "destination_connection_id": self.destination}
        return self.project.request("POST", SYNCS, self.token, json=body)

    def start(self) -> httpx.Response:
        return self.project.request("POST", f"{SYNCS}/{self.sync}/executions", self.token, json={})

    def started(self, *moves: tuple[str, str]) -> str:
        response = self.start()
        assert response.status_code == 200, response.text
        execution_id = str(response.json()["data"]["id"])
        self.database.move(execution_id, *moves)
        return execution_id

    def start_job(self) -> httpx.Response:
        return self.project.start(self.token, {"connection_id": self.source, **JANUARY})

    def job(self, *moves: tuple[str, str]) -> str:
        response = self.start_job()
        assert response.status_code == 201, response.text
        self.database.move(response.json()["job_id"], *moves)
        return str(response.json()["job_id"])

    def status(self, execution_id: str) -> str:
        return str(self.database.execution(execution_id)["status"])


@pytest.fixture
def scene(project: Project) -> Iterator[Scenario]:
    user = project.database.member()
    source = project.database.connection(user.agency_id, secret=SECRET)
    destination = project.database.connection(user.agency_id, "records", {})
    made = Scenario(project, user, project.token(user), source, destination, "")
    response = made.define()
    assert response.status_code == 200, response.text
    yield Scenario(project, user, made.token, source, destination, response.json()["data"]["id"])
    assert project.database.all(ACTIVE, (user.agency_id,)) == []


# Nothing uses it


def test_a_connection_is_deleted_and_its_secret_with_it(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    made, other = (created(project.request("POST", PATH, token, json=GOOD))["id"] for _ in range(2))
    deleted(delete(project, token, made))
    stored = row(project.database, made)
    assert stored["deleted_at"] is not None
    assert stored["secret"] == {}
    assert row(project.database, other)["secret"] == SECRET
    assert ids(project, token) == [other]
    with project.unchanged():
        for _ in range(2):
            assert refusal(delete(project, token, made), 404, "connection_not_found") == {}
            assert refusal(delete(project, token, made, force="true"), 404, "connection_not_found") == {}


def test_with_a_key(project: Project) -> None:
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id)
    job_id = project.database.start(user, connection_id)
    key, key_id = make_key(project, user)
    response = delete(project, key, connection_id)
    deleted(response)
    event = project.database.events(job_id)[-1]
    assert (event["event"], event["actor"], event["reason"]) == ("cancel", f"api_key:{key_id}", "connection deleted")
    assert event["request_id"] == response.headers["x-request-id"]


def test_whose_it_is_not(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    theirs = project.database.connection(owner.agency_id, secret=SECRET)
    token, nobody = project.token(stranger), project.token(project.database.user(None))
    with project.unchanged():
        for connection_id in (theirs, UNKNOWN, str(owner.agency_id)):
            for query in ({}, {"force": "true"}):
                assert refusal(delete(project, token, connection_id, **query), 404, "connection_not_found") == {}
        refusal(delete(project, nobody, theirs), 403, "no_agency")
        refusal(delete(project, None, theirs), 401, "missing_token")


@through_both_doors
@pytest.mark.parametrize("force", ["", "x", "2", "null", "[]", "true\0"])
def test_a_force_that_is_none(project: Project, force: str) -> None:
    user = project.database.member()
    connection_id, token = project.database.connection(user.agency_id), project.token(user)
    with project.unchanged():
        assert refusal(delete(project, token, connection_id, force=force), 400, "invalid_field") == {"field": "force"}


@through_both_doors
def test_a_body_is_not_looked_at(scene: Scenario) -> None:
    body = b'{"force": true, "connection_id": "x"}'
    with scene.project.unchanged():
        response = scene.project.request("DELETE", f"{PATH}/{scene.source}", scene.token, content=body)
    refusal(response, 422, "connection_in_use")


# Something does


@pytest.mark.parametrize("which", ["source", "destination"])
def test_one_in_use_names_what_uses_it(scene: Scenario, which: str) -> None:
    second = scene.define("Also").json()["data"]["id"]
    connection_id = getattr(scene, which)
    with scene.project.unchanged():
        for query in ({}, {"force": "false"}):
            response = delete(scene.project, scene.token, connection_id, **query)
            assert refusal(response, 422, "connection_in_use") == {
                "used_by": [
                    {"type": "bulk_sync", "id": second, "name": "Also"},
                    {"type": "bulk_sync", "id": scene.sync, "name": "Flights"},
                ]
            }


@through_both_doors
def test_what_no_longer_uses_it_does_not_count(scene: Scenario) -> None:
    assert scene.project.request("DELETE", f"{SYNCS}/{scene.sync}", scene.token).status_code == 204
    deleted(delete(scene.project, scene.token, scene.destination))


@pytest.mark.parametrize("which", ["source", "destination"])
def test_force_deletes_what_uses_it_and_nothing_else(scene: Scenario, which: str) -> None:
    execution_id = scene.started()
    third = scene.database.connection(scene.user.agency_id, secret=SECRET)
    body = {"name": "x", "source_connection_id": third, "destination_connection_id": scene.destination}
    other = scene.project.request("POST", SYNCS, scene.token, json=body).json()["data"]["id"]
    deleted(delete(scene.project, scene.token, getattr(scene, which), force="true"))
    syncs = [sync["id"] for sync in scene.project.request("GET", SYNCS, scene.token).json()["data"]]
    assert syncs == ([other] if which == "source" else [])
    for path in (f"{SYNCS}/{scene.sync}", f"{SYNCS}/{scene.sync}/executions"):
        refusal(scene.project.request("GET", path, scene.token), 404, "bulk_sync_not_found")
    refusal(scene.start(), 404, "bulk_sync_not_found")
    assert scene.status(execution_id) == "cancelled"
    assert row(scene.database, third)["secret"] == SECRET
    assert row(scene.database, scene.source)["secret"] == ({} if which == "source" else SECRET)


def test_what_is_queued_is_canceled_at_once_and_what_runs_is_told_to_stop(scene: Scenario) -> None:
    waiting = scene.started()
    job_id = scene.job(("claim", "running"))
    deleted(delete(scene.project, scene.token, scene.source, force="true"))
    assert [scene.status(one) for one in (waiting, job_id)] == ["cancelled", "cancelled"]
    for execution_id in (waiting, job_id):
        assert scene.database.execution(execution_id)["cancelled_by"] == f"user:{scene.user.id}"
    shown = scene.project.get(scene.token, job_id).json()
    assert (shown["status"], shown["connection_id"]) == ("cancelled", scene.source)


def test_a_running_bulk_sync_is_canceling_until_its_worker_has_stopped(scene: Scenario) -> None:
    execution_id = scene.started(("claim", "running"))
    deleted(delete(scene.project, scene.token, scene.source, force="true"))
    execution = scene.database.execution(execution_id)
    assert (execution["status"], execution["cancelled_by"]) == ("cancelling", f"user:{scene.user.id}")
    assert execution["cancel_deadline"] is not None
    with scene.database.worker() as worker:
        assert worker.call("worker_heartbeat", execution_id=execution_id, lease_token=1)["result"] == "cancel"
        assert worker.call("worker_release", execution_id=execution_id, lease_token=1) == {"result": "cancelled"}
    assert scene.status(execution_id) == "cancelled"


@through_both_doors
def test_one_that_is_canceling_already_keeps_its_deadline(scene: Scenario) -> None:
    execution_id = scene.started(("claim", "running"))
    assert scene.project.request("POST", f"{SYNCS}/{scene.sync}/cancel", scene.token).status_code == 200
    before = scene.database.execution(execution_id)
    deleted(delete(scene.project, scene.token, scene.destination, force="true"))
    assert scene.database.execution(execution_id) == before


@through_both_doors
def test_a_sync_that_was_deleted_while_it_ran_is_no_obstacle(scene: Scenario) -> None:
    execution_id = scene.started(("claim", "running"))
    assert scene.project.request("DELETE", f"{SYNCS}/{scene.sync}", scene.token).status_code == 204
    for connection_id in (scene.source, scene.destination):
        deleted(delete(scene.project, scene.token, connection_id))
    assert scene.status(execution_id) == "cancelling"


@through_both_doors
@pytest.mark.parametrize("moves", [[], [("claim", "running")]], ids=["queued", "running"])
def test_a_look_at_it_ends_too(scene: Scenario, moves: list[tuple[str, str]]) -> None:
    with scene.database.session(scene.user.claims) as session:
        check_id = session.source_check(scene.source)
    scene.database.move(check_id, *moves)
    deleted(delete(scene.project, scene.token, scene.source, force="true"))
    assert scene.status(check_id) == "cancelled"


@through_both_doors
def test_whatever_writes_to_it_ends_also_what_no_sync_has_started(scene: Scenario) -> None:
    execution_id = scene.database.insert(scene.user.agency_id, "model_sync", destination_id=scene.destination)
    deleted(delete(scene.project, scene.token, scene.destination, force="true"))
    assert scene.status(execution_id) == "cancelled"


@through_both_doors
@pytest.mark.parametrize("outcome", ["complete", "fail"])
def test_what_has_ended_stays_as_it_was(scene: Scenario, outcome: str) -> None:
    ended = {"complete": "completed", "fail": "failed"}[outcome]
    job_id = scene.job(("claim", "running"), (outcome, ended))
    before = scene.database.execution(job_id), scene.database.events(job_id)
    deleted(delete(scene.project, scene.token, scene.source, force="true"))
    assert (scene.database.execution(job_id), scene.database.events(job_id)) == before


def test_a_refused_deletion_changes_nothing_of_what_runs(scene: Scenario) -> None:
    execution_id, job_id = scene.started(("claim", "running")), scene.job()
    with scene.project.unchanged():
        refusal(delete(scene.project, scene.token, scene.source), 422, "connection_in_use")
    assert (scene.status(execution_id), scene.status(job_id)) == ("running", "queued")


# After it


def test_a_deleted_connection_is_of_no_more_use(scene: Scenario) -> None:
    project, token = scene.project, scene.token
    ended = scene.job(("claim", "running"), ("fail", "failed"))
    deleted(delete(project, token, scene.source, force="true"))
    with project.unchanged():
        refusal(project.request("GET", f"{PATH}/{scene.source}", token), 404, "connection_not_found")
        refusal(scene.start_job(), 404, "connection_not_found")
        refusal(project.retry(token, {"job_id": ended}), 404, "connection_not_found")
        refusal(scene.define(), 404, "connection_not_found")
        tested = {"type": "http", "configuration": CONFIG, "connection_id": scene.source}
        refusal(project.request("POST", f"{PATH}/test", token, json=tested), 404, "connection_not_found")
    stranger = project.token(project.database.member())
    assert scene.source not in project.request("GET", PATH, token).text
    refusal(project.start(stranger, {"connection_id": scene.source, **JANUARY}), 404, "connection_not_found")


@through_both_doors
def test_a_deleted_destination_is_of_no_more_use(scene: Scenario) -> None:
    deleted(delete(scene.project, scene.token, scene.destination, force="true"))
    with scene.project.unchanged():
        refusal(scene.define(), 404, "connection_not_found")


# Meanwhile


def somebody_waits(database: Database) -> bool:
    """For a lock, in this database."""
    return bool(
        database.all(
            "select from pg_stat_activity"
            " where datname = current_database() and state = 'active' and wait_event_type = 'Lock'"
        )
    )


@contextlib.contextmanager
def in_the_middle_of(
    scene: Scenario, rpc: str, **arguments: Any
) -> Iterator[Callable[[Callable[[], httpx.Response]], httpx.Response]]:
    """A call that has done everything but commit; another that is given meanwhile is answered after that."""
    with scene.database.session(scene.user.claims) as first, ThreadPoolExecutor(1) as threads:
        first.execute("begin")
        first.call(rpc, **arguments)

        def meanwhile(second: Callable[[], httpx.Response]) -> httpx.Response:
            answer = threads.submit(second)
            until(lambda: answer.done() or somebody_waits(scene.database))
            assert not answer.done(), answer.result().text
            first.execute("commit")
            return answer.result(30)

        yield meanwhile


def test_a_job_that_starts_meanwhile_is_cancelled(scene: Scenario) -> None:
    arguments = {"connection_id": scene.source, **JANUARY}
    with in_the_middle_of(scene, "start_historical_sync", **arguments) as meanwhile:
        deleted(meanwhile(lambda: delete(scene.project, scene.token, scene.source, force="true")))
    [job] = scene.project.jobs(scene.token).json()["jobs"]
    assert job["status"] == "cancelled"


def test_no_job_starts_while_it_is_deleted(scene: Scenario) -> None:
    with in_the_middle_of(scene, "delete_connection", connection_id=scene.source, force=True) as meanwhile:
        refusal(meanwhile(scene.start_job), 404, "connection_not_found")


def test_a_retry_meanwhile_is_cancelled_or_refused(scene: Scenario) -> None:
    ended = scene.job(("claim", "running"), ("fail", "failed"))
    with in_the_middle_of(scene, "retry_historical_sync", job_id=ended) as meanwhile:
        deleted(meanwhile(lambda: delete(scene.project, scene.token, scene.source, force="true")))
    assert scene.project.jobs(scene.token).json()["jobs"][0]["status"] == "cancelled"


@through_both_doors
def test_no_retry_while_it_is_deleted(scene: Scenario) -> None:
    ended = scene.job(("claim", "running"), ("fail", "failed"))
    with in_the_middle_of(scene, "delete_connection", connection_id=scene.source, force=True) as meanwhile:
        response = meanwhile(lambda: scene.project.retry(scene.token, {"job_id": ended}))
        refusal(response, 404, "connection_not_found")


@pytest.mark.parametrize("which", ["source", "destination"])
def test_an_execution_that_starts_meanwhile_is_canceled(scene: Scenario, which: str) -> None:
    with in_the_middle_of(scene, "start_bulk_sync", sync_id=scene.sync) as meanwhile:
        deleted(meanwhile(lambda: delete(scene.project, scene.token, getattr(scene, which), force="true")))
    [execution] = scene.database.all("select status from app.executions where definition_id = %s", (scene.sync,))
    assert execution["status"] == "cancelled"


@pytest.mark.parametrize("which", ["source", "destination"])
def test_no_execution_starts_while_it_is_deleted(scene: Scenario, which: str) -> None:
    arguments = {"connection_id": getattr(scene, which), "force": True}
    with in_the_middle_of(scene, "delete_connection", **arguments) as meanwhile:
        refusal(meanwhile(scene.start), 404, "bulk_sync_not_found")


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("which", ["source", "destination"])
def test_a_model_sync_that_starts_does_not_wait_for_a_deletion_that_has_begun(scene: Scenario, which: str) -> None:
    """The deletion holds the connection, and will wait for the sync: if the sync waited too, nobody would go on."""
    sync = a_model_sync(scene.project, scene.user)
    query = f"select {which}_id as id from app.definitions where id = %s"
    connection_id = scene.database.one(query, (sync["sync_id"],))["id"]
    with scene.database.connect() as deletion, deletion.transaction():
        deletion.execute("select from app.connections where id = %s for no key update", (connection_id,))
        with scene.database.session(scene.user.claims) as session:
            assert session.call("start_model_sync", **sync)["data"]["status"] == "created"


@through_both_doors
@pytest.mark.parametrize("which", ["source", "destination"])
def test_a_sync_that_is_defined_meanwhile_uses_it(scene: Scenario, which: str) -> None:
    assert scene.project.request("DELETE", f"{SYNCS}/{scene.sync}", scene.token).status_code == 204
    arguments = {"source_connection_id": scene.source, "destination_connection_id": scene.destination}
    with in_the_middle_of(scene, "create_bulk_sync", name="x", **arguments) as meanwhile:
        response = meanwhile(lambda: delete(scene.project, scene.token, getattr(scene, which)))
    [used_by] = refusal(response, 422, "connection_in_use")["used_by"]
    assert used_by["name"] == "x"


@through_both_doors
@pytest.mark.parametrize("which", ["source", "destination"])
def test_no_sync_is_defined_while_it_is_deleted(scene: Scenario, which: str) -> None:
    arguments = {"connection_id": getattr(scene, which), "force": True}
    with in_the_middle_of(scene, "delete_connection", **arguments) as meanwhile:
        refusal(meanwhile(scene.define), 404, "connection_not_found")


def test_what_is_claimed_meanwhile_is_told_to_stop(scene: Scenario) -> None:
    execution_id, job_id = scene.started(), scene.job()
    with scene.database.worker() as worker, ThreadPoolExecutor(1) as threads:
        worker.execute("begin")
        families = ["bulk_sync", "historical_sync"]
        claimed = worker.call("worker_claim", worker="w", families=families, max_executions=100)
        assert {execution_id, job_id} <= {execution["id"] for execution in claimed}
        answer = threads.submit(lambda: delete(scene.project, scene.token, scene.source, force="true"))
        until(lambda: answer.done() or somebody_waits(scene.database))
        assert not answer.done()
        worker.execute("commit")
        deleted(answer.result(30))
    assert (scene.status(execution_id), scene.status(job_id)) == ("cancelling", "cancelled")


def test_of_many_at_once_one_deletes(scene: Scenario) -> None:
    scene.started()
    responses = scene.project.at_once(lambda: delete(scene.project, scene.token, scene.source, force="true"))
    answers = sorted(response.status_code for response in responses)
    assert answers == [204] + [404] * (len(responses) - 1)


@through_both_doors
def test_under_load_nothing_runs_on_a_deleted_connection_and_nobody_waits_in_a_circle(project: Project) -> None:
    """Both connections of several syncs are deleted while these are started, cancelled and defined."""
    for _ in range(8):
        user = project.database.member()
        source = project.database.connection(user.agency_id, secret=SECRET)
        destination = project.database.connection(user.agency_id, "records", {})
        one = Scenario(project, user, project.token(user), source, destination, "")
        syncs = [one.define(f"{n}").json()["data"]["id"] for n in range(3)]
        scenes = [Scenario(project, user, one.token, source, destination, sync) for sync in syncs]
        calls: list[Callable[[], httpx.Response]] = [
            *[each.start for each in scenes],
            one.start_job,
            one.define,
            lambda: delete(project, one.token, source, force="true"),  # noqa: B023 (called here)
            lambda: delete(project, one.token, destination, force="true"),  # noqa: B023 (called here)
            lambda: project.request("DELETE", f"{SYNCS}/{syncs[1]}", one.token),  # noqa: B023 (called here)
            lambda: project.request("POST", f"{SYNCS}/{syncs[2]}/cancel", one.token),  # noqa: B023 (called here)
            *[each.start for each in scenes],
            one.start_job,
            lambda: delete(project, one.token, source),  # noqa: B023 (called here)
        ]
        with ThreadPoolExecutor(len(calls)) as threads:
            responses = [answer.result(60) for answer in [threads.submit(call) for call in calls]]
        assert {response.status_code for response in responses} <= {200, 201, 204, 404, 409, 422}
        for connection_id in (source, destination):
            assert row(project.database, connection_id)["deleted_at"] is not None
        assert project.database.all(ACTIVE, (user.agency_id,)) == []
        alive = "select from app.definitions where agency_id = %s and deleted_at is null"
        assert project.database.all(alive, (user.agency_id,)) == []
