"""POST /api/connections/test, and `validate` on create, through both doors and a real worker: the source is asked, the
caller is told, and nothing is kept.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from functions._connections import source_check
from functions._local.postgres import free_port
from functions._local.schema import ROOT
from functions._local.source import Source
from functions.connection.test_connection import ConnectionTested
from tests.support.connections import (
    CONFIG,
    GOOD,
    PATH,
    SECRET,
    UNKNOWN,
    created,
    everything_stored,
    ids,
    make_key,
    row,
)
from tests.support.project import BOTH_TRANSPORTS, JANUARY, Project, Projects, refusal
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import httpx

    from tests.support.database import Database, User

TEST = f"{PATH}/test"
MODELS = "/api/models"
FOR_EVER = 3600.0
through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)


def passed(response: httpx.Response) -> None:
    assert response.status_code == 200, response.text
    ConnectionTested.model_validate_json(response.content, strict=True, extra="forbid")


def unreadable(response: httpx.Response) -> str:
    """Why the source could not be read."""
    members = refusal(response, 400, "source_not_readable")
    assert list(members) == ["reason"]
    return str(members["reason"])


@dataclass(frozen=True)
class Scenery:
    """A database with a worker that can do one sync at a time, and a source."""

    database: Database
    projects: Projects
    source: Source
    log: Path


@pytest.fixture(scope="module")
def scenery(
    clone: Callable[[], AbstractContextManager[Database]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scenery]:
    log = tmp_path_factory.mktemp("worker") / "log"
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(clone())
        projects = stack.enter_context(contextlib.closing(Projects(database)))
        source = stack.enter_context(Source())
        options = {
            "DATABASE_URL": database.login("authenticator"),
            "WORKER_CONCURRENCY": "1",
            "WORKER_TICK_SECONDS": "0.05",
            "WORKER_ALLOW_PRIVATE_ADDRESSES": "true",
        }
        worker = subprocess.Popen(
            [sys.executable, "-m", "functions.worker"],
            cwd=ROOT,
            env=os.environ | options,
            stderr=stack.enter_context(log.open("w")),
        )
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        yield Scenery(database, projects, source, log)


class Scenario:
    """A member of a new agency in front of one door."""

    def __init__(self, scenery: Scenery, project: Project) -> None:
        self.source = scenery.source
        self.database = scenery.database
        self.log = scenery.log
        self.project = project
        self.user: User = self.database.member()
        self.token = project.token(self.user)

    def request(self, *resources: str, auth: str = "bearer", **changes: Any) -> dict[str, Any]:
        """One that is good, with these members of its configuration instead."""
        config, secret = self.source.connection(resources or ("airports",), auth=auth)
        return {"type": "http", "configuration": {**config, "secret": secret, **changes}}

    def stored(self, auth: str = "bearer") -> str:
        config, secret = self.source.connection(["airports"], auth=auth)
        return self.database.connection(self.user.agency_id, config=config, secret=secret)

    def test(self, body: object, token: str | None = None) -> httpx.Response:
        return self.project.request("POST", TEST, token or self.token, json=body)

    def checks(self) -> list[dict[str, Any]]:
        return self.database.all(
            "select * from app.executions where agency_id = %s order by id", (self.user.agency_id,)
        )


@pytest.fixture(params=BOTH_TRANSPORTS, ids=str)
def scene(request: pytest.FixtureRequest, scenery: Scenery, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scenario]:
    monkeypatch.setattr(source_check, "WAIT_SECONDS", 60)  # the worker is there, however busy the machine
    yield Scenario(scenery, scenery.projects(request.param))
    scenery.source.faults.clear()
    scenery.database.check_invariants()
    assert "Traceback" not in scenery.log.read_text()


# The source is asked


@pytest.mark.parametrize("auth", ["bearer", "api_key", "api_key_query", "basic"])
def test_a_source_that_answers(scene: Scenario, auth: str) -> None:
    before = len(scene.source.requests)
    passed(scene.test(scene.request("airports", "weather", auth=auth)))
    [request] = scene.source.requests[before:]
    assert request.path in {"/airports", "/weather"}


def test_nothing_is_kept(scene: Scenario) -> None:
    """Of what was tested stays a row that nobody can reach, without its secret after five minutes."""
    body = scene.request()
    passed(scene.test(body))
    assert ids(scene.project, scene.token) == []
    [execution] = scene.checks()
    assert (execution["family"], execution["status"], execution["records"]) == ("source_check", "completed", 0)
    assert execution["created_by"] == f"user:{scene.user.id}"
    kept = row(scene.database, execution["connection_id"])
    assert kept["deleted_at"] is not None
    assert kept["secret"] == body["configuration"]["secret"]
    assert scene.database.all("select from app.records") == []
    with scene.database.worker() as worker:
        for minutes, secret in ((4, kept["secret"]), (6, {})):
            scene.database.admin.execute(
                "update app.connections set deleted_at = now() - make_interval(mins => %s) where id = %s",
                (minutes, kept["id"]),
            )
            worker.call("worker_reap")
            assert row(scene.database, kept["id"])["secret"] == secret
    token = body["configuration"]["secret"]["token"]
    scene.database.admin.execute("update app.secrets set value = '{}'")  # other tests' of this source
    assert token not in everything_stored(scene.database) + scene.log.read_text()


def test_with_a_key(scene: Scenario) -> None:
    key, key_id = make_key(scene.project, scene.user)
    passed(scene.test(scene.request(), key))
    assert [execution["created_by"] for execution in scene.checks()] == [f"api_key:{key_id}"]


def test_a_connection_that_receives_records_cannot_fail(scene: Scenario) -> None:
    passed(scene.test({"type": "records"}))
    stored = scene.database.connection(scene.user.agency_id, "records", {})
    passed(scene.test({"type": "records", "configuration": {}, "connection_id": stored}))
    assert scene.checks() == []
    assert ids(scene.project, scene.token) == [stored]


def test_many_at_once(scene: Scenario) -> None:
    for response in scene.project.at_once(lambda: scene.test(scene.request())):
        passed(response)


# The source does not answer as it should


def test_a_wrong_secret(scene: Scenario) -> None:
    response = scene.test(scene.request(secret={"token": "n0t-the-token"}))
    assert unreadable(response) == "source_unauthorized"
    assert "n0t-the-token" not in response.text + scene.log.read_text()
    [execution] = scene.checks()
    assert (execution["status"], execution["error"]["code"]) == ("failed", "source_unauthorized")


def test_a_source_that_is_down(scene: Scenario) -> None:
    assert unreadable(scene.test(scene.request(base_url=f"http://127.0.0.1:{free_port()}"))) == "source_unavailable"
    [execution] = scene.checks()
    assert [event["event"] for event in scene.database.events(execution["id"])] == ["start", "claim", "fail"]


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "source_not_found"), (302, "source_refused"), (403, "source_unauthorized")]
)
def test_a_source_that_refuses(scene: Scenario, status: int, reason: str) -> None:
    scene.source.faults.status(status)
    assert unreadable(scene.test(scene.request())) == reason


def test_a_source_that_returns_rubbish(scene: Scenario) -> None:
    scene.source.faults.invalid_json()
    assert unreadable(scene.test(scene.request())) == "source_malformed"
    resources = scene.request()["configuration"]["resources"]
    resources["airports"]["records"] = "nowhere"
    assert unreadable(scene.test(scene.request(resources=resources))) == "source_malformed"


def test_a_source_that_is_slow(scene: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is answered in time, and the worker looks no longer: it has one place, which the next look takes."""
    monkeypatch.setattr(source_check, "WAIT_SECONDS", 0.1)
    scene.source.faults.delay_seconds = FOR_EVER
    response = scene.test(scene.request())
    assert refusal(response, 503, "source_unavailable") == {}
    assert int(response.headers["retry-after"]) > 0
    assert [one["status"] for one in scene.checks()] == ["cancelled"]
    scene.source.faults.clear()
    monkeypatch.setattr(source_check, "WAIT_SECONDS", 60)
    passed(scene.test(scene.request()))


# A change of a stored one


def test_a_stored_connection_as_it_is(scene: Scenario) -> None:
    stored = scene.stored()
    before = row(scene.database, stored)
    unchanged: list[dict[str, Any]] = [{"configuration": {}}, {"configuration": None}, {}]
    for configuration in unchanged:
        passed(scene.test({"type": "http", "connection_id": stored, **configuration}))
    assert row(scene.database, stored) == before
    assert ids(scene.project, scene.token) == [stored]
    assert {str(one["connection_id"]) for one in scene.checks()}.isdisjoint({stored})


def test_a_change_is_tested_with_the_stored_secret(scene: Scenario) -> None:
    stored = scene.stored()
    resources = scene.request("weather")["configuration"]["resources"]
    before = len(scene.source.requests)
    body = {"type": "http", "connection_id": stored, "configuration": {"resources": resources, "timeout_seconds": 5}}
    passed(scene.test(body))
    assert [request.path for request in scene.source.requests[before:]] == ["/weather"]
    created_config = row(scene.database, stored)["config"]
    assert list(created_config["resources"]) == ["airports"]


def test_a_change_of_the_secret_alone(scene: Scenario) -> None:
    stored = scene.stored("basic")
    before = row(scene.database, stored)

    def change(**secret: str) -> httpx.Response:
        return scene.test({"type": "http", "connection_id": stored, "configuration": {"secret": secret}})

    passed(change(**before["secret"]))
    assert unreadable(change(**before["secret"] | {"password": "n0t-it"})) == "source_unauthorized"
    assert unreadable(change(username="reader")) == "source_config_invalid"
    assert unreadable(change()) == "source_config_invalid"
    assert unreadable(change(token="n0t-it")) == "source_config_invalid"
    assert row(scene.database, stored) == before


def test_a_change_of_auth_brings_its_own_secret(scene: Scenario) -> None:
    stored = scene.stored("bearer")
    other = scene.request(auth="basic")["configuration"]
    change = {"auth": other["auth"], "secret": other["secret"]}
    passed(scene.test({"type": "http", "connection_id": stored, "configuration": change}))


@pytest.mark.parametrize("auth", ["bearer", "basic", "api_key_query"])
def test_the_stored_secret_goes_nowhere_else(scene: Scenario, auth: str) -> None:
    """Who may use a secret is not shown it, by sending it to an address of their own either."""
    stored = scene.stored(auth)
    secret = row(scene.database, stored)["secret"]
    with Source(credentials=scene.source.credentials) as elsewhere:
        moved = {"base_url": elsewhere.url}
        changes: list[dict[str, Any]] = [moved, moved | {"secret": {}}, moved | {"secret": None}]
        if auth == "basic":
            changes.append(moved | {"secret": {"username": "reader"}})
        for change in changes:
            response = scene.test({"type": "http", "connection_id": stored, "configuration": change})
            assert unreadable(response) == "source_config_invalid"
        assert elsewhere.requests == []
        whole = moved | {"secret": secret}
        passed(scene.test({"type": "http", "connection_id": stored, "configuration": whole}))


@pytest.mark.parametrize(
    "change",
    [{"base_url": "https://"}, {"auth": None}, {"resources": {}}, {"nope": 1}, {"timeout_seconds": "x"}],
    ids=str,
)
def test_a_change_that_makes_it_invalid(scene: Scenario, change: dict[str, Any]) -> None:
    """What the whole is, only the worker sees; it says so."""
    body = {"type": "http", "connection_id": scene.stored(), "configuration": change}
    assert unreadable(scene.test(body)) == "source_config_invalid"


def test_another_agencys_connection_teaches_nothing(scene: Scenario) -> None:
    owner = scene.database.member()
    config, secret = scene.source.connection(["airports"])
    theirs = scene.database.connection(owner.agency_id, config=config, secret=secret)
    before = len(scene.source.requests)
    with scene.project.unchanged():
        answers = [
            scene.test({"type": type_, "connection_id": one, "configuration": {}})
            for one in (theirs, UNKNOWN)
            for type_ in ("http", "records")
        ]
    for response in answers:
        assert refusal(response, 404, "connection_not_found") == {}
    assert len({response.json()["message"] for response in answers}) == 1
    assert len(scene.source.requests) == before


# validate


def test_create_with_validate(scene: Scenario) -> None:
    good = {"name": "x", **scene.request()}
    made = created(scene.project.request("POST", PATH, scene.token, json=good | {"validate": True}))
    wrong = {"name": "x", **scene.request(secret={"token": "n0t-the-token"})}
    assert unreadable(scene.project.request("POST", PATH, scene.token, json=wrong | {"validate": True})) == (
        "source_unauthorized"
    )
    also = created(scene.project.request("POST", PATH, scene.token, json=wrong | {"validate": False}))
    assert len(scene.checks()) == 2
    records = {"name": "x", "type": "records", "validate": True}
    third = created(scene.project.request("POST", PATH, scene.token, json=records))
    assert sorted(ids(scene.project, scene.token)) == sorted(one["id"] for one in (made, also, third))


def test_who_asks_again_with_its_key_needs_no_source(scene: Scenario) -> None:
    good = {"name": "x", "validate": True, **scene.request()}
    key = {"idempotency-key": "k"}
    first = scene.project.request("POST", PATH, scene.token, json=good, headers=key)
    connection_id = created(first)["id"]
    model = {"name": "m", "connection_id": connection_id, "configuration": {"resource": "airports"}}
    second = scene.project.request("POST", MODELS, scene.token, json=model, headers=key)
    assert second.status_code == 200
    scene.source.faults.status(503)
    before = len(scene.source.requests)
    for path, body, answered in ((PATH, good, first), (MODELS, model, second)):
        again = scene.project.request("POST", path, scene.token, json=body, headers=key)
        assert (again.status_code, again.content) == (200, answered.content)
        other = scene.project.request("POST", path, scene.token, json=body | {"name": "y"}, headers=key)
        refusal(other, 422, "idempotency_key_reused")
    assert len(scene.source.requests) == before
    assert ids(scene.project, scene.token) == [connection_id]
    assert len(scene.checks()) == 2


# A worker that has its hands full


def test_a_look_goes_ahead_of_what_takes_long(scene: Scenario) -> None:
    with Source(delay_seconds=FOR_EVER) as slow:
        config, secret = slow.connection(["weather"])
        jobs = []
        for _ in range(3):
            connection_id = scene.database.connection(scene.user.agency_id, config=config, secret=secret)
            body = {"connection_id": connection_id, **JANUARY}
            jobs.append(scene.project.start(scene.token, body).json()["job_id"])
        until(lambda: slow.requests)
        try:
            passed(scene.test(scene.request()))
            statuses = sorted(scene.database.execution(job_id)["status"] for job_id in jobs)
            assert statuses == ["queued", "queued", "running"]
        finally:
            for job_id in jobs:
                scene.project.cancel(scene.token, {"job_id": job_id})


# No worker


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_check, "WAIT_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
def test_without_a_worker_it_is_later(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    body = {"type": "http", "configuration": GOOD["configuration"]}
    for path, asked in ((TEST, body), (PATH, GOOD | {"validate": True})):
        response = project.request("POST", path, token, json=asked)
        assert refusal(response, 503, "source_unavailable") == {}
        assert int(response.headers["retry-after"]) > 0
        assert SECRET["token"] not in response.text
    assert ids(project, token) == []
    checks = project.database.all("select status from app.executions where agency_id = %s", (user.agency_id,))
    assert [source_check["status"] for source_check in checks] == ["cancelled"] * 2  # nobody waits for them


@pytest.mark.usefixtures("impatient")
def test_what_is_tested_is_no_connection(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    body = {"type": "http", "configuration": GOOD["configuration"]}
    refusal(project.request("POST", TEST, token, json=body), 503, "source_unavailable")
    query = "select connection_id::text as id from app.executions where agency_id = %s"
    connection_id = project.database.one(query, (user.agency_id,))["id"]
    records = project.database.connection(user.agency_id, "records", {})
    http = project.database.connection(user.agency_id)
    sync = {"name": "x", "source_connection_id": connection_id, "destination_connection_id": records}
    with project.unchanged():
        for method in ("GET", "DELETE"):
            refusal(project.request(method, f"{PATH}/{connection_id}", token), 404, "connection_not_found")
        started = project.start(token, {"connection_id": connection_id, **JANUARY})
        refusal(started, 404, "connection_not_found")
        refusal(project.request("POST", "/api/bulk/syncs", token, json=sync), 404, "connection_not_found")
        sync |= {"source_connection_id": http, "destination_connection_id": connection_id}
        refusal(project.request("POST", "/api/bulk/syncs", token, json=sync), 404, "connection_not_found")
        refusal(
            project.request("POST", TEST, token, json=body | {"connection_id": connection_id}),
            404,
            "connection_not_found",
        )
        assert project.jobs(token).json()["jobs"] == []


@pytest.mark.usefixtures("impatient")
def test_a_failing_database_says_nothing_of_the_secret(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = project.token(project.database.member())
    body = {"type": "http", "configuration": GOOD["configuration"]}
    with project.without("app.start_source_check"):
        response = project.request("POST", TEST, token, json=body)
    assert refusal(response, 500, "internal_error") == {}
    assert caplog.text
    assert SECRET["token"] not in response.text + caplog.text


# What may not be sent


@through_both_doors
def test_another_type_than_the_stored_one(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    stored = project.database.connection(user.agency_id, "records", {}), project.database.connection(user.agency_id)
    with project.unchanged():
        for type_, connection_id in zip(("http", "records"), stored, strict=True):
            body = {"type": type_, "connection_id": connection_id, "configuration": {}}
            assert refusal(project.request("POST", TEST, token, json=body), 400, "other_type") == {}


BAD: dict[str, tuple[Any, int, str, dict[str, Any]]] = {
    "nothing": ({}, 400, "missing_field", {"field": "type"}),
    "an unknown type": ({"type": "ftp"}, 400, "invalid_field", {"field": "type"}),
    "a list as configuration": (
        {"type": "http", "configuration": []},
        400,
        "invalid_field",
        {"field": "configuration"},
    ),
    "a NUL": ({"type": "http", "configuration": {"a": "\0"}}, 400, "invalid_field", {"field": "configuration"}),
    "a NUL in a change": (
        {"type": "http", "configuration": {"\0": 1}, "connection_id": UNKNOWN},
        400,
        "invalid_field",
        {"field": "configuration"},
    ),
    "no id": ({"type": "http", "connection_id": "x"}, 400, "invalid_field", {"field": "connection_id"}),
    "no configuration": ({"type": "http"}, 400, "invalid_configuration", {}),
    "no secret": ({"type": "http", "configuration": CONFIG}, 400, "invalid_configuration", {}),
    "records with a configuration": (
        {"type": "records", "configuration": {"a": 1}},
        400,
        "invalid_configuration",
        {},
    ),
    "unknown members": (
        {"type": "http", "name": "x", "validate": True},
        422,
        "unsupported_field",
        {"fields": ["name", "validate"]},
    ),
}


@through_both_doors
@pytest.mark.parametrize("name", BAD)
def test_requests_that_are_none(project: Project, name: str) -> None:
    body, status, code, members = BAD[name]
    token = project.token(project.database.member())
    with project.unchanged():
        assert refusal(project.request("POST", TEST, token, json=body), status, code) == members


@through_both_doors
@pytest.mark.parametrize(
    "change", [{"secret": "x"}, {"secret": []}, {"resources": "x"}, {"resources": None}, {"secret": False}], ids=str
)
def test_a_change_of_another_shape(project: Project, change: dict[str, Any]) -> None:
    user = project.database.member()
    token = project.token(user)
    stored = project.database.connection(user.agency_id)
    body = {"type": "http", "connection_id": stored, "configuration": change}
    with project.unchanged():
        assert refusal(project.request("POST", TEST, token, json=body), 400, "invalid_configuration") == {}


def test_a_user_without_agency(project: Project) -> None:
    token = project.token(project.database.user(None))
    body = {"type": "http", "configuration": GOOD["configuration"]}
    with project.unchanged():
        refusal(project.request("POST", TEST, token, json=body), 403, "no_agency")
        refusal(project.request("POST", TEST, json=body), 401, "missing_token")
