"""secret_store.py and aws.py, and their use by the API and the worker. AWS is played by moto."""

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
from tests.support.project import BOTH_TRANSPORTS, Project, expect_error
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
    """An AWS that throttles every request, with a message that quotes the secret."""

    def __init__(self) -> None:
        self.operations: list[str] = []
        self._server = WebServer(self._respond)
        self.url, self.close = self._server.url, self._server.close

    def _respond(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.operations.append(environ["HTTP_X_AMZ_TARGET"])
        start_response("400 Bad Request", [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(THROTTLED).encode()]


@pytest.fixture
def throttling(account: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Throttling]:
    with contextlib.closing(Throttling()) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def stored_secrets(store: SecretsManagerStore) -> dict[str, dict[str, Any]]:
    """All secrets of the account that are not marked for deletion, by name."""
    names = [each["Name"] for each in client("secretsmanager").list_secrets()["SecretList"]]
    return {
        name: json.loads(client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]) for name in names
    }


# Secrets Manager


def test_secrets_manager__put_get_and_rotate(aws: SecretsManagerStore) -> None:
    aws.put("a/1", SECRET)
    assert stored_secrets(aws) == {"p/a/1": SECRET}
    assert SecretsManagerStore("p").get("a/1") == SECRET
    client("secretsmanager").put_secret_value(SecretId="p/a/1", SecretString='{"token": "new"}')
    assert aws.get("a/1") == {"token": "new"}


def test_secrets_manager__deleted_can_be_restored_for_a_week(aws: SecretsManagerStore) -> None:
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
def test_secrets_manager__not_a_json_object(aws: SecretsManagerStore, value: str) -> None:
    client("secretsmanager").create_secret(Name="p/x", SecretString=value or " ")
    with pytest.raises(SecretMissing) as missing:
        aws.get("x")
    assert missing.value.args == ()
    assert missing.value.__context__ is None  # a parser's error would hold the text


def test_secrets_manager__name_in_use(aws: SecretsManagerStore) -> None:
    aws.put("a/1", SECRET)
    with pytest.raises(SecretUnavailable, match="ResourceExistsException"):
        aws.put("a/1", {"token": "other"})
    assert aws.get("a/1") == SECRET


def test_secrets_manager__throttled(throttling: Throttling, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = SecretsManagerStore("p")
    with pytest.raises(SecretUnavailable) as caught:
        store.put("a/1", SECRET)
    assert throttling.operations == ["secretsmanager.CreateSecret"] * 3
    assert str(caught.value) == "create_secret: ThrottlingException"
    with pytest.raises(SecretUnavailable):
        store.get("a/1")
    with pytest.raises(SecretUnavailable):
        store.delete("a/1")
    assert SECRET["token"] not in caplog.text


def test_secrets_manager__sdk_error_is_not_quoted(aws: SecretsManagerStore) -> None:
    with pytest.raises(AwsError, match=r"^create_secret: ParamValidationError$"):
        _secrets_manager("create_secret", Name="x", SecretString=SECRET)


def test_aws_client__timeouts_and_attempts(account: None) -> None:
    config = client("secretsmanager").meta.config
    assert (config.connect_timeout, config.read_timeout) == (2, 5)
    assert config.retries == {"mode": "standard", "total_max_attempts": 3}


# EnvironmentStore


def test_environment_store__reads_current_values_writes_none(monkeypatch: pytest.MonkeyPatch) -> None:
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


# The API


@pytest.fixture(params=BOTH_TRANSPORTS, ids=str)
def aws_project(request: pytest.FixtureRequest, projects: Projects) -> Iterator[Project]:
    """A project whose functions store secrets in Secrets Manager."""
    backend = projects.backend(request.param.signing)
    with Project(request.param, backend, secret_store="secretsmanager", secret_prefix="p") as project:
        yield project
    project.database.check_invariants()


def create(project: Project, token: str, body: Mapping[str, Any] = GOOD, key: str | None = None) -> httpx.Response:
    return project.request("POST", PATH, token, json=body, headers={"idempotency-key": key} if key else {})


def with_secret(secret: object) -> dict[str, Any]:
    return GOOD | {"configuration": {**CONFIG, "secret": secret}}


def test_create_connection__secret_only_in_the_external_store(
    aws_project: Project, aws: SecretsManagerStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = {"token": f"0nly-0utside-{aws_project.setup.transport}"}
    user = aws_project.database.member()
    response = create(aws_project, aws_project.token(user), with_secret(secret))
    connection = created(response)
    [(name, value)] = stored_secrets(aws).items()
    assert name.startswith(f"p/{user.agency_id}/")
    assert value == secret
    assert secret["token"] not in response.text + caplog.text + everything_stored(aws_project.database)
    if aws_project.setup.transport == "postgrest":
        assert secret["token"] not in aws_project.backend.postgrest.logged()
    aws_project.database.start(user, connection["id"])
    with aws_project.database.worker() as worker:
        claims = worker.call(
            "worker_claim", worker="w", families=["historical_sync"], max_executions=100, lease_seconds=30
        )
    [claim] = [claim for claim in claims if claim["connection_id"] == connection["id"]]
    assert claim["connection"] == {"kind": "http", "config": CONFIG, "secret_ref": name.removeprefix("p/")}


def test_create_connection__repeated_with_its_idempotency_key(aws_project: Project, aws: SecretsManagerStore) -> None:
    user = aws_project.database.member()
    token = aws_project.token(user)
    first, again = (create(aws_project, token, key="k") for _ in range(2))
    assert first.content == again.content
    other = with_secret({"token": "another"})
    expect_error(create(aws_project, token, other, "k"), 422, "idempotency_key_reused")
    assert ids(aws_project, token) == [created(first)["id"]]
    created(create(aws_project, token, other, "k2"))
    created(create(aws_project, token))


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
def test_create_connection__rejected_secret_is_not_stored(
    aws_project: Project, aws: SecretsManagerStore, name: str
) -> None:
    path, body = WRONG[name]
    user = aws_project.database.member()
    if "stored" in name:
        body = body | {"connection_id": aws_project.database.connection(user.agency_id, config=CONFIG, secret=SECRET)}
    with aws_project.unchanged():
        expect_error(
            aws_project.request("POST", path, aws_project.token(user), json=body),
            400,
            "invalid_configuration",
        )
    assert stored_secrets(aws) == {}


def test_create_connection__store_is_unavailable(
    aws_project: Project, throttling: Throttling, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = aws_project.token(aws_project.database.member())
    tested = {"type": "http", "configuration": GOOD["configuration"]}
    for path, body in ((PATH, GOOD), (TEST, tested), (PATH, GOOD | {"validate": True})):
        response = aws_project.request("POST", path, token, json=body)
        assert expect_error(response, 503, "secrets_unavailable") == {}
        assert int(response.headers["retry-after"]) > 0
        assert SECRET["token"] not in response.text
    assert len(throttling.operations) == 9
    causes = [getattr(record, "cause", "") for record in caplog.records]
    assert len([cause for cause in causes if "ThrottlingException" in cause]) == 3
    assert SECRET["token"] not in "".join(causes)
    assert SECRET["token"] not in caplog.text
    assert ids(aws_project, token) == []


# The worker


class FakeSecretStore:
    """A store in memory. `before(n)` is called before the n-th read."""

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


class Fixture:
    """A connection whose secret is in the external store under the name `source`, and a worker."""

    def __init__(self, database: Database, source: Source) -> None:
        self.database = database
        self.source = source
        self.user = database.member()
        self.store = FakeSecretStore(source={"token": source.credentials.token})
        self.secrets: SecretStore | None = self.store
        self.client = WorkerClient(PostgresTransport(database.login("authenticator")), service_caller(""))
        config, _ = source.connection(["airlines"], page_size=4)
        self.connection_id = database.connection(self.user.agency_id, config=config)
        self.keep("source", self.connection_id)

    def keep(self, name: str, connection_id: str) -> None:
        """Registers the secret as an operator does, with SQL only."""
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
        """Runs the job until it ends or is queued again, and returns its row."""
        with self.database.connect() as connection:
            connection.execute("set session_replication_role = replica")  # without the guard
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
        """Replaces the secret at the source and in the store."""
        self.source.credentials = Credentials(token=f"{self.source.credentials.token}-2")
        self.store.secrets["source"] = {"token": self.source.credentials.token}

    def rotate_before(self, number: int) -> None:
        self.store.before = lambda nth: self.rotate() if nth == number else None

    def stored(self) -> int:
        return int(self.database.one("select count(*) as n from app.records")["n"])


AIRLINES = 16


@pytest.fixture
def fixture(database: Database, caplog: pytest.LogCaptureFixture) -> Iterator[Fixture]:
    caplog.set_level(logging.DEBUG)
    with Source() as source:
        made = Fixture(database, source)
        first = source.credentials.token
        yield made
        asyncio.run(made.client.aclose())
    assert first not in caplog.text
    assert first not in everything_stored(database)


def outcome(row: Mapping[str, Any]) -> tuple[str, str | None]:
    return row["status"], row["error"] and row["error"]["code"]


def test_worker__reads_the_secret_at_every_claim(fixture: Fixture) -> None:
    assert outcome(fixture.run(fixture.start())) == ("completed", None)
    fixture.rotate()
    assert outcome(fixture.run(fixture.start())) == ("completed", None)
    assert (fixture.store.got, fixture.stored()) == (2, AIRLINES)


@pytest.mark.parametrize("family", ["historical_sync", "sync_job_run"])
def test_worker__secret_rotated_during_the_run(fixture: Fixture, family: str) -> None:
    """Also if the family ignores errors."""
    job_id = fixture.start(family)
    fixture.source.faults.delay(0)
    fixture.source.faults.status(401)
    fixture.rotate_before(2)
    row = fixture.run(job_id)
    assert (*outcome(row), row.get("errors", 0)) == ("queued", "secret_rotated", 0)
    assert 0 < fixture.stored() < AIRLINES
    assert outcome(fixture.run(job_id))[0] == "completed"
    assert fixture.stored() == AIRLINES
    queries = [request.query for request in fixture.source.requests]
    assert queries.count("page=2&per_page=4") == 2  # the rejected page was read again


def test_worker__source_rejects_the_current_secret(fixture: Fixture) -> None:
    fixture.store.secrets["source"] = {"token": "wrong"}
    assert outcome(fixture.run(fixture.start())) == ("failed", "source_unauthorized")


def test_worker__store_is_down_at_the_claim(fixture: Fixture) -> None:
    job_id = fixture.start()
    fixture.store.is_down = True
    assert outcome(fixture.run(job_id)) == ("queued", "secret_unavailable")
    fixture.store.is_down = False
    assert outcome(fixture.run(job_id))[0] == "completed"


def test_worker__store_is_down_when_the_source_rejects_the_secret(fixture: Fixture) -> None:
    job_id = fixture.start()
    fixture.source.faults.status(403)
    fixture.store.before = lambda number: setattr(fixture.store, "is_down", number > 1)
    assert outcome(fixture.run(job_id)) == ("queued", "secret_unavailable")


def test_worker__secret_is_missing(fixture: Fixture) -> None:
    del fixture.store.secrets["source"]
    row = fixture.run(fixture.start())
    assert outcome(row) == ("failed", "secret_missing")
    assert "Enter it again." in row["error"]["message"]


def test_worker__has_no_store(fixture: Fixture) -> None:
    """As between the deployments of the API and the worker."""
    job_id = fixture.start()
    fixture.secrets = None
    assert outcome(fixture.run(job_id)) == ("queued", "secret_unavailable")
    fixture.secrets = fixture.store
    assert outcome(fixture.run(job_id))[0] == "completed"


def test_source_check__store_is_down(fixture: Fixture) -> None:
    with fixture.database.session(fixture.user.claims) as session:
        check_id = session.source_check(fixture.connection_id, "airlines")

        async def source_check() -> None:
            opening = partial(open_source, allow_private_addresses=True, secrets=fixture.store)
            [execution] = await fixture.client.claim("w", list(CHECKS), 1, 30)
            await Engine(fixture.client, 3600).run(execution, bind_source(opening, CHECKS)["source_check"], Signals())

        fixture.store.is_down = True
        asyncio.run(source_check())
        seen = session.call("get_source_check", check_id=check_id)
    assert (seen["status"], seen["error"]["code"]) == ("failed", "secret_unavailable")


# Cleanup of deleted secrets


def delete(fixture: Fixture) -> None:
    with fixture.database.session(fixture.user.claims) as session:
        session.call("delete_connection", connection_id=fixture.connection_id)


def count_secret_rows(fixture: Fixture) -> int:
    return len(fixture.database.all("select from app.secrets"))


def test_secret_cleanup__deleted_connection(fixture: Fixture) -> None:
    assert asyncio.run(SecretCleanup(fixture.client, fixture.store).delete_some()) == 0
    delete(fixture)
    fixture.store.is_down = True
    assert asyncio.run(SecretCleanup(fixture.client, fixture.store).delete_some()) == 0
    assert (count_secret_rows(fixture), len(fixture.store.secrets)) == (1, 1)
    fixture.store.is_down = False
    assert asyncio.run(SecretCleanup(fixture.client, fixture.store).delete_some()) == 0  # claimed already
    fixture.database.admin.execute("update app.secrets set delete_at = now()")
    assert asyncio.run(SecretCleanup(fixture.client, fixture.store).delete_some()) == 1
    assert (count_secret_rows(fixture), fixture.store.secrets) == (0, {})


def test_secret_cleanup__marks_secrets_at_aws(fixture: Fixture, aws: SecretsManagerStore) -> None:
    aws.put("source", SECRET)
    delete(fixture)
    assert asyncio.run(SecretCleanup(fixture.client, aws).delete_some()) == 1
    assert stored_secrets(aws) == {}
    assert count_secret_rows(fixture) == 0


def test_secret_cleanup__continues_after_a_failure(fixture: Fixture) -> None:
    class Broken(FakeSecretStore):
        def delete(self, name: str) -> None:
            if "first" in self.secrets:
                del self.secrets["first"]
                raise ZeroDivisionError
            super().delete(name)

    store: SecretStore = Broken(first=1)
    delete(fixture)

    async def scenario() -> None:
        stop = asyncio.Event()
        cleanup = PeriodicTask("secret cleanup", SecretCleanup(fixture.client, store).delete_due, 0.01)
        sweeping = asyncio.create_task(cleanup.run(stop))

        def is_forgotten() -> bool:
            fixture.database.admin.execute("update app.secrets set delete_at = now()")
            return count_secret_rows(fixture) == 0

        await eventually(is_forgotten)
        stop.set()
        await sweeping

    asyncio.run(scenario())


def test_worker_process__secrets_in_the_environment(fixture: Fixture) -> None:
    gone = fixture.database.connection(fixture.user.agency_id)
    fixture.keep("NEVER_SET", gone)
    with fixture.database.session(fixture.user.claims) as session:
        session.call("delete_connection", connection_id=gone)
    job_id = fixture.start()
    options = {
        "DATABASE_URL": fixture.database.login("authenticator"),
        "WORKER_ALLOW_PRIVATE_ADDRESSES": "true",
        "WORKER_TICK_SECONDS": "0.05",
        "SECRET_STORE": "environment",
        "source": json.dumps(fixture.store.secrets["source"]),
    }
    with WorkerProcess(log=True, **options):
        until(lambda: fixture.database.execution(job_id)["status"] == "completed")
        until(lambda: count_secret_rows(fixture) == 1)
