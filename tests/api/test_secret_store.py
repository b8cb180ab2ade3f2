"""functions/_shared/secret_store.py and aws.py, and what the doors and the worker make of them: AWS is moto's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from moto import mock_aws

from functions._local.source import Source
from functions._local.source.connection import Credentials
from functions._local.web_server import WebServer
from functions._local.worker_process import WorkerProcess
from functions._shared.aws import AwsError, _secrets_manager, client
from functions._shared.secret_store import (
    MAX_SECRET_BYTES,
    EnvironmentStore,
    SecretMissing,
    SecretsManagerStore,
    SecretUnavailable,
)
from functions._shared.transports.postgres import PostgresTransport
from functions.worker.client import WorkerClient, service_caller
from functions.worker.connectors import open_source
from functions.worker.engine import Engine, Signals
from functions.worker.periodic_task import PeriodicTask
from functions.worker.runners import CHECKS, RUNNERS, bind_source
from functions.worker.secret_cleanup import SecretCleanup
from tests.support.connections import CONFIG, GOOD, PATH, SECRET, created, everything_stored, ids
from tests.support.project import BOTH_TRANSPORTS, Project, refusal
from tests.support.wait import eventually, until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    import httpx

    from functions._shared.secret_store import SecretStore
    from tests.support.database import Database
    from tests.support.project import Projects

TEST = f"{PATH}/test"
THROTTLED = {"__type": "ThrottlingException", "message": f"Rate exceeded: {json.dumps(SECRET)}"}


@pytest.fixture
def aws(account: None) -> Iterator[SecretsManagerStore]:
    with mock_aws():
        yield SecretsManagerStore("p")


class Throttling:
    """AWS on a bad day: every request is refused, with a message that quotes it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._server = WebServer(self._answer)
        self.url, self.close = self._server.url, self._server.close

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.asked.append(environ["HTTP_X_AMZ_TARGET"])
        start_response("400 Bad Request", [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(THROTTLED).encode()]


@pytest.fixture
def throttling(account: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Throttling]:
    with contextlib.closing(Throttling()) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def kept(store: SecretsManagerStore) -> dict[str, dict[str, Any]]:
    """Every secret of the account that is not marked to be deleted, by name."""
    names = [each["Name"] for each in client("secretsmanager").list_secrets()["SecretList"]]
    return {
        name: json.loads(client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]) for name in names
    }


# Secrets Manager


def test_what_is_put_is_got_and_what_is_rotated_too(aws: SecretsManagerStore) -> None:
    aws.put("a/1", SECRET)
    assert kept(aws) == {"p/a/1": SECRET}
    assert SecretsManagerStore("p").get("a/1") == SECRET
    client("secretsmanager").put_secret_value(SecretId="p/a/1", SecretString='{"token": "new"}')
    assert aws.get("a/1") == {"token": "new"}


def test_what_is_forgotten_is_missing_and_can_be_brought_back_for_a_week(aws: SecretsManagerStore) -> None:
    aws.put("a/1", SECRET)
    aws.delete("a/1")
    marked = client("secretsmanager").describe_secret(SecretId="p/a/1")
    assert 6 <= (marked["DeletedDate"] - marked["LastChangedDate"]).days <= 7
    for name in ("a/1", "a/never"):
        aws.delete(name)
        with pytest.raises(SecretMissing):
            aws.get(name)
    client("secretsmanager").restore_secret(SecretId="p/a/1")
    assert aws.get("a/1") == SECRET


@pytest.mark.parametrize("value", ["s3cr3t", "[]", '"s3cr3t"', "null", ""])
def test_what_is_no_object_is_missing_and_not_quoted(aws: SecretsManagerStore, value: str) -> None:
    client("secretsmanager").create_secret(Name="p/x", SecretString=value or " ")
    with pytest.raises(SecretMissing) as missing:
        aws.get("x")
    assert missing.value.args == ()
    assert missing.value.__context__ is None  # that of a parser holds the text


def test_a_name_is_put_once(aws: SecretsManagerStore) -> None:
    aws.put("a/1", SECRET)
    with pytest.raises(SecretUnavailable, match="ResourceExistsException"):
        aws.put("a/1", {"token": "other"})
    assert aws.get("a/1") == SECRET


def test_throttled_it_tries_three_times_and_says_nothing_of_the_secret(
    throttling: Throttling, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = SecretsManagerStore("p")
    with pytest.raises(SecretUnavailable) as refused:
        store.put("a/1", SECRET)
    assert throttling.asked == ["secretsmanager.CreateSecret"] * 3
    assert str(refused.value) == "create_secret: ThrottlingException"
    with pytest.raises(SecretUnavailable):
        store.get("a/1")
    with pytest.raises(SecretUnavailable):
        store.delete("a/1")
    assert SECRET["token"] not in caplog.text


def test_what_the_sdk_refuses_to_send_is_not_quoted(aws: SecretsManagerStore) -> None:
    with pytest.raises(AwsError, match=r"^create_secret: ParamValidationError$"):
        _secrets_manager("create_secret", Name="x", SecretString=SECRET)


def test_calls_end(account: None) -> None:
    config = client("secretsmanager").meta.config
    assert (config.connect_timeout, config.read_timeout) == (2, 5)
    assert config.retries == {"mode": "standard", "total_max_attempts": 3}


# The environment


def test_an_environment_is_read_anew_and_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    store = EnvironmentStore()
    for token in ("old", "new"):
        monkeypatch.setenv("FLIGHTS", json.dumps({"token": token}))
        assert store.get("FLIGHTS") == {"token": token}
    store.delete("FLIGHTS")
    assert store.get("FLIGHTS") == {"token": "new"}
    with pytest.raises(SecretUnavailable):
        store.put("FLIGHTS", SECRET)
    for value in ("s3cr3t", "[]", ""):
        monkeypatch.setenv("FLIGHTS", value)
        with pytest.raises(SecretMissing):
            store.get("FLIGHTS")
    with pytest.raises(SecretMissing):
        store.get("NEVER_SET")


# The doors


@pytest.fixture(params=BOTH_TRANSPORTS, ids=str)
def outside(request: pytest.FixtureRequest, projects: Projects) -> Iterator[Project]:
    """Functions that put secrets into Secrets Manager."""
    backend = projects.backend(request.param.signing)
    with Project(request.param, backend, secret_store="secretsmanager", secret_prefix="p") as project:
        yield project
    project.database.check_invariants()


def create(project: Project, token: str, body: Mapping[str, Any] = GOOD, key: str | None = None) -> httpx.Response:
    return project.request("POST", PATH, token, json=body, headers={"idempotency-key": key} if key else {})


def with_secret(secret: object) -> dict[str, Any]:
    return GOOD | {"configuration": {**CONFIG, "secret": secret}}


def test_a_secret_goes_outside_and_nowhere_else(
    outside: Project, aws: SecretsManagerStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = {"token": f"0nly-0utside-{outside.setup.transport}"}
    user = outside.database.member()
    response = create(outside, outside.token(user), with_secret(secret))
    connection = created(response)
    [(name, value)] = kept(aws).items()
    assert name.startswith(f"p/{user.agency_id}/")
    assert value == secret
    assert secret["token"] not in response.text + caplog.text + everything_stored(outside.database)
    if outside.setup.transport == "postgrest":
        assert secret["token"] not in outside.backend.postgrest.logged()
    outside.database.start(user, connection["id"])
    with outside.database.worker() as worker:
        claims = worker.call(
            "worker_claim", worker="w", families=["historical_sync"], max_executions=100, lease_seconds=30
        )
    [claim] = [claim for claim in claims if claim["connection_id"] == connection["id"]]
    assert claim["connection"] == {"kind": "http", "config": CONFIG, "secret_ref": name.removeprefix("p/")}


def test_the_same_request_is_answered_as_before(outside: Project, aws: SecretsManagerStore) -> None:
    user = outside.database.member()
    token = outside.token(user)
    first, again = (create(outside, token, key="k") for _ in range(2))
    assert first.content == again.content
    other = with_secret({"token": "another"})
    refusal(create(outside, token, other, "k"), 422, "idempotency_key_reused")
    assert ids(outside, token) == [created(first)["id"]]
    created(create(outside, token, other, "k2"))
    created(create(outside, token))


TOO_LARGE = {"token": "x" * MAX_SECRET_BYTES}
WRONG: dict[str, Any] = {
    "a text": (PATH, with_secret("s3cr3t")),
    "another one": (PATH, with_secret({"api_key": "x"})),
    "of records": (PATH, {"name": "x", "type": "records", "configuration": {"secret": SECRET}}),
    "too large": (TEST, {"type": "http", "configuration": {**CONFIG, "secret": TOO_LARGE}}),
    "a list, for a stored one": (TEST, {"type": "http", "configuration": {"secret": ["x"]}}),
    "too large, for a stored one": (
        TEST,
        {"type": "http", "configuration": {"secret": {"token": "x" * MAX_SECRET_BYTES}}},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_secret_that_is_refused_is_not_put(outside: Project, aws: SecretsManagerStore, name: str) -> None:
    path, body = WRONG[name]
    user = outside.database.member()
    if "stored" in name:
        body = body | {"connection_id": outside.database.connection(user.agency_id, config=CONFIG, secret=SECRET)}
    with outside.unchanged():
        refusal(outside.request("POST", path, outside.token(user), json=body), 400, "invalid_configuration")
    assert kept(aws) == {}


def test_a_store_that_does_not_answer_is_for_later(
    outside: Project, throttling: Throttling, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = outside.token(outside.database.member())
    tested = {"type": "http", "configuration": GOOD["configuration"]}
    for path, body in ((PATH, GOOD), (TEST, tested), (PATH, GOOD | {"validate": True})):
        response = outside.request("POST", path, token, json=body)
        assert refusal(response, 503, "secrets_unavailable") == {}
        assert int(response.headers["retry-after"]) > 0
        assert SECRET["token"] not in response.text
    assert len(throttling.asked) == 9
    causes = [getattr(record, "cause", "") for record in caplog.records]
    assert len([cause for cause in causes if "ThrottlingException" in cause]) == 3
    assert SECRET["token"] not in "".join(causes)
    assert SECRET["token"] not in caplog.text
    assert ids(outside, token) == []


# The worker


class Shelf:
    """A store whose secrets change as a test says; `before(number)` is called before the `number`th is handed out."""

    def __init__(self, **secrets: Any) -> None:
        self.secrets = secrets
        self.got = 0
        self.is_down = False
        self.before: Any = lambda _: None

    def put(self, name: str, value: Mapping[str, object]) -> None:
        raise AssertionError("the worker puts none")

    def get(self, name: str) -> dict[str, Any]:
        self.got += 1
        self.before(self.got)
        self._check()
        if name not in self.secrets:
            raise SecretMissing
        return dict(self.secrets[name])

    def delete(self, name: str) -> None:
        self._check()
        self.secrets.pop(name, None)

    def _check(self) -> None:
        if self.is_down:
            raise SecretUnavailable("down")


class Bench:
    """An agency's connection to the source, its secret outside by the name `source`; and a worker."""

    def __init__(self, database: Database, source: Source) -> None:
        self.database = database
        self.source = source
        self.user = database.member()
        self.shelf = Shelf(source={"token": source.credentials.token})
        self.secrets: SecretStore | None = self.shelf
        self.client = WorkerClient(PostgresTransport(database.login("authenticator")), service_caller(""))
        config, _ = source.connection(["airlines"], page_size=4)
        self.connection_id = database.connection(self.user.agency_id, config=config)
        self.keep("source", self.connection_id)

    def keep(self, name: str, connection_id: str) -> None:
        """As an operator does it: nothing but SQL."""
        self.database.admin.execute(
            "with secret as (insert into app.secrets (agency_id, storage, name, used_at)"
            " values (%s, 'external', %s, now()) returning id)"
            " update app.connections set secret_id = (select id from secret) where id = %s",
            (self.user.agency_id, name, connection_id),
        )

    def start(self, family: str = "historical_sync") -> str:
        with self.database.session(self.user.claims) as session:
            if family == "historical_sync":
                return self.database.start(self.user, self.connection_id)
            job = session.call(
                "create_sync_job", resources=[{"resource": "airlines", "method": "list", "persist": True}]
            )
            run = session.call(
                "create_sync_job_run",
                sync_job_id=job["id"],
                integrated_account_id=self.connection_id,
                daemon_group_key="g",
                error_handling="ignore",
            )
            return str(run["id"])

    def run(self, job_id: str) -> dict[str, Any]:
        """Runs it as far as it goes at once; its row."""
        with self.database.connect() as connection:
            connection.execute("set session_replication_role = replica")  # no guard: its next attempt is due now
            connection.execute("update app.executions set run_at = now() where id = %s", (job_id,))
        asyncio.run(self._run())
        return self.database.execution(job_id)

    async def _run(self) -> None:
        opening = partial(open_source, allow_private_addresses=True, secrets=self.secrets)
        runners = bind_source(opening, RUNNERS)
        [execution] = await self.client.claim("w", list(runners), 1, 30)
        assert execution.connection is not None
        assert "secret" not in execution.connection
        await Engine(self.client, 3600).run(execution, runners[execution.family], Signals())

    def rotate(self) -> None:
        """At the source and in the store."""
        self.source.credentials = Credentials(token=f"{self.source.credentials.token}-2")
        self.shelf.secrets["source"] = {"token": self.source.credentials.token}

    def rotate_before(self, number: int) -> None:
        self.shelf.before = lambda nth: self.rotate() if nth == number else None

    def stored(self) -> int:
        return int(self.database.one("select count(*) as n from app.records")["n"])


AIRLINES = 16


@pytest.fixture
def bench(database: Database, caplog: pytest.LogCaptureFixture) -> Iterator[Bench]:
    caplog.set_level(logging.DEBUG)
    with Source() as source:
        made = Bench(database, source)
        first = source.credentials.token
        yield made
        asyncio.run(made.client.aclose())
    assert first not in caplog.text
    assert first not in everything_stored(database)


def told(row: Mapping[str, Any]) -> tuple[str, str | None]:
    return row["status"], row["error"] and row["error"]["code"]


def test_the_secret_is_asked_for_at_every_claim(bench: Bench) -> None:
    assert told(bench.run(bench.start())) == ("completed", None)
    bench.rotate()
    assert told(bench.run(bench.start())) == ("completed", None)
    assert (bench.shelf.got, bench.stored()) == (2, AIRLINES)


@pytest.mark.parametrize("family", ["historical_sync", "sync_job_run"])
def test_one_that_is_rotated_in_the_middle_is_the_next_attempts(bench: Bench, family: str) -> None:
    """Also where errors are passed over."""
    job_id = bench.start(family)
    bench.source.faults.delay(0)
    bench.source.faults.status(401)
    bench.rotate_before(2)
    row = bench.run(job_id)
    assert (*told(row), row.get("errors", 0)) == ("queued", "secret_rotated", 0)
    assert 0 < bench.stored() < AIRLINES
    assert told(bench.run(job_id))[0] == "completed"
    assert bench.stored() == AIRLINES
    asked = [request.query for request in bench.source.requests]
    assert asked.count("page=2&per_page=4") == 2  # the one that was refused, again


def test_a_source_that_refuses_the_secret_that_the_store_has_is_a_failure(bench: Bench) -> None:
    bench.shelf.secrets["source"] = {"token": "wrong"}
    assert told(bench.run(bench.start())) == ("failed", "source_unauthorized")


def test_a_store_that_is_down_is_tried_again(bench: Bench) -> None:
    job_id = bench.start()
    bench.shelf.is_down = True
    assert told(bench.run(job_id)) == ("queued", "secret_unavailable")
    bench.shelf.is_down = False
    assert told(bench.run(job_id))[0] == "completed"


def test_a_store_that_is_down_when_the_source_refuses_is_tried_again(bench: Bench) -> None:
    job_id = bench.start()
    bench.source.faults.status(403)
    bench.shelf.before = lambda number: setattr(bench.shelf, "is_down", number > 1)
    assert told(bench.run(job_id)) == ("queued", "secret_unavailable")


def test_one_that_is_gone_has_to_be_entered_again(bench: Bench) -> None:
    del bench.shelf.secrets["source"]
    row = bench.run(bench.start())
    assert told(row) == ("failed", "secret_missing")
    assert "Enter it again." in row["error"]["message"]


def test_a_worker_without_a_store_tries_again(bench: Bench) -> None:
    """As between the deployments of a door and a worker."""
    job_id = bench.start()
    bench.secrets = None
    assert told(bench.run(job_id)) == ("queued", "secret_unavailable")
    bench.secrets = bench.shelf
    assert told(bench.run(job_id))[0] == "completed"


def test_a_look_tells_whoever_waits(bench: Bench) -> None:
    with bench.database.session(bench.user.claims) as session:
        check_id = session.source_check(bench.connection_id, "airlines")

        async def source_check() -> None:
            opening = partial(open_source, allow_private_addresses=True, secrets=bench.shelf)
            [execution] = await bench.client.claim("w", list(CHECKS), 1, 30)
            await Engine(bench.client, 3600).run(execution, bind_source(opening, CHECKS)["source_check"], Signals())

        bench.shelf.is_down = True
        asyncio.run(source_check())
        seen = session.call("get_source_check", check_id=check_id)
    assert (seen["status"], seen["error"]["code"]) == ("failed", "secret_unavailable")


# Forgetting


def delete(bench: Bench) -> None:
    with bench.database.session(bench.user.claims) as session:
        session.call("delete_connection", connection_id=bench.connection_id)


def left(bench: Bench) -> int:
    return len(bench.database.all("select from app.secrets"))


def test_a_deleted_connections_secret_is_forgotten_outside_too(bench: Bench) -> None:
    assert asyncio.run(SecretCleanup(bench.client, bench.shelf).delete_some()) == 0
    delete(bench)
    bench.shelf.is_down = True
    assert asyncio.run(SecretCleanup(bench.client, bench.shelf).delete_some()) == 0
    assert (left(bench), len(bench.shelf.secrets)) == (1, 1)
    bench.shelf.is_down = False
    assert asyncio.run(SecretCleanup(bench.client, bench.shelf).delete_some()) == 0  # handed out already
    bench.database.admin.execute("update app.secrets set delete_at = now()")
    assert asyncio.run(SecretCleanup(bench.client, bench.shelf).delete_some()) == 1
    assert (left(bench), bench.shelf.secrets) == (0, {})


def test_what_is_forgotten_at_aws_is_marked_there(bench: Bench, aws: SecretsManagerStore) -> None:
    aws.put("source", SECRET)
    delete(bench)
    assert asyncio.run(SecretCleanup(bench.client, aws).delete_some()) == 1
    assert kept(aws) == {}
    assert left(bench) == 0


def test_a_sweep_goes_on_after_a_failure_and_ends_when_told(bench: Bench) -> None:
    class Broken(Shelf):
        def delete(self, name: str) -> None:
            if "first" in self.secrets:
                del self.secrets["first"]
                raise ZeroDivisionError
            super().delete(name)

    store: SecretStore = Broken(first=1)
    delete(bench)

    async def scenario() -> None:
        stop = asyncio.Event()
        cleanup = PeriodicTask("secret cleanup", SecretCleanup(bench.client, store).delete_due, 0.01)
        sweeping = asyncio.create_task(cleanup.run(stop))

        def is_forgotten() -> bool:
            bench.database.admin.execute("update app.secrets set delete_at = now()")
            return left(bench) == 0

        await eventually(is_forgotten)
        stop.set()
        await sweeping

    asyncio.run(scenario())


def test_the_real_worker_with_secrets_in_its_environment(bench: Bench) -> None:
    gone = bench.database.connection(bench.user.agency_id)
    bench.keep("NEVER_SET", gone)
    with bench.database.session(bench.user.claims) as session:
        session.call("delete_connection", connection_id=gone)
    job_id = bench.start()
    options = {
        "DATABASE_URL": bench.database.login("authenticator"),
        "WORKER_ALLOW_PRIVATE_ADDRESSES": "true",
        "WORKER_TICK_SECONDS": "0.05",
        "SECRET_STORE": "environment",
        "source": json.dumps(bench.shelf.secrets["source"]),
    }
    with WorkerProcess(log=True, **options):
        until(lambda: bench.database.execution(job_id)["status"] == "completed")
        until(lambda: left(bench) == 1)
