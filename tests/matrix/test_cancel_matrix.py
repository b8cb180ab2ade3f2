"""The cancel of every family, in every status and for every kind of caller; its races, step by step and under load; and
cancels while the worker is slow, suspended or killed.

Expected results are derived from the vocabulary (app.families) and from CANCEL_SPECS, never from the functions under
test. A family with a cancel endpoint needs one entry in CANCEL_SPECS. A test fails until it exists.
"""

from __future__ import annotations

import json
import re
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from functions._local.source import RESOURCES, Source
from functions._shared import registry
from tests.support import documented
from tests.support.database import HTTP_CONFIG, SERVICE, TRANSITIONS_TO, TWO_STEPS, rpc
from tests.support.project import Backend, Project, Setup, both_transports, checksums, one_transport
from tests.support.races import BATCH, RaceSession, batch, interleavings, perform
from tests.support.wait import until
from tests.support.workers import SuspendableWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import httpx

    from functions._shared.endpoint import Endpoint
    from tests.support.database import Database, User
    from tests.support.races import Statement

ENDPOINTS = {endpoint.name: endpoint for endpoint in registry.endpoints()}
ACTIVE = {"queued", "running", "cancelling"}

LOST = {"result": "lost"}
# The statuses of the vocabulary, and `requeued`: queued after it has been running.
STATUSES = ["queued", "scheduled", "requeued", "running", "cancelling", "completed", "failed", "cancelled"]


# How an execution of each family is started, and how its cancel endpoint responds


class Started(NamedTuple):
    """`target` is the id that the cancel endpoint takes."""

    target: str
    execution_id: str


# A response: the status and the body; of an error's body its code and details.
Outcome = tuple[int, dict[str, Any]]


# Arguments of the function that starts an execution.
StartArguments = dict[str, str]


@dataclass(frozen=True)
class CancelSpec:
    """`define` creates a definition that reads one resource of a connection, `start` starts an execution of it.

    `expected` gives a cancel's outcome from the status it found, the execution's id and the public status afterwards.
    `fields` are the fields of a success to compare (empty: all). `commit` is the worker's write, if not a batch.
    """

    endpoint: str
    define: Callable[[Database, User, str, str], StartArguments]
    start: Callable[[Database, User, StartArguments, str], Started]
    expected: Callable[[str, str, str], Outcome]
    fields: tuple[str, ...] = ()
    commit: Callable[[str, int, int], Statement] | None = None


def call_as(database: Database, user: User, name: str, /, **arguments: Any) -> Any:
    """Call a public function as this user and return its result."""
    with database.acting_as("authenticated") as connection:
        connection.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(user.claims),))
        row = connection.execute(*rpc(name, **arguments)).fetchone()
        assert row is not None
        return row["result"]


def a_connection(_: Database, _user: User, source_id: str, _resource: str) -> StartArguments:
    return {"connection_id": source_id}


def a_bulk_sync(database: Database, user: User, source_id: str, resource: str) -> StartArguments:
    sync = call_as(
        database,
        user,
        "create_bulk_sync",
        name="A",
        source_connection_id=source_id,
        destination_connection_id=database.connection(user.agency_id, "records", {}),
        schemas=[{"id": resource}],
    )
    return {"sync_id": sync["data"]["id"]}


def a_model_sync(database: Database, user: User, source_id: str, resource: str) -> StartArguments:
    key = RESOURCES[resource].primary_key[0]
    # As create_model stores it, without a worker that checks the source.
    settings = {"configuration": {"resource": resource}, "fields": [{"name": key, "type": "string"}]}
    model = database.one(
        "insert into app.definitions (agency_id, kind, name, source_id, settings, created_by, updated_by)"
        " values (%s, 'model', 'A', %s, %s, 'test', 'test') returning id",
        (user.agency_id, source_id, json.dumps(settings)),
    )
    source = {"model_id": str(model["id"]), "field": key}
    destination = database.connection(user.agency_id, "records", {})
    sync = call_as(
        database,
        user,
        "create_model_sync",
        name="A",
        mode="updateOrCreate",
        target={"connection_id": destination, "object": "things"},
        fields=[{"source": source, "target": "name"}],
        identity={"source": source, "target": "id", "function": "Equality"},
    )
    return {"sync_id": sync["data"]["id"]}


def a_sync_job(database: Database, user: User, source_id: str, resource: str) -> StartArguments:
    resources = [{"resource": resource, "method": "list", "persist": True}]
    job = call_as(database, user, "create_sync_job", resources=resources)
    return {"sync_job_id": job["id"], "integrated_account_id": source_id}


def nothing(_: Database, _user: User, _source_id: str, _resource: str) -> StartArguments:
    return {}


def start_job(database: Database, user: User, defined: StartArguments, resource: str) -> Started:
    january = {"date_from": "2013-01-01", "date_to": "2013-01-31"}
    job = call_as(database, user, "start_historical_sync", **defined, **january, resources=[resource])
    return Started(job["job_id"], job["job_id"])


def start_bulk_sync(database: Database, user: User, defined: StartArguments, _resource: str) -> Started:
    return Started(defined["sync_id"], call_as(database, user, "start_bulk_sync", **defined)["data"]["id"])


def start_model_sync(database: Database, user: User, defined: StartArguments, _resource: str) -> Started:
    return Started(defined["sync_id"], call_as(database, user, "start_model_sync", **defined)["data"]["id"])


def start_run(database: Database, user: User, defined: StartArguments, _resource: str) -> Started:
    run = call_as(database, user, "create_sync_job_run", **defined, daemon_group_key="main")
    return Started(run["id"], run["id"])


def start_bulk_action(database: Database, user: User, _defined: StartArguments, _resource: str) -> Started:
    criteria = {"ids": [str(uuid.uuid4())]}
    job = call_as(database, user, "create_bulk_action", action_type="cancel", criteria=criteria)
    return Started(job["job_id"], job["job_id"])


def bulk_action_step(execution_id: str, lease_token: int, _seq: int) -> Statement:
    return rpc("worker_run_bulk_action_step", execution_id=execution_id, lease_token=lease_token)


def of_a_job(**fields: Any) -> Callable[[str, str, str], Outcome]:
    """`fields` are those of a success; the values `id` and `status` stand for the execution's id and public status."""

    def expected(found: str, execution_id: str, public_status: str) -> Outcome:
        if found not in ACTIVE:
            return 400, {"code": "not_cancellable", "current_status": public_status}
        values = {"id": execution_id, "status": public_status}
        return 200, {name: values.get(value, value) for name, value in fields.items()}

    return expected


def of_a_definition(found: str, execution_id: str, public_status: str) -> Outcome:
    if found in ACTIVE | {"cancelled"}:
        data = {"message": "Cancellation requested", "execution_id": execution_id, "status": public_status}
        return 200, {"data": data}
    return NOTHING_IS_RUNNING


NOTHING_IS_RUNNING = 200, {"data": {"message": "Nothing is running", "execution_id": None, "status": None}}

CANCEL_SPECS = {
    "historical_sync": CancelSpec(
        "cancel_historical_sync", a_connection, start_job, of_a_job(job_id="id", status="status")
    ),
    "bulk_sync": CancelSpec("cancel_bulk_sync", a_bulk_sync, start_bulk_sync, of_a_definition),
    "model_sync": CancelSpec("cancel_model_sync", a_model_sync, start_model_sync, of_a_definition),
    # The response is the whole run.
    "sync_job_run": CancelSpec(
        "stop_sync_job_run", a_sync_job, start_run, of_a_job(id="id", status="status"), fields=("id", "status")
    ),
    "bulk_action": CancelSpec(
        "cancel_bulk_action",
        nothing,
        start_bulk_action,
        of_a_job(success=True, job_id="id", status="status"),
        commit=bulk_action_step,
    ),
}
FAMILIES = list(CANCEL_SPECS)
# Families that are cancelled by the id of their definition, and families whose worker stores records.
DEFINITIONS = [family for family, spec in CANCEL_SPECS.items() if spec.expected is of_a_definition]
READING = [family for family, spec in CANCEL_SPECS.items() if spec.commit is None]


def test_cancel_matrix__covers_every_cancel_endpoint(database: Database) -> None:
    """A cancel endpoint is one whose SQL function calls app.cancel_execution, directly or not."""
    bodies = {
        row["name"]: row["body"]
        for row in database.all(
            "select n.nspname || '.' || p.proname as name, p.prosrc as body from pg_proc as p"
            " join pg_namespace as n on n.oid = p.pronamespace where n.nspname in ('app', 'public')"
        )
    }
    reached = {"app.cancel_execution"}
    while more := {n for n, body in bodies.items() if n not in reached and reached & {*_called(body)}}:
        reached |= more
    cancelling = {name for name, endpoint in ENDPOINTS.items() if f"public.{endpoint.rpc}" in reached}
    found = {name for name in cancelling if not name.startswith("delete_")}  # deletions cancel too
    covered = {spec.endpoint for spec in CANCEL_SPECS.values()}
    assert not found - covered, f"Add {found - covered} to CANCEL_SPECS in {__file__}."
    assert covered == found


def _called(body: str) -> list[str]:
    return re.findall(r"\b(?:app|public)\.\w+(?=\()", body)


def test_cancel_matrix__covers_every_family_and_status(database: Database) -> None:
    [row] = database.all("select * from app.families limit 1")
    statuses = [*row][[*row].index("foreign_status") + 1 :]
    assert {*statuses, "requeued"} == {*STATUSES}
    families = {row["family"] for row in database.all("select family from app.families")}
    assert {*FAMILIES} <= families


class FamilyFixture:
    """One family in one agency; `source` is the configuration and secret of the connection that it reads."""

    def __init__(
        self, database: Database, family: str, source: tuple[Mapping[str, Any], Any] = (HTTP_CONFIG, None)
    ) -> None:
        self.database = database
        self.family = family
        self.spec = CANCEL_SPECS[family]
        self.endpoint: Endpoint = ENDPOINTS[self.spec.endpoint]
        # The request's field that holds the target's id.
        request_fields = self.endpoint.request.model_fields
        [self.id_field] = [name for name, field in request_fields.items() if field.annotation is uuid.UUID]
        self.vocabulary = database.one("select * from app.families where family = %s", (family,))
        self.two_steps = self.vocabulary["cancelling"] is not None
        self.user = database.member()
        self._source = source

    def started(self, resource: str = "flights") -> Started:
        self._arguments = self.define(resource)
        return self.started_again(resource)

    def define(self, resource: str = "flights") -> StartArguments:
        config, secret = self._source
        source_id = self.database.connection(self.user.agency_id, config=config, secret=secret)
        return self.spec.define(self.database, self.user, source_id, resource)

    def started_again(self, resource: str = "flights") -> Started:
        """Start another execution of the last definition."""
        return self.spec.start(self.database, self.user, self._arguments, resource)

    def put(self, status: str) -> Started:
        """Bring an execution to this status; its worker has committed once if it has been running."""
        started = self.started()
        if status == "scheduled":
            update_without_triggers(self.database, started.execution_id, "run_at = now() + interval '1 hour'")
        for number, transition in enumerate(self.path(status)):
            self.database.transition(started.execution_id, transition)
            if number == 0:
                with self.database.acting_as("service_role") as worker:
                    worker.execute(*self.commit(started))
        return started

    def commit(self, started: Started, lease_token: int = 1, seq: int = 1) -> Statement:
        return (self.spec.commit or batch)(started.execution_id, lease_token, seq)

    def path(self, status: str) -> list[tuple[str, str]]:
        if status == "scheduled":
            return []
        if status != "cancelled":
            return TRANSITIONS_TO[status]
        last = [("acknowledge", "cancelled")] if self.two_steps else []
        return [("claim", "running"), (self.vocabulary["cancel_event"], "cancelling" if last else "cancelled"), *last]

    def row(self, started: Started) -> dict[str, Any]:
        return self.database.execution(started.execution_id)

    def public_status(self, row: Mapping[str, Any]) -> str:
        """The status of this row in the vocabulary of its family."""
        status = row["status"]
        if status == "queued" and row["started_at"]:
            status = "running"
        elif status == "queued" and row["run_at"] > self.database.one("select now()")["now"]:
            status = "scheduled"
        return str(self.vocabulary[status])

    def stored(self, started: Started) -> int:
        """The number of stored records, which equals both counters."""
        counts = (
            "select 'counted' as name, records as n from app.executions where id = %(id)s"
            " union all select 'listed', sum(records) from app.execution_resources where execution_id = %(id)s"
            " union all select 'stored', count(*) from app.records where execution_id = %(id)s"
        )
        rows = self.database.all(counts, {"id": started.execution_id})
        row = {count["name"]: count["n"] or 0 for count in rows}
        assert row["counted"] == row["listed"] == row["stored"], row
        return int(row["stored"])

    def snapshot(self, started: Started) -> tuple[dict[str, Any], int, list[dict[str, Any]]]:
        """The row, the number of stored records and the audit events."""
        return self.row(started), self.stored(started), self.database.events(started.execution_id)

    def check_fenced(self, started: Started, lease_token: int) -> None:
        """Check that no call with this old lease token is accepted."""
        before, lease = self.snapshot(started), {"execution_id": started.execution_id, "lease_token": lease_token}
        with self.database.worker() as worker:
            assert worker.execute(*self.commit(started, lease_token, before[0]["seq"] + 1))[0]["result"] == LOST
            for name in ("worker_heartbeat", "worker_complete", "worker_release"):
                assert worker.call(name, **lease) == LOST
            assert worker.call("worker_fail", **lease, error={"code": "gone", "message": "Gone."}) == LOST
        assert self.snapshot(started) == before

    def key(self, user: User, *, revoked: bool = False) -> tuple[str, str]:
        """An API key of this user's agency, and its actor."""
        made = call_as(self.database, user, "create_api_key", name="server")
        key_id = made["api_key"]["id"]
        # A rejected call may only update last_used_at, which is current here.
        self.database.admin.execute(
            "update app.api_keys set last_used_at = now(), revoked_at = case when %s then now() end where id = %s",
            (revoked, key_id),
        )
        return str(made["key"]), f"api_key:{key_id}"

    # Requests

    def outcome(self, response: httpx.Response) -> Outcome:
        """The outcome of a response, of an error without the fields that every error of its API has."""
        status, body = response.status_code, response.json()
        if response.is_success:
            return status, {name: body[name] for name in self.spec.fields or body}
        common = self.endpoint.error_format.schema["properties"]
        details = body.get("metadata", {name: value for name, value in body.items() if name not in common})
        return status, {"code": documented.code(body), **details}

    def cancel(self, project: Project, token: str | None, target: str, reason: str | None = None) -> httpx.Response:
        path = self.endpoint.path.replace(f"{{{self.id_field}}}", target)
        body = {} if path != self.endpoint.path else {self.id_field: target}
        if reason is not None and self.takes_a_reason:
            body["reason"] = reason
        return project.request(self.endpoint.method, path, token, json=body)

    @property
    def takes_a_reason(self) -> bool:
        return "reason" in self.endpoint.request.model_fields

    def statement(self, started: Started) -> Statement:
        """The cancel as SQL that returns the public status, or the message if there is no status."""
        call, values = rpc(self.endpoint.rpc, **{self.id_field: started.target})
        expression = "coalesce(result ->> 'status', result #>> '{data,status}', result #>> '{data,message}') as result"
        return f"select {expression} from ({call}) as called", values

    def documented_error(self, status: int) -> Outcome:
        """The only error with this status that the endpoint declares."""
        [error] = [error for error in self.endpoint.errors if error.status == status]
        return status, {"code": error.code}

    def after(self, before: Mapping[str, Any], row: Mapping[str, Any], **origin: Any) -> dict[str, Any]:
        """The row that a cancel must leave; the time is that of `row`, `origin` holds actor, reason and request id."""
        if before["status"] not in {"queued", "running"}:
            return dict(before)
        at = row["cancel_requested_at"]
        assert at >= before["created_at"]
        expected = {
            **before,
            **origin,
            "status": "cancelling" if self.two_steps and before["status"] == "running" else "cancelled",
            "event": self.vocabulary["cancel_event"],
            "cancel_requested_at": at,
            "cancel_deadline": at + self.vocabulary["grace"],
            "cancelled_by": origin["actor"],
            "cancel_reason": origin["reason"],
        }
        if expected["status"] == "cancelled":
            expected |= {"lease_token": before["lease_token"] + 1, "finished_at": at}
            expected |= {"leased_by": None, "lease_seconds": None, "lease_expires_at": None}
        return expected


def update_without_triggers(database: Database, execution_id: str, assignment: str) -> None:
    """Change a row as the passage of time would, which no role may do."""
    with database.admin.transaction():
        database.admin.execute("set local session_replication_role = replica")
        database.admin.execute(f"update app.executions set {assignment} where id = %s", (execution_id,))


@contextmanager
def nothing_else_changes(database: Database, started: Started) -> Iterator[None]:
    """Check that only this execution's row and its audit events change."""

    def others() -> Any:
        checksum = "select count(*), sum(hashtextextended(t::text, 0)) from {} as t where {} <> %s"
        tables = checksums(database)
        del tables["app.executions"], tables["app.execution_events"]
        return (
            tables,
            database.one(checksum.format("app.executions", "id"), (started.execution_id,)),
            database.one(checksum.format("app.execution_events", "execution_id"), (started.execution_id,)),
        )

    before = others()
    yield
    assert others() == before


def test_cancelling__only_in_families_that_cancel_in_two_steps(database: Database) -> None:
    for family in FAMILIES:
        fixture = FamilyFixture(database, family)
        started = fixture.put("running")
        with database.worker() as worker:
            error = worker.attempt(
                "update app.executions set status = 'cancelling', event = 'request_cancel' where id = %s",
                (started.execution_id,),
            )
        assert fixture.two_steps == (family in TWO_STEPS) == (getattr(error, "code", None) != "invalid_transition")


# The matrix


CASES = [
    (family, status) for family in FAMILIES for status in STATUSES if status != "cancelling" or family in TWO_STEPS
]
# An execution can be deleted once it has ended, a definition at any time.
ENDED = {"completed", "failed", "cancelled"}
DELETABLE = [(family, status) for family, status in CASES if family in DEFINITIONS or status in ENDED]
each_family = pytest.mark.parametrize("family", FAMILIES)
each_reading_family = pytest.mark.parametrize("family", READING)
each_case = pytest.mark.parametrize(("family", "status"), CASES)


@both_transports
@each_case
def test_cancel__every_status_then_repeated(project: Project, family: str, status: str) -> None:
    fixture = FamilyFixture(project.database, family)
    colleague = project.database.user(fixture.user.agency_id)
    callers = [(project.token(user), f"user:{user.id}") for user in (fixture.user, colleague)]
    if fixture.endpoint.error_format.api_keys:
        callers.append(fixture.key(fixture.user))
    for token, actor in callers:
        started = fixture.put(status)
        before, history = fixture.row(started), project.database.events(started.execution_id)
        with nothing_else_changes(project.database, started):
            response = fixture.cancel(project, token, started.target, "enough")

        row = fixture.row(started)
        reason = "enough" if fixture.takes_a_reason else None
        request_id = response.headers["x-request-id"]
        assert row == fixture.after(before, row, actor=actor, reason=reason, request_id=request_id)
        assert fixture.outcome(response) == fixture.spec.expected(
            before["status"], started.execution_id, fixture.public_status(row)
        )
        events = project.database.events(started.execution_id)
        assert events[: len(history)] == history
        transitions = [(e["from_status"], e["event"], e["to_status"], e["lease_token"]) for e in events[len(history) :]]
        if before["status"] in {"queued", "running"}:
            assert transitions == [
                (before["status"], fixture.vocabulary["cancel_event"], row["status"], row["lease_token"])
            ]
            assert [events[-1][name] for name in ("actor", "reason", "request_id")] == [actor, reason, request_id]
        else:
            assert transitions == []

        with project.unchanged():
            response = fixture.cancel(project, token, started.target, "again")
        assert fixture.outcome(response) == fixture.spec.expected(
            row["status"], started.execution_id, fixture.public_status(row)
        )


@one_transport
@each_case
def test_cancel__concurrent_calls_cancel_once(project: Project, family: str, status: str) -> None:
    fixture = FamilyFixture(project.database, family)
    started, token = fixture.put(status), project.token(fixture.user)
    before, history = fixture.row(started), project.database.events(started.execution_id)
    with nothing_else_changes(project.database, started):
        responses = project.concurrently(lambda: fixture.cancel(project, token, started.target))
    row = fixture.row(started)
    actor = f"user:{fixture.user.id}"
    assert row == fixture.after(before, row, actor=actor, reason=None, request_id=row["request_id"])

    first = fixture.spec.expected(before["status"], started.execution_id, fixture.public_status(row))
    later = fixture.spec.expected(row["status"], started.execution_id, fixture.public_status(row))
    outcomes = sorted((fixture.outcome(response) for response in responses), key=lambda outcome: outcome != first)
    assert outcomes == [first, *[later] * (len(responses) - 1)]
    transitions = len(project.database.events(started.execution_id)) - len(history)
    assert transitions == (before["status"] in {"queued", "running"})
    if transitions:
        winners = {r.headers["x-request-id"] for r in responses if fixture.outcome(r) == first}
        assert row["request_id"] in winners


@one_transport
@each_case
def test_cancel__rejected_callers_and_unknown_ids(project: Project, family: str, status: str) -> None:
    fixture = FamilyFixture(project.database, family)
    started = fixture.put(status)
    stranger, without_agency = project.database.member(), project.database.user(None)
    member = project.token(fixture.user)
    unknown, foreign = fixture.documented_error(404), fixture.documented_error(fixture.vocabulary["foreign_status"])
    malformed = (404, {"code": "not_found"})
    if fixture.id_field not in (fixture.endpoint.path_parameters(fixture.endpoint.path) or {}):
        malformed = (400, {"code": "invalid_field", "field": fixture.id_field})
    takes_keys = fixture.endpoint.error_format.api_keys
    calls: list[tuple[str | None, str, Outcome]] = [
        (project.token(stranger), started.target, foreign),
        (project.token(without_agency), started.target, (403, {"code": "no_agency"})),
        (None, started.target, (401, {"code": "missing_token"})),
        (project.auth.anon_key(), started.target, (401, {"code": "invalid_token"})),
        (project.auth.service_role_key(), started.target, (401, {"code": "invalid_token"})),
        (
            fixture.key(stranger)[0],
            started.target,
            foreign if takes_keys else (401, {"code": "invalid_token"}),
        ),
        (
            fixture.key(fixture.user, revoked=True)[0],
            started.target,
            (401, {"code": "invalid_api_key" if takes_keys else "invalid_token"}),
        ),
        (member, str(uuid.uuid4()), unknown),
        (member, project.database.connection(fixture.user.agency_id), unknown),
        (member, "not-an-id", malformed),
    ]
    if started.target != started.execution_id:
        calls.append((member, started.execution_id, unknown))
    with project.unchanged():
        for token, target, outcome in calls:
            assert fixture.outcome(fixture.cancel(project, token, target)) == outcome


@one_transport
@pytest.mark.parametrize(("family", "status"), DELETABLE)
def test_cancel__deleted(project: Project, family: str, status: str) -> None:
    fixture = FamilyFixture(project.database, family)
    started, token = fixture.put(status), project.token(fixture.user)
    before = fixture.row(started)
    delete = ENDPOINTS.get(f"delete_{family}")
    if delete:
        path = delete.path.replace(f"{{{fixture.id_field}}}", started.target)
        response = project.request("DELETE", path, token)
        assert response.status_code == delete.status
        row = fixture.row(started)
        request_id = response.headers["x-request-id"]
        origin = {"actor": f"user:{fixture.user.id}", "reason": "deleted", "request_id": request_id}
        assert {**row, "deleted_at": None} == fixture.after(before, row, **origin)
    else:
        project.database.update(started.execution_id, deleted_at="now")
    for caller in (token, project.token(project.database.member())):
        with project.unchanged():
            response = fixture.cancel(project, caller, started.target)
        assert fixture.outcome(response) == fixture.documented_error(404)


# The status of a definition


@both_transports
@pytest.mark.parametrize("family", [family for family in FAMILIES if f"get_{family}_status" in ENDPOINTS])
def test_get_sync_status__shows_the_cancelled_execution_until_the_next(project: Project, family: str) -> None:
    fixture = FamilyFixture(project.database, family)
    token = project.token(fixture.user)
    first = fixture.put("running")
    endpoint = ENDPOINTS[f"get_{family}_status"]
    path = endpoint.path.replace(f"{{{fixture.id_field}}}", first.target)

    def status() -> tuple[Any, Any]:
        data = project.request("GET", path, token).json()["data"]
        current, last = data["current_execution"], data["last_execution"]
        return current and (current["id"], current["status"]), last and (last["id"], last["status"])

    def cancel() -> Any:
        code, body = fixture.outcome(fixture.cancel(project, token, first.target))
        assert code == 200
        return body["data"]["message"], body["data"]["execution_id"], body["data"]["status"]

    def requested(started: Started, status: str) -> tuple[str, str, str]:
        return "Cancellation requested", started.execution_id, fixture.vocabulary[status]

    assert status() == ((first.execution_id, fixture.vocabulary["running"]), None)
    assert cancel() == requested(first, "cancelling")
    requested_row = fixture.row(first)
    assert status() == ((first.execution_id, fixture.vocabulary["cancelling"]), None)
    assert cancel() == requested(first, "cancelling")
    assert fixture.row(first)["cancel_deadline"] == requested_row["cancel_deadline"]

    project.database.transition(first.execution_id, ("acknowledge", "cancelled"))
    ended = (first.execution_id, fixture.vocabulary["cancelled"])
    for _ in range(2):
        assert status() == (ended, ended)
        assert cancel() == requested(first, "cancelled")

    second = fixture.started_again()
    assert status() == ((second.execution_id, fixture.vocabulary["queued"]), ended)
    assert cancel() == requested(second, "cancelled")  # at once, because no worker holds it
    assert status() == ((second.execution_id, fixture.vocabulary["cancelled"]),) * 2

    third = fixture.started_again()
    project.database.transition(third.execution_id, *TRANSITIONS_TO["completed"])
    with project.unchanged():
        assert cancel() == ("Nothing is running", None, None)
    assert status() == ((third.execution_id, fixture.vocabulary["completed"]),) * 2


@both_transports
@pytest.mark.parametrize("family", DEFINITIONS)
def test_cancel__definition_never_started(project: Project, family: str) -> None:
    fixture = FamilyFixture(project.database, family)
    [target] = fixture.define().values()
    with project.unchanged():
        assert fixture.outcome(fixture.cancel(project, project.token(fixture.user), target)) == NOTHING_IS_RUNNING


# Races, step by step: the first session to lock the row wins, and a rolled-back call has no effect


@dataclass
class ExecutionModel:
    """The rules of an execution in plain Python: each method returns a call's result and applies its effect."""

    fixture: FamilyFixture
    status: str
    is_late: bool = False  # its lease has expired
    events: tuple[str, ...] = ()
    records: int = 0

    def transition(self, event: str, status: str, result: Any) -> Any:
        self.events, self.status = (*self.events, event), status
        return result

    def cancel(self) -> Any:
        vocabulary, two_steps, found = self.fixture.vocabulary, self.fixture.two_steps, self.status
        if found == "queued" or (found == "running" and not two_steps):
            return self.transition(vocabulary["cancel_event"], "cancelled", vocabulary["cancelled"])
        if found == "running":
            return self.transition(vocabulary["cancel_event"], "cancelling", vocabulary["cancelling"])
        status, body = self.fixture.spec.expected(found, "", vocabulary[found])
        return body["code"] if status != 200 else body["data"]["status"] or body["data"]["message"]

    def finish(self) -> Any:
        return self.transition("complete", "completed", "completed") if self.is_leased else "lost"

    def fail(self) -> Any:
        return self.transition("fail", "failed", "failed") if self.is_leased else "lost"

    def release(self) -> Any:
        if self.status == "cancelling":
            return self.transition("acknowledge", "cancelled", "cancelled")
        return self.transition("release", "queued", "queued") if self.is_leased else "lost"

    try_again = release

    def commit(self) -> Any:
        if not self.is_leased:
            return "lost"
        self.records, self.is_late = BATCH if self.fixture.family in READING else 0, False
        return "cancel" if self.status == "cancelling" else "continue"

    def reap(self) -> Any:
        if not (self.is_leased and self.is_late):
            return 0
        if self.status == "cancelling":
            return self.transition("expire", "cancelled", 1)
        return self.transition("release", "queued", 1)

    def claim(self) -> Any:
        return self.transition("claim", "running", 1) if self.status == "queued" else 0

    @property
    def is_leased(self) -> bool:
        return self.status in {"running", "cancelling"}


SKIPS_LOCKED = {"reap", "claim"}


def expected(
    model: ExecutionModel, order: Sequence[str], ends: Mapping[str, str]
) -> tuple[dict[str, Any], ExecutionModel]:
    """Each session's result if the steps run in this order, and the resulting execution."""
    results: dict[str, Any] = {}
    open_: set[str] = set()
    for name in order:
        if name in results:
            open_.discard(name)
            continue
        call = name.removesuffix("_2")
        after = replace(model)
        results[name] = 0 if open_ and call in SKIPS_LOCKED else getattr(after, call)()
        model = after if ends[name] == "commit" else model
        open_.add(name)
    return results, model


def calls_of(fixture: FamilyFixture, started: Started) -> dict[str, Statement]:
    lease = {"execution_id": started.execution_id, "lease_token": 1}
    error = {"code": "gone", "message": "The source is gone."}
    return {
        "cancel": fixture.statement(started),
        "cancel_2": fixture.statement(started),
        "commit": fixture.commit(started),
        "finish": rpc("worker_complete", **lease),
        "fail": rpc("worker_fail", **lease, error=error, retry=False),
        "try_again": rpc("worker_fail", **lease, error=error, retry=True),
        "release": rpc("worker_release", **lease),
        "reap": rpc("worker_reap"),
        "claim": rpc("worker_claim", worker="w", families=[fixture.family], max_executions=1),
    }


# The sessions of each race. In a race of two, the first is committed or rolled back. `late`: the lease has expired.
RACES: dict[str, list[tuple[str, ...]]] = {
    "queued": [("cancel", "cancel_2"), ("cancel", "claim")],
    "running": [("cancel", other) for other in ("cancel_2", "commit", "finish", "fail", "try_again", "release")],
    "late": [("cancel", "reap")],
    "last batch": [("cancel", "commit", "finish")],
}


def orders(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All orders of the sessions' two steps, except that a worker finishes after its commit."""
    every = interleavings(names)
    if {"commit", "finish"} <= {*names}:
        worker = ["commit"] * 2 + ["finish"] * 2
        return [order for order in every if [name for name in order if name != "cancel"] == worker]
    return every


@each_family
@pytest.mark.parametrize("race", RACES)
def test_cancel__races_decided_by_the_row_lock(database: Database, family: str, race: str) -> None:
    fixture = FamilyFixture(database, family)
    for names in RACES[race]:
        with open_sessions(fixture, names) as sessions:
            for order in orders(names):
                ends = dict.fromkeys(names, "commit")
                run_race(fixture, race, sessions, order, ends)
                if order[0] != order[1] and len(names) == 2:  # one waits for a call that is rolled back
                    run_race(fixture, race, sessions, order, {**ends, order[0]: "rollback"})


def run_race(
    fixture: FamilyFixture,
    race: str,
    sessions: Mapping[str, RaceSession],
    order: Sequence[str],
    ends: Mapping[str, str],
) -> None:
    database, started, status = fixture.database, fixture.started(), "queued" if race == "queued" else "running"
    database.transition(started.execution_id, *TRANSITIONS_TO[status])
    if race == "late":
        database.expire_lease(started.execution_id)
    history = [event["event"] for event in database.events(started.execution_id)]
    results, after = expected(ExecutionModel(fixture, status, is_late=race == "late"), order, ends)
    calls = calls_of(fixture, started)
    assert perform(sessions, {name: calls[name] for name in sessions}, order, ends) == results, (order, ends)
    events = [event["event"] for event in database.events(started.execution_id)]
    assert events == [*history, *after.events], (order, ends)
    assert fixture.row(started)["status"] == after.status, (order, ends)
    assert fixture.stored(started) == after.records, (order, ends)
    end(fixture, started)


@contextmanager
def open_sessions(fixture: FamilyFixture, names: Sequence[str]) -> Iterator[dict[str, RaceSession]]:
    with ExitStack() as stack:
        sessions = {}
        for name in names:
            claims = fixture.user.claims if name.startswith("cancel") else SERVICE
            sessions[name] = RaceSession(fixture.database, fixture.database.session(claims))
            stack.callback(sessions[name].close)
        yield sessions


def end(fixture: FamilyFixture, started: Started) -> None:
    """End the execution, so that later races do not claim or reap it."""
    match fixture.row(started)["status"]:
        case "queued":
            fixture.database.update(started.execution_id, status="cancelled", event=fixture.vocabulary["cancel_event"])
        case "running" | "cancelling":
            fixture.database.update(started.execution_id, status="completed", event="complete")


@each_family
def test_cancel__worker_with_an_older_lease_stays_fenced(database: Database, family: str) -> None:
    """Checked before the cancel, while the newer worker must stop, and after the end."""
    fixture = FamilyFixture(database, family)
    started = fixture.put("requeued")
    database.transition(started.execution_id, ("claim", "running"))
    fixture.check_fenced(started, lease_token=1)
    with database.session(fixture.user.claims) as session:
        session.execute(*fixture.statement(started))
    assert fixture.row(started)["status"] == ("cancelling" if fixture.two_steps else "cancelled")
    fixture.check_fenced(started, lease_token=1)
    if fixture.two_steps:
        database.transition(started.execution_id, ("acknowledge", "cancelled"))
    for lease_token in (1, 3):
        fixture.check_fenced(started, lease_token)


# With a worker in a process of its own


class WorkerFixture:
    """A family with a real worker, a source of configurable speed, and the functions over HTTP."""

    def __init__(self, project: Project, source: Source, family: str) -> None:
        self.project = project
        self.database = project.database
        self.source = source
        self.fixture = FamilyFixture(self.database, family, source.connection(page_size=PAGE))
        self.token = project.token(self.fixture.user)
        self._exit = ExitStack()

    def worker(self, **options: str) -> SuspendableWorker:
        return self._exit.enter_context(SuspendableWorker(self.database, **options))

    def working(self, **options: str) -> tuple[SuspendableWorker, Started]:
        """Start a worker and a long execution, and wait until two batches are stored."""
        started = self.fixture.started("planes")
        worker = self.worker(**options)
        until(lambda: self.fixture.row(started)["seq"] >= 2)
        return worker, started

    def cancel(self, started: Started) -> Outcome:
        return self.fixture.outcome(self.fixture.cancel(self.project, self.token, started.target))

    def expected(self, started: Started, found: str, status: str) -> Outcome:
        return self.fixture.spec.expected(found, started.execution_id, self.fixture.vocabulary[status])

    def close(self) -> None:
        self._exit.close()


PAGE = 20
FOREVER = 3600.0


@pytest.fixture
def running(database: Database, family: str) -> Iterator[WorkerFixture]:
    with ExitStack() as stack:
        source = stack.enter_context(Source(delay_seconds=0.02))
        backend = Backend(database, "ES256")
        stack.callback(backend.close)
        project = stack.enter_context(Project(Setup(), backend))
        made = WorkerFixture(project, source, family)
        stack.callback(made.close)
        yield made


@each_reading_family
def test_cancel__ends_a_slow_fetch_and_stores_nothing_afterwards(running: WorkerFixture) -> None:
    fixture = running.fixture
    running.source.faults.delay(0, times=3)
    running.source.faults.delay(FOREVER)
    worker, started = running.working()
    until(lambda: (fixture.row(started)["seq"], len(running.source.requests)) == (3, 4))
    before = fixture.snapshot(started)

    assert running.cancel(started) == running.expected(
        started, "running", "cancelling" if fixture.two_steps else "cancelled"
    )

    at_response = fixture.snapshot(started)
    outcome = worker.wait_for("execution ended", started.execution_id)["outcome"]
    row, stored, events = fixture.snapshot(started)
    assert (row["status"], row["seq"], stored) == ("cancelled", 3, 3 * PAGE)
    assert len(running.source.requests) == 4
    if fixture.two_steps:
        assert outcome == "cancelled"
        assert [(e["event"], e["reason"]) for e in events[2:]] == [("request_cancel", None), ("acknowledge", "cancel")]
        assert events[-1]["actor"] == f"worker:{before[0]['leased_by']}"
        assert row["lease_token"] == before[0]["lease_token"]
    else:
        assert outcome == "lost"
        assert (row, stored, events) == at_response
    assert running.cancel(started) == running.expected(started, "cancelled", "cancelled")
    assert fixture.snapshot(started) == (row, stored, events)
    fixture.check_fenced(started, before[0]["lease_token"])


@each_reading_family
def test_cancel__races_with_completion(running: WorkerFixture) -> None:
    """Of four pages, 0 to 4 are stored when the cancel arrives. The response says how the execution ends."""
    fixture, total = running.fixture, RESOURCES["airports"].count
    running.fixture = fixture = FamilyFixture(
        running.database, fixture.family, running.source.connection(page_size=total // 4 + 1)
    )
    running.token = running.project.token(fixture.user)
    running.source.faults.delay_seconds = 0.0
    worker = running.worker()
    first = fixture.started("airports")
    until(lambda: fixture.row(first)["finished_at"])
    for number in range(10):
        started = fixture.started_again("airports")
        until(lambda: (row := fixture.row(started))["seq"] >= number % 5 or row["finished_at"])  # noqa: B023 (called here)
        status, body = running.cancel(started)
        at_response = fixture.snapshot(started)
        row = until(lambda: (row := fixture.row(started)) and row["finished_at"] and row)  # noqa: B023
        if row["started_at"]:
            worker.wait_for("execution ended", started.execution_id)
        final = fixture.snapshot(started)
        if (status, body) == running.expected(started, "completed", "completed"):
            assert (row["status"], final[1]) == ("completed", total)
        elif (status, body) == running.expected(started, "running", "cancelled"):
            assert row["status"] == "cancelled"
            assert final == at_response
        else:
            assert (status, body) == running.expected(started, "running", "cancelling")
            assert (row["status"], row["event"]) in {("cancelled", "acknowledge"), ("completed", "complete")}
        assert row["status"] == "cancelled" or final[1] == total
        ends = [event["event"] for event in final[2] if event["to_status"] in {"completed", "cancelled"}]
        assert len(ends) == 1
        assert running.cancel(started) == running.expected(started, row["status"], row["status"])


@pytest.mark.parametrize(
    ("family", "reaper"),
    [(family, reaper) for family in READING for reaper in (["deadline", "lease"] if family in TWO_STEPS else ["none"])],
)
def test_cancel__worker_suspended(running: WorkerFixture, reaper: str) -> None:
    """The worker stores nothing once resumed. In two steps the reaper ends the execution: at the deadline although the
    lease is valid, or when the lease expires.
    """
    fixture = running.fixture
    worker, started = running.working(WORKER_LEASE_SECONDS="2" if reaper == "lease" else "3600")
    worker.suspend()
    lease_token = fixture.row(started)["lease_token"]

    assert running.cancel(started) == running.expected(
        started, "running", "cancelling" if fixture.two_steps else "cancelled"
    )

    if reaper == "deadline":
        with running.database.worker() as other:
            assert other.call("worker_reap")["cancelled"] == 0
            update_without_triggers(
                running.database, started.execution_id, "cancel_deadline = now() - interval '1 second'"
            )
            assert other.call("worker_reap") == {"released": 0, "failed": 0, "cancelled": 1}
    elif reaper == "lease":
        running.worker()
        until(lambda: fixture.row(started)["status"] == "cancelled")
    row, _, events = ended = fixture.snapshot(started)
    assert (row["status"], row["lease_token"]) == ("cancelled", lease_token + 1)
    if reaper != "none":
        reason = {"deadline": "cancel_deadline", "lease": "lease_expired"}[reaper]
        assert [events[-1][name] for name in ("event", "actor", "reason")] == ["expire", "reaper", reason]
    assert running.cancel(started) == running.expected(started, "cancelled", "cancelled")

    worker.resume()
    assert worker.wait_for("execution ended", started.execution_id)["outcome"] == "lost"
    assert fixture.snapshot(started) == ended
    fixture.check_fenced(started, lease_token)


@each_reading_family
def test_cancel__worker_killed_while_cancelling(running: WorkerFixture) -> None:
    fixture = running.fixture
    worker, started = running.working(WORKER_LEASE_SECONDS="2")
    worker.suspend()
    running.cancel(started)
    worker.process.kill()
    worker.process.wait()
    assert fixture.row(started)["status"] == ("cancelling" if fixture.two_steps else "cancelled")

    successor = running.worker()
    until(lambda: fixture.row(started)["status"] == "cancelled")
    final = fixture.snapshot(started)
    transitions = [event["event"] for event in final[2]]
    assert transitions[-3:] == (
        ["claim", "request_cancel", "expire"] if fixture.two_steps else ["start", "claim", "cancel"]
    )
    # The next execution is claimed, and this one never again.
    following = fixture.started_again("planes")
    successor.wait_for("execution started", following.execution_id)
    running.cancel(following)
    successor.wait_for("execution ended", following.execution_id)
    assert fixture.snapshot(started) == final
