"""POST /api/connections/test, and `validate` at creation, with a real worker. Nothing of a test is kept."""

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
from tests.support.project import (
    BOTH_TRANSPORTS,
    JANUARY,
    Project,
    Projects,
    both_transports,
    expect_error,
    one_transport,
)
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import httpx

    from tests.support.database import Database, User

TEST = f"{PATH}/test"
MODELS = "/api/models"
FOREVER = 3600.0


def passed(response: httpx.Response) -> None:
    assert response.status_code == 200, response.text
    ConnectionTested.model_validate_json(response.content, strict=True, extra="forbid")


def unreadable(response: httpx.Response) -> str:
    """The reason why the source could not be read."""
    members = expect_error(response, 400, "source_not_readable")
    assert list(members) == ["reason"]
    return str(members["reason"])


@dataclass(frozen=True)
class Environment:
    """A database with a worker that runs one sync at a time, and a source."""

    database: Database
    projects: Projects
    source: Source
    log: Path


@pytest.fixture(scope="module")
def environment(
    clone: Callable[[], AbstractContextManager[Database]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
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
        yield Environment(database, projects, source, log)


class Scenario:
    """A member of a new agency who calls the functions over one transport."""

    def __init__(self, environment: Environment, project: Project) -> None:
        self.source = environment.source
        self.database = environment.database
        self.log = environment.log
        self.project = project
        self.user: User = self.database.member()
        self.token = project.token(self.user)

    def request(self, *resources: str, auth: str = "bearer", **changes: Any) -> dict[str, Any]:
        """A valid request with these members of its configuration replaced."""
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
def scenario(
    request: pytest.FixtureRequest, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scenario]:
    monkeypatch.setattr(source_check, "WAIT_SECONDS", 60)  # the worker runs, but the machine may be busy
    yield Scenario(environment, environment.projects(request.param))
    environment.source.faults.clear()
    environment.database.check_invariants()
    assert "Traceback" not in environment.log.read_text()


# Successful tests


@pytest.mark.parametrize("auth", ["bearer", "api_key", "api_key_query", "basic"])
def test_test_connection__source_responds(scenario: Scenario, auth: str) -> None:
    before = len(scenario.source.requests)
    passed(scenario.test(scenario.request("airports", "weather", auth=auth)))
    [request] = scenario.source.requests[before:]
    assert request.path in {"/airports", "/weather"}


def test_test_connection__keeps_nothing(scenario: Scenario) -> None:
    """The tested configuration stays as a deleted connection, whose secret is removed after five minutes."""
    body = scenario.request()
    passed(scenario.test(body))
    assert ids(scenario.project, scenario.token) == []
    [execution] = scenario.checks()
    assert (execution["family"], execution["status"], execution["records"]) == ("source_check", "completed", 0)
    assert execution["created_by"] == f"user:{scenario.user.id}"
    kept = row(scenario.database, execution["connection_id"])
    assert kept["deleted_at"] is not None
    assert kept["secret"] == body["configuration"]["secret"]
    assert scenario.database.all("select from app.records") == []
    with scenario.database.worker() as worker:
        for minutes, secret in ((4, kept["secret"]), (6, {})):
            scenario.database.admin.execute(
                "update app.connections set deleted_at = now() - make_interval(mins => %s) where id = %s",
                (minutes, kept["id"]),
            )
            worker.call("worker_reap")
            assert row(scenario.database, kept["id"])["secret"] == secret
    token = body["configuration"]["secret"]["token"]
    scenario.database.admin.execute("update app.secrets set value = '{}'")  # of other tests with this source
    assert token not in everything_stored(scenario.database) + scenario.log.read_text()


def test_test_connection__with_an_api_key(scenario: Scenario) -> None:
    key, key_id = make_key(scenario.project, scenario.user)
    passed(scenario.test(scenario.request(), key))
    assert [execution["created_by"] for execution in scenario.checks()] == [f"api_key:{key_id}"]


def test_test_connection__type_records_always_succeeds(scenario: Scenario) -> None:
    passed(scenario.test({"type": "records"}))
    stored = scenario.database.connection(scenario.user.agency_id, "records", {})
    passed(scenario.test({"type": "records", "configuration": {}, "connection_id": stored}))
    assert scenario.checks() == []
    assert ids(scenario.project, scenario.token) == [stored]


def test_test_connection__concurrent_calls(scenario: Scenario) -> None:
    for response in scenario.project.concurrently(lambda: scenario.test(scenario.request())):
        passed(response)


# Failing sources


def test_test_connection__wrong_secret(scenario: Scenario) -> None:
    response = scenario.test(scenario.request(secret={"token": "n0t-the-token"}))
    assert unreadable(response) == "source_unauthorized"
    assert "n0t-the-token" not in response.text + scenario.log.read_text()
    [execution] = scenario.checks()
    assert (execution["status"], execution["error"]["code"]) == ("failed", "source_unauthorized")


def test_test_connection__source_is_down(scenario: Scenario) -> None:
    assert (
        unreadable(scenario.test(scenario.request(base_url=f"http://127.0.0.1:{free_port()}"))) == "source_unavailable"
    )
    [execution] = scenario.checks()
    assert [event["event"] for event in scenario.database.events(execution["id"])] == ["start", "claim", "fail"]


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "source_not_found"), (302, "source_refused"), (403, "source_unauthorized")]
)
def test_test_connection__source_rejects_the_request(scenario: Scenario, status: int, reason: str) -> None:
    scenario.source.faults.status(status)
    assert unreadable(scenario.test(scenario.request())) == reason


def test_test_connection__malformed_response(scenario: Scenario) -> None:
    scenario.source.faults.invalid_json()
    assert unreadable(scenario.test(scenario.request())) == "source_malformed"
    resources = scenario.request()["configuration"]["resources"]
    resources["airports"]["records"] = "nowhere"
    assert unreadable(scenario.test(scenario.request(resources=resources))) == "source_malformed"


def test_test_connection__slow_source_times_out(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request times out and the worker stops the check: its only slot is free for the next one."""
    monkeypatch.setattr(source_check, "WAIT_SECONDS", 0.1)
    scenario.source.faults.delay_seconds = FOREVER
    response = scenario.test(scenario.request())
    assert expect_error(response, 503, "source_unavailable") == {}
    assert int(response.headers["retry-after"]) > 0
    assert [check["status"] for check in scenario.checks()] == ["cancelled"]
    scenario.source.faults.clear()
    monkeypatch.setattr(source_check, "WAIT_SECONDS", 60)
    passed(scenario.test(scenario.request()))


# Changes of a stored connection


def test_test_connection__stored_connection_unchanged(scenario: Scenario) -> None:
    stored = scenario.stored()
    before = row(scenario.database, stored)
    unchanged: list[dict[str, Any]] = [{"configuration": {}}, {"configuration": None}, {}]
    for configuration in unchanged:
        passed(scenario.test({"type": "http", "connection_id": stored, **configuration}))
    assert row(scenario.database, stored) == before
    assert ids(scenario.project, scenario.token) == [stored]
    assert stored not in {str(check["connection_id"]) for check in scenario.checks()}


def test_test_connection__change_is_tested_with_the_stored_secret(scenario: Scenario) -> None:
    stored = scenario.stored()
    resources = scenario.request("weather")["configuration"]["resources"]
    before = len(scenario.source.requests)
    body = {"type": "http", "connection_id": stored, "configuration": {"resources": resources, "timeout_seconds": 5}}
    passed(scenario.test(body))
    assert [request.path for request in scenario.source.requests[before:]] == ["/weather"]
    assert list(row(scenario.database, stored)["config"]["resources"]) == ["airports"]


def test_test_connection__change_of_the_secret_only(scenario: Scenario) -> None:
    stored = scenario.stored("basic")
    before = row(scenario.database, stored)

    def change(**secret: str) -> httpx.Response:
        return scenario.test({"type": "http", "connection_id": stored, "configuration": {"secret": secret}})

    passed(change(**before["secret"]))
    assert unreadable(change(**before["secret"] | {"password": "n0t-it"})) == "source_unauthorized"
    assert unreadable(change(username="reader")) == "source_config_invalid"
    assert unreadable(change()) == "source_config_invalid"
    assert unreadable(change(token="n0t-it")) == "source_config_invalid"
    assert row(scenario.database, stored) == before


def test_test_connection__change_of_auth_needs_its_own_secret(scenario: Scenario) -> None:
    stored = scenario.stored("bearer")
    other = scenario.request(auth="basic")["configuration"]
    change = {"auth": other["auth"], "secret": other["secret"]}
    passed(scenario.test({"type": "http", "connection_id": stored, "configuration": change}))


@pytest.mark.parametrize("auth", ["bearer", "basic", "api_key_query"])
def test_test_connection__stored_secret_is_not_sent_to_another_host(scenario: Scenario, auth: str) -> None:
    """A caller who may use a secret cannot learn it by sending it to a host of their own."""
    stored = scenario.stored(auth)
    secret = row(scenario.database, stored)["secret"]
    with Source(credentials=scenario.source.credentials) as elsewhere:
        other_host = {"base_url": elsewhere.url}
        changes: list[dict[str, Any]] = [other_host, other_host | {"secret": {}}, other_host | {"secret": None}]
        if auth == "basic":
            changes.append(other_host | {"secret": {"username": "reader"}})
        for change in changes:
            response = scenario.test({"type": "http", "connection_id": stored, "configuration": change})
            assert unreadable(response) == "source_config_invalid"
        assert elsewhere.requests == []
        with_secret = other_host | {"secret": secret}
        passed(scenario.test({"type": "http", "connection_id": stored, "configuration": with_secret}))


@pytest.mark.parametrize(
    "change",
    [{"base_url": "https://"}, {"auth": None}, {"resources": {}}, {"nope": 1}, {"timeout_seconds": "x"}],
    ids=str,
)
def test_test_connection__change_makes_the_configuration_invalid(scenario: Scenario, change: dict[str, Any]) -> None:
    """Only the worker sees the merged configuration, therefore it reports the error."""
    body = {"type": "http", "connection_id": scenario.stored(), "configuration": change}
    assert unreadable(scenario.test(body)) == "source_config_invalid"


def test_test_connection__connection_of_another_agency(scenario: Scenario) -> None:
    owner = scenario.database.member()
    config, secret = scenario.source.connection(["airports"])
    theirs = scenario.database.connection(owner.agency_id, config=config, secret=secret)
    before = len(scenario.source.requests)
    with scenario.project.unchanged():
        responses = [
            scenario.test({"type": type_, "connection_id": connection_id, "configuration": {}})
            for connection_id in (theirs, UNKNOWN)
            for type_ in ("http", "records")
        ]
    for response in responses:
        assert expect_error(response, 404, "connection_not_found") == {}
    assert len({response.json()["message"] for response in responses}) == 1
    assert len(scenario.source.requests) == before


# Creation with `validate`


def test_create_connection__validate(scenario: Scenario) -> None:
    good = {"name": "x", **scenario.request()}
    first = created(scenario.project.request("POST", PATH, scenario.token, json=good | {"validate": True}))
    wrong = {"name": "x", **scenario.request(secret={"token": "n0t-the-token"})}
    assert unreadable(scenario.project.request("POST", PATH, scenario.token, json=wrong | {"validate": True})) == (
        "source_unauthorized"
    )
    second = created(scenario.project.request("POST", PATH, scenario.token, json=wrong | {"validate": False}))
    assert len(scenario.checks()) == 2
    records = {"name": "x", "type": "records", "validate": True}
    third = created(scenario.project.request("POST", PATH, scenario.token, json=records))
    assert sorted(ids(scenario.project, scenario.token)) == sorted(
        connection["id"] for connection in (first, second, third)
    )


def test_source_check__idempotent_repeat_needs_no_source(scenario: Scenario) -> None:
    good = {"name": "x", "validate": True, **scenario.request()}
    key = {"idempotency-key": "k"}
    first = scenario.project.request("POST", PATH, scenario.token, json=good, headers=key)
    connection_id = created(first)["id"]
    model = {"name": "m", "connection_id": connection_id, "configuration": {"resource": "airports"}}
    second = scenario.project.request("POST", MODELS, scenario.token, json=model, headers=key)
    assert second.status_code == 200
    scenario.source.faults.status(503)
    before = len(scenario.source.requests)
    for path, body, original in ((PATH, good, first), (MODELS, model, second)):
        again = scenario.project.request("POST", path, scenario.token, json=body, headers=key)
        assert (again.status_code, again.content) == (200, original.content)
        other = scenario.project.request("POST", path, scenario.token, json=body | {"name": "y"}, headers=key)
        expect_error(other, 422, "idempotency_key_reused")
    assert len(scenario.source.requests) == before
    assert ids(scenario.project, scenario.token) == [connection_id]
    assert len(scenario.checks()) == 2


# A busy worker


def test_test_connection__runs_ahead_of_long_executions(scenario: Scenario) -> None:
    with Source(delay_seconds=FOREVER) as slow:
        config, secret = slow.connection(["weather"])
        jobs = []
        for _ in range(3):
            connection_id = scenario.database.connection(scenario.user.agency_id, config=config, secret=secret)
            body = {"connection_id": connection_id, **JANUARY}
            jobs.append(scenario.project.start(scenario.token, body).json()["job_id"])
        until(lambda: slow.requests)
        try:
            passed(scenario.test(scenario.request()))
            statuses = sorted(scenario.database.execution(job_id)["status"] for job_id in jobs)
            assert statuses == ["queued", "queued", "running"]
        finally:
            for job_id in jobs:
                scenario.project.cancel(scenario.token, {"job_id": job_id})


# No worker


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_check, "WAIT_SECONDS", 0.1)


@both_transports
@pytest.mark.usefixtures("short_wait")
def test_test_connection__no_worker(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    body = {"type": "http", "configuration": GOOD["configuration"]}
    for path, sent in ((TEST, body), (PATH, GOOD | {"validate": True})):
        response = project.request("POST", path, token, json=sent)
        assert expect_error(response, 503, "source_unavailable") == {}
        assert int(response.headers["retry-after"]) > 0
        assert SECRET["token"] not in response.text
    assert ids(project, token) == []
    checks = project.database.all("select status from app.executions where agency_id = %s", (user.agency_id,))
    assert [check["status"] for check in checks] == ["cancelled"] * 2


@both_transports
@pytest.mark.usefixtures("short_wait")
def test_test_connection__tested_connection_is_unusable(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    body = {"type": "http", "configuration": GOOD["configuration"]}
    expect_error(project.request("POST", TEST, token, json=body), 503, "source_unavailable")
    query = "select connection_id::text as id from app.executions where agency_id = %s"
    connection_id = project.database.one(query, (user.agency_id,))["id"]
    records = project.database.connection(user.agency_id, "records", {})
    http = project.database.connection(user.agency_id)
    sync = {"name": "x", "source_connection_id": connection_id, "destination_connection_id": records}
    with project.unchanged():
        for method in ("GET", "DELETE"):
            expect_error(project.request(method, f"{PATH}/{connection_id}", token), 404, "connection_not_found")
        started = project.start(token, {"connection_id": connection_id, **JANUARY})
        expect_error(started, 404, "connection_not_found")
        expect_error(project.request("POST", "/api/bulk/syncs", token, json=sync), 404, "connection_not_found")
        sync |= {"source_connection_id": http, "destination_connection_id": connection_id}
        expect_error(project.request("POST", "/api/bulk/syncs", token, json=sync), 404, "connection_not_found")
        expect_error(
            project.request("POST", TEST, token, json=body | {"connection_id": connection_id}),
            404,
            "connection_not_found",
        )
        assert project.jobs(token).json()["jobs"] == []


@both_transports
@pytest.mark.usefixtures("short_wait")
def test_test_connection__internal_error_hides_the_secret(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = project.token(project.database.member())
    body = {"type": "http", "configuration": GOOD["configuration"]}
    with project.without("app.start_source_check"):
        response = project.request("POST", TEST, token, json=body)
    assert expect_error(response, 500, "internal_error") == {}
    assert caplog.text
    assert SECRET["token"] not in response.text + caplog.text


# Invalid requests


@both_transports
def test_test_connection__type_differs_from_the_stored_one(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    stored = project.database.connection(user.agency_id, "records", {}), project.database.connection(user.agency_id)
    with project.unchanged():
        for type_, connection_id in zip(("http", "records"), stored, strict=True):
            body = {"type": type_, "connection_id": connection_id, "configuration": {}}
            assert expect_error(project.request("POST", TEST, token, json=body), 400, "other_type") == {}


BAD: dict[str, tuple[Any, int, str, dict[str, Any]]] = {
    "empty": ({}, 400, "missing_field", {"field": "type"}),
    "unknown type": ({"type": "ftp"}, 400, "invalid_field", {"field": "type"}),
    "configuration a list": (
        {"type": "http", "configuration": []},
        400,
        "invalid_field",
        {"field": "configuration"},
    ),
    "NUL": ({"type": "http", "configuration": {"a": "\0"}}, 400, "invalid_field", {"field": "configuration"}),
    "NUL in a change": (
        {"type": "http", "configuration": {"\0": 1}, "connection_id": UNKNOWN},
        400,
        "invalid_field",
        {"field": "configuration"},
    ),
    "connection_id not a UUID": (
        {"type": "http", "connection_id": "x"},
        400,
        "invalid_field",
        {"field": "connection_id"},
    ),
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


@one_transport
@pytest.mark.parametrize("name", BAD)
def test_test_connection__invalid_request(project: Project, name: str) -> None:
    body, status, code, members = BAD[name]
    token = project.token(project.database.member())
    with project.unchanged():
        assert expect_error(project.request("POST", TEST, token, json=body), status, code) == members


@both_transports
@pytest.mark.parametrize(
    "change", [{"secret": "x"}, {"secret": []}, {"resources": "x"}, {"resources": None}, {"secret": False}], ids=str
)
def test_test_connection__change_of_the_wrong_type(project: Project, change: dict[str, Any]) -> None:
    user = project.database.member()
    token = project.token(user)
    stored = project.database.connection(user.agency_id)
    body = {"type": "http", "connection_id": stored, "configuration": change}
    with project.unchanged():
        assert expect_error(project.request("POST", TEST, token, json=body), 400, "invalid_configuration") == {}


@both_transports
def test_test_connection__rejected_callers(project: Project) -> None:
    token = project.token(project.database.user(None))
    body = {"type": "http", "configuration": GOOD["configuration"]}
    with project.unchanged():
        expect_error(project.request("POST", TEST, token, json=body), 403, "no_agency")
        expect_error(project.request("POST", TEST, json=body), 401, "missing_token")
