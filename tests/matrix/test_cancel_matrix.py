"""Every family that can be cancelled, in every status, by whoever asks, through both doors; its races, step by step and
for real; and its worker, slow, stopped or killed meanwhile.

What must come out is worked out here from the vocabulary (app.families) and from WAYS, never by the functions under
test. A family that gets a cancel endpoint needs one entry in WAYS, and a test fails until it has one.
"""

from __future__ import annotations

import json
import re
import signal
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import pytest

from functions._local.source import RESOURCES, Source
from functions._local.worker_process import WorkerProcess
from functions._shared import registry
from tests.sql.test_races import BATCH, ChaosWorker, batch, interleavings, perform
from tests.support import documented
from tests.support.database import HTTP_CONFIG, SERVICE, TRANSITIONS_TO, TWO_STEPS, rpc
from tests.support.project import BOTH_TRANSPORTS, Backend, Project, Setup, checksums
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import httpx

    from functions._shared.endpoint import Endpoint
    from tests.sql.test_races import Statement
    from tests.support.database import Database, User

ENDPOINTS = {endpoint.name: endpoint for endpoint in registry.endpoints()}
ACTIVE = {"queued", "running", "cancelling"}

LOST = {"result": "lost"}
# Where an execution may stand: the vocabulary's words, and `requeued`, which is queued and has begun before.
STATUSES = ["queued", "scheduled", "requeued", "running", "cancelling", "completed", "failed", "cancelled"]


# How each family is set going, and what its cancel endpoint says


class Started(NamedTuple):
    """`target` is what its cancel endpoint is addressed with."""

    target: str
    execution_id: str


# An answer: the status with the body, an error's being its code and what else it says.
Answer = tuple[int, dict[str, Any]]


# What a start is told: arguments of its function.
Defined = dict[str, str]


@dataclass(frozen=True)
class Way:
    """`define` makes what can be started from a connection and one of its resources, `start` starts it.

    `says` is the answer to a cancel that found the execution in this status, and calls its status this word afterwards;
    `shows` are the members of a success to look at (none: all). `commit` is how its worker goes on, if not by storing.
    """

    endpoint: str
    define: Callable[[Database, User, str, str], Defined]
    start: Callable[[Database, User, Defined, str], Started]
    says: Callable[[str, str, str], Answer]
    shows: tuple[str, ...] = ()
    commit: Callable[[str, int, int], Statement] | None = None


def call_as(database: Database, user: User, name: str, /, **arguments: Any) -> Any:
    """The answer of a public function to this user."""
    with database.acting_as("authenticated") as connection:
        connection.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(user.claims),))
        row = connection.execute(*rpc(name, **arguments)).fetchone()
        assert row is not None
        return row["result"]


def a_connection(_: Database, _user: User, source_id: str, _resource: str) -> Defined:
    return {"connection_id": source_id}


def a_bulk_sync(database: Database, user: User, source_id: str, resource: str) -> Defined:
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


def a_model_sync(database: Database, user: User, source_id: str, resource: str) -> Defined:
    key = RESOURCES[resource].primary_key[0]
    # As create_model leaves it, without a worker to look at the source.
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


def a_sync_job(database: Database, user: User, source_id: str, resource: str) -> Defined:
    resources = [{"resource": resource, "method": "list", "persist": True}]
    job = call_as(database, user, "create_sync_job", resources=resources)
    return {"sync_job_id": job["id"], "integrated_account_id": source_id}


def nothing(_: Database, _user: User, _source_id: str, _resource: str) -> Defined:
    return {}


def start_job(database: Database, user: User, defined: Defined, resource: str) -> Started:
    january = {"date_from": "2013-01-01", "date_to": "2013-01-31"}
    job = call_as(database, user, "start_historical_sync", **defined, **january, resources=[resource])
    return Started(job["job_id"], job["job_id"])


def start_bulk_sync(database: Database, user: User, defined: Defined, _resource: str) -> Started:
    return Started(defined["sync_id"], call_as(database, user, "start_bulk_sync", **defined)["data"]["id"])


def start_model_sync(database: Database, user: User, defined: Defined, _resource: str) -> Started:
    return Started(defined["sync_id"], call_as(database, user, "start_model_sync", **defined)["data"]["id"])


def start_run(database: Database, user: User, defined: Defined, _resource: str) -> Started:
    run = call_as(database, user, "create_sync_job_run", **defined, daemon_group_key="main")
    return Started(run["id"], run["id"])


def start_bulk_action(database: Database, user: User, _defined: Defined, _resource: str) -> Started:
    criteria = {"ids": [str(uuid.uuid4())]}
    job = call_as(database, user, "create_bulk_action", action_type="cancel", criteria=criteria)
    return Started(job["job_id"], job["job_id"])


def act(execution_id: str, lease_token: int, _seq: int) -> Statement:
    return rpc("worker_run_bulk_action_step", execution_id=execution_id, lease_token=lease_token)


def of_a_job(**members: Any) -> Callable[[str, str, str], Answer]:
    """`members` are what a success says: `id` stands for the execution's, `word` for its status."""

    def says(found: str, execution_id: str, word: str) -> Answer:
        if found not in ACTIVE:
            return 400, {"code": "not_cancellable", "current_status": word}
        values = {"id": execution_id, "word": word}
        return 200, {name: values.get(value, value) for name, value in members.items()}

    return says


def of_a_definition(found: str, execution_id: str, word: str) -> Answer:
    if found in ACTIVE | {"cancelled"}:
        return 200, {"data": {"message": "Cancellation requested", "execution_id": execution_id, "status": word}}
    return NOTHING_IS_RUNNING


NOTHING_IS_RUNNING = 200, {"data": {"message": "Nothing is running", "execution_id": None, "status": None}}

WAYS = {
    "historical_sync": Way("cancel_historical_sync", a_connection, start_job, of_a_job(job_id="id", status="word")),
    "bulk_sync": Way("cancel_bulk_sync", a_bulk_sync, start_bulk_sync, of_a_definition),
    "model_sync": Way("cancel_model_sync", a_model_sync, start_model_sync, of_a_definition),
    # Its answer is the whole run.
    "sync_job_run": Way(
        "stop_sync_job_run", a_sync_job, start_run, of_a_job(id="id", status="word"), shows=("id", "status")
    ),
    "bulk_action": Way(
        "cancel_bulk_action",
        nothing,
        start_bulk_action,
        of_a_job(success=True, job_id="id", status="word"),
        commit=act,
    ),
}
FAMILIES = list(WAYS)
# Those whose execution is one of a definition, by which it is cancelled; and those whose worker stores what it reads.
DEFINITIONS = [family for family, way in WAYS.items() if way.says is of_a_definition]
READING = [family for family, way in WAYS.items() if way.commit is None]


def test_every_cancel_endpoint_is_in_the_matrix(database: Database) -> None:
    """They are found by what they do: their SQL functions reach app.cancel_execution."""
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
    found = {name for name in cancelling if not name.startswith("delete_")}  # they cancel by the way
    missing = found - {way.endpoint for way in WAYS.values()}
    assert not missing, f"{missing}: say in WAYS how an execution is defined and started, and what a cancel answers"
    assert {way.endpoint for way in WAYS.values()} == found


def _called(body: str) -> list[str]:
    return re.findall(r"\b(?:app|public)\.\w+(?=\()", body)


def test_the_matrix_speaks_of_every_family_and_status(database: Database) -> None:
    [row] = database.all("select * from app.families limit 1")
    words = [*row][[*row].index("foreign_status") + 1 :]
    assert {*words, "requeued"} == {*STATUSES}
    families = {row["family"] for row in database.all("select family from app.families")}
    assert {*FAMILIES} <= families


# The stage: a family, a project, an agency


class Stage:
    """One family in one agency; `source` is config and secret of what it reads from."""

    def __init__(
        self, database: Database, family: str, source: tuple[Mapping[str, Any], Any] = (HTTP_CONFIG, None)
    ) -> None:
        self.database = database
        self.family = family
        self.way = WAYS[family]
        self.endpoint: Endpoint = ENDPOINTS[self.way.endpoint]
        # The one member that says what to cancel.
        [self.member] = [n for n, field in self.endpoint.request.model_fields.items() if field.annotation is uuid.UUID]
        self.words = database.one("select * from app.families where family = %s", (family,))
        self.two_steps = self.words["cancelling"] is not None
        self.user = database.member()
        self._source = source

    def started(self, resource: str = "flights") -> Started:
        self._defined = self.defined(resource)
        return self.started_again(resource)

    def defined(self, resource: str = "flights") -> Defined:
        config, secret = self._source
        source_id = self.database.connection(self.user.agency_id, config=config, secret=secret)
        return self.way.define(self.database, self.user, source_id, resource)

    def started_again(self, resource: str = "flights") -> Started:
        """Another execution of what was started last."""
        return self.way.start(self.database, self.user, self._defined, resource)

    def put(self, status: str) -> Started:
        """An execution in this status; one that has begun has stored a batch, or whatever its worker does."""
        started = self.started()
        if status == "scheduled":
            unguarded(self.database, started.execution_id, "run_at = now() + interval '1 hour'")
        for nth, move in enumerate(self.path(status)):
            self.database.move(started.execution_id, move)
            if nth == 0:
                with self.database.acting_as("service_role") as worker:
                    worker.execute(*self.commit(started))
        return started

    def commit(self, started: Started, lease_token: int = 1, seq: int = 1) -> Statement:
        return (self.way.commit or batch)(started.execution_id, lease_token, seq)

    def path(self, status: str) -> list[tuple[str, str]]:
        if status == "scheduled":
            return []
        if status != "cancelled":
            return TRANSITIONS_TO[status]
        last = [("acknowledge", "cancelled")] if self.two_steps else []
        return [("claim", "running"), (self.words["cancel_event"], "cancelling" if last else "cancelled"), *last]

    def row(self, started: Started) -> dict[str, Any]:
        return self.database.execution(started.execution_id)

    def word(self, row: Mapping[str, Any]) -> str:
        """What the family calls where this row stands."""
        word = row["status"]
        if word == "queued" and row["started_at"]:
            word = "running"
        elif word == "queued" and row["run_at"] > self.database.one("select now()")["now"]:
            word = "scheduled"
        return str(self.words[word])

    def stored(self, started: Started) -> int:
        """How many records there are of it: as many as are counted."""
        counts = (
            "select 'counted' as name, records as n from app.executions where id = %(id)s"
            " union all select 'listed', sum(records) from app.execution_resources where execution_id = %(id)s"
            " union all select 'stored', count(*) from app.records where execution_id = %(id)s"
        )
        row = {one["name"]: one["n"] or 0 for one in self.database.all(counts, {"id": started.execution_id})}
        assert row["counted"] == row["listed"] == row["stored"], row
        return int(row["stored"])

    def left(self, started: Started) -> tuple[dict[str, Any], int, list[dict[str, Any]]]:
        """All there is of it."""
        return self.row(started), self.stored(started), self.database.events(started.execution_id)

    def check_fenced(self, started: Started, lease_token: int) -> None:
        """Nothing that carries the old lease is taken, whatever it says."""
        before, of = self.left(started), {"execution_id": started.execution_id, "lease_token": lease_token}
        with self.database.worker() as zombie:
            assert zombie.execute(*self.commit(started, lease_token, before[0]["seq"] + 1))[0]["result"] == LOST
            for name in ("worker_heartbeat", "worker_complete", "worker_release"):
                assert zombie.call(name, **of) == LOST
            assert zombie.call("worker_fail", **of, error={"code": "gone", "message": "Gone."}) == LOST
        assert self.left(started) == before

    def key(self, user: User, *, revoked: bool = False) -> tuple[str, str]:
        """An API key of this user's agency, and its actor."""
        made = call_as(self.database, user, "create_api_key", name="server")
        key_id = made["api_key"]["id"]
        # Noting its use is the only change that a refused call may make; this one is noted already.
        self.database.admin.execute(
            "update app.api_keys set last_used_at = now(), revoked_at = case when %s then now() end where id = %s",
            (revoked, key_id),
        )
        return str(made["key"]), f"api_key:{key_id}"

    # What is asked

    def said(self, response: httpx.Response) -> Answer:
        """An answer, whichever API's: an error without what each of its API says."""
        status, body = response.status_code, response.json()
        if response.is_success:
            return status, {name: body[name] for name in self.way.shows or body}
        of_all = self.endpoint.error_format.schema["properties"]
        members = body.get("metadata", {name: value for name, value in body.items() if name not in of_all})
        return status, {"code": documented.code(body), **members}

    def cancel(self, project: Project, token: str | None, target: str, reason: str | None = None) -> httpx.Response:
        path = self.endpoint.path.replace(f"{{{self.member}}}", target)
        body = {} if path != self.endpoint.path else {self.member: target}
        if reason is not None and self.takes_a_reason:
            body["reason"] = reason
        return project.request(self.endpoint.method, path, token, json=body)

    @property
    def takes_a_reason(self) -> bool:
        return "reason" in self.endpoint.request.model_fields

    def statement(self, started: Started) -> Statement:
        """The cancel as SQL that answers a word, or the message where there is none."""
        call, values = rpc(self.endpoint.rpc, **{self.member: started.target})
        word = "coalesce(answer ->> 'status', answer #>> '{data,status}', answer #>> '{data,message}') as result"
        return f"select {word} from ({call}) as called", values

    def refused(self, status: int) -> Answer:
        """The endpoint's own refusal with this status."""
        [one] = [one for one in self.endpoint.errors if one.status == status]
        return status, {"code": one.code}

    def after(self, before: Mapping[str, Any], row: Mapping[str, Any], **said: Any) -> dict[str, Any]:
        """The row as a cancel must leave it; `row` tells when that was, `said` who did it and why."""
        if before["status"] not in {"queued", "running"}:
            return dict(before)
        at = row["cancel_requested_at"]
        assert at >= before["created_at"]
        expected = {
            **before,
            **said,
            "status": "cancelling" if self.two_steps and before["status"] == "running" else "cancelled",
            "event": self.words["cancel_event"],
            "cancel_requested_at": at,
            "cancel_deadline": at + self.words["grace"],
            "cancelled_by": said["actor"],
            "cancel_reason": said["reason"],
        }
        if expected["status"] == "cancelled":
            expected |= {"lease_token": before["lease_token"] + 1, "finished_at": at}
            expected |= {"leased_by": None, "lease_seconds": None, "lease_expires_at": None}
        return expected


def unguarded(database: Database, execution_id: str, assignment: str) -> None:
    """As time would have it: no move, and nobody may do it."""
    with database.admin.transaction():
        database.admin.execute("set local session_replication_role = replica")
        database.admin.execute(f"update app.executions set {assignment} where id = %s", (execution_id,))


@contextmanager
def nothing_else_changes(database: Database, started: Started) -> Iterator[None]:
    """Of all there is, at most this execution's row and its audit."""

    def rest() -> Any:
        others = "select count(*), sum(hashtextextended(t::text, 0)) from {} as t where {} <> %s"
        tables = checksums(database)
        del tables["app.executions"], tables["app.execution_events"]
        return (
            tables,
            database.one(others.format("app.executions", "id"), (started.execution_id,)),
            database.one(others.format("app.execution_events", "execution_id"), (started.execution_id,)),
        )

    before = rest()
    yield
    assert rest() == before


def test_only_a_family_with_a_word_for_it_is_ever_cancelling(database: Database) -> None:
    for family in FAMILIES:
        stage = Stage(database, family)
        started = stage.put("running")
        with database.worker() as worker:
            answer = worker.attempt(
                "update app.executions set status = 'cancelling', event = 'request_cancel' where id = %s",
                (started.execution_id,),
            )
        assert stage.two_steps == (family in TWO_STEPS) == (getattr(answer, "code", None) != "invalid_transition")


# The matrix


CASES = [
    (family, status) for family in FAMILIES for status in STATUSES if status != "cancelling" or family in TWO_STEPS
]
# What is no definition is deleted after its end alone.
ENDED = {"completed", "failed", "cancelled"}
DELETABLE = [(family, status) for family, status in CASES if family in DEFINITIONS or status in ENDED]
each_family = pytest.mark.parametrize("family", FAMILIES)
each_reading_family = pytest.mark.parametrize("family", READING)
both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
each_case = pytest.mark.parametrize(("family", "status"), CASES)


@both_doors
@each_case
def test_a_cancel_and_the_same_again(project: Project, family: str, status: str) -> None:
    stage = Stage(project.database, family)
    colleague = project.database.user(stage.user.agency_id)
    callers = [(project.token(user), f"user:{user.id}") for user in (stage.user, colleague)]
    if stage.endpoint.error_format.api_keys:
        callers.append(stage.key(stage.user))
    for token, actor in callers:
        started = stage.put(status)
        before, history = stage.row(started), project.database.events(started.execution_id)
        with nothing_else_changes(project.database, started):
            response = stage.cancel(project, token, started.target, "enough")

        row = stage.row(started)
        reason = "enough" if stage.takes_a_reason else None
        request_id = response.headers["x-request-id"]
        assert row == stage.after(before, row, actor=actor, reason=reason, request_id=request_id)
        assert stage.said(response) == stage.way.says(before["status"], started.execution_id, stage.word(row))
        events = project.database.events(started.execution_id)
        assert events[: len(history)] == history
        moves = [(e["from_status"], e["event"], e["to_status"], e["lease_token"]) for e in events[len(history) :]]
        if before["status"] in {"queued", "running"}:
            assert moves == [(before["status"], stage.words["cancel_event"], row["status"], row["lease_token"])]
            assert [events[-1][name] for name in ("actor", "reason", "request_id")] == [actor, reason, request_id]
        else:
            assert moves == []

        with project.unchanged():
            response = stage.cancel(project, token, started.target, "again")
        assert stage.said(response) == stage.way.says(row["status"], started.execution_id, stage.word(row))


@both_doors
@each_case
def test_many_cancels_at_once_are_one(project: Project, family: str, status: str) -> None:
    stage = Stage(project.database, family)
    started, token = stage.put(status), project.token(stage.user)
    before, history = stage.row(started), project.database.events(started.execution_id)
    with nothing_else_changes(project.database, started):
        responses = project.at_once(lambda: stage.cancel(project, token, started.target))
    row = stage.row(started)
    actor = f"user:{stage.user.id}"
    assert row == stage.after(before, row, actor=actor, reason=None, request_id=row["request_id"])

    first = stage.way.says(before["status"], started.execution_id, stage.word(row))
    later = stage.way.says(row["status"], started.execution_id, stage.word(row))
    answers = sorted((stage.said(response) for response in responses), key=lambda answer: answer != first)
    assert answers == [first, *[later] * (len(responses) - 1)]
    moved = len(project.database.events(started.execution_id)) - len(history)
    assert moved == (before["status"] in {"queued", "running"})
    if moved:
        winners = {r.headers["x-request-id"] for r in responses if stage.said(r) == first}
        assert row["request_id"] in winners


@both_doors
@each_case
def test_who_may_not_and_what_is_not_there(project: Project, family: str, status: str) -> None:
    stage = Stage(project.database, family)
    started = stage.put(status)
    stranger, nobody = project.database.member(), project.database.user(None)
    member = project.token(stage.user)
    unknown, foreign = stage.refused(404), stage.refused(stage.words["foreign_status"])
    malformed = (404, {"code": "not_found"})
    if stage.member not in (stage.endpoint.path_parameters(stage.endpoint.path) or {}):
        malformed = (400, {"code": "invalid_field", "field": stage.member})
    takes_keys = stage.endpoint.error_format.api_keys
    calls: list[tuple[str | None, str, Answer]] = [
        (project.token(stranger), started.target, foreign),
        (project.token(nobody), started.target, (403, {"code": "no_agency"})),
        (None, started.target, (401, {"code": "missing_token"})),
        (project.auth.anon_key(), started.target, (401, {"code": "invalid_token"})),
        (project.auth.service_role_key(), started.target, (401, {"code": "invalid_token"})),
        (
            stage.key(stranger)[0],
            started.target,
            foreign if takes_keys else (401, {"code": "invalid_token"}),
        ),
        (
            stage.key(stage.user, revoked=True)[0],
            started.target,
            (401, {"code": "invalid_api_key" if takes_keys else "invalid_token"}),
        ),
        (member, str(uuid.uuid4()), unknown),
        (member, project.database.connection(stage.user.agency_id), unknown),
        (member, "not-an-id", malformed),
    ]
    if started.target != started.execution_id:
        calls.append((member, started.execution_id, unknown))
    with project.unchanged():
        for token, target, answer in calls:
            assert stage.said(stage.cancel(project, token, target)) == answer


@both_doors
@pytest.mark.parametrize(("family", "status"), DELETABLE)
def test_what_was_deleted_is_not_there(project: Project, family: str, status: str) -> None:
    stage = Stage(project.database, family)
    started, token = stage.put(status), project.token(stage.user)
    before = stage.row(started)
    delete = ENDPOINTS.get(f"delete_{family}")
    if delete:
        path = delete.path.replace(f"{{{stage.member}}}", started.target)
        response = project.request("DELETE", path, token)
        assert response.status_code == delete.status
        row = stage.row(started)
        by = {"actor": f"user:{stage.user.id}", "reason": "deleted", "request_id": response.headers["x-request-id"]}
        assert {**row, "deleted_at": None} == stage.after(before, row, **by)
    else:
        project.database.update(started.execution_id, deleted_at="now")
    for asks in (token, project.token(project.database.member())):
        with project.unchanged():
            response = stage.cancel(project, asks, started.target)
        assert stage.said(response) == stage.refused(404)


# What a definition shows of it


@both_doors
@pytest.mark.parametrize("family", [family for family in FAMILIES if f"get_{family}_status" in ENDPOINTS])
def test_a_definition_shows_its_cancelled_execution_until_the_next(project: Project, family: str) -> None:
    stage = Stage(project.database, family)
    token = project.token(stage.user)
    first = stage.put("running")
    endpoint = ENDPOINTS[f"get_{family}_status"]
    path = endpoint.path.replace(f"{{{stage.member}}}", first.target)

    def status() -> tuple[Any, Any]:
        data = project.request("GET", path, token).json()["data"]
        current, last = data["current_execution"], data["last_execution"]
        return current and (current["id"], current["status"]), last and (last["id"], last["status"])

    def cancel() -> Any:
        code, body = stage.said(stage.cancel(project, token, first.target))
        assert code == 200
        return body["data"]["message"], body["data"]["execution_id"], body["data"]["status"]

    def requested(started: Started, word: str) -> tuple[str, str, str]:
        return "Cancellation requested", started.execution_id, stage.words[word]

    assert status() == ((first.execution_id, stage.words["running"]), None)
    assert cancel() == requested(first, "cancelling")
    asked = stage.row(first)
    assert status() == ((first.execution_id, stage.words["cancelling"]), None)
    assert cancel() == requested(first, "cancelling")
    assert stage.row(first)["cancel_deadline"] == asked["cancel_deadline"]

    project.database.move(first.execution_id, ("acknowledge", "cancelled"))
    ended = (first.execution_id, stage.words["cancelled"])
    for _ in range(2):
        assert status() == (ended, ended)
        assert cancel() == requested(first, "cancelled")

    second = stage.started_again()
    assert status() == ((second.execution_id, stage.words["queued"]), ended)
    assert cancel() == requested(second, "cancelled")  # at once: nobody works on it
    assert status() == ((second.execution_id, stage.words["cancelled"]),) * 2

    third = stage.started_again()
    project.database.move(third.execution_id, *TRANSITIONS_TO["completed"])
    with project.unchanged():
        assert cancel() == ("Nothing is running", None, None)
    assert status() == ((third.execution_id, stage.words["completed"]),) * 2


@both_doors
@pytest.mark.parametrize("family", DEFINITIONS)
def test_a_definition_that_was_never_started_has_nothing_to_cancel(project: Project, family: str) -> None:
    stage = Stage(project.database, family)
    [target] = stage.defined().values()
    with project.unchanged():
        assert stage.said(stage.cancel(project, project.token(stage.user), target)) == NOTHING_IS_RUNNING


# Races, step by step: whoever holds the row first decides, and one that is undone never was


@dataclass
class Model:
    """An execution as the rules have it, in plain Python: each call gives its answer and does what it does."""

    stage: Stage
    status: str
    late: bool = False  # its lease has run out
    events: tuple[str, ...] = ()
    records: int = 0

    def move(self, event: str, status: str, answer: Any) -> Any:
        self.events, self.status = (*self.events, event), status
        return answer

    def cancel(self) -> Any:
        words, two_steps, found = self.stage.words, self.stage.two_steps, self.status
        if found == "queued" or (found == "running" and not two_steps):
            return self.move(words["cancel_event"], "cancelled", words["cancelled"])
        if found == "running":
            return self.move(words["cancel_event"], "cancelling", words["cancelling"])
        status, body = self.stage.way.says(found, "", words[found])
        return body["code"] if status != 200 else body["data"]["status"] or body["data"]["message"]

    def finish(self) -> Any:
        return self.move("complete", "completed", "completed") if self.is_leased else "lost"

    def fail(self) -> Any:
        return self.move("fail", "failed", "failed") if self.is_leased else "lost"

    def release(self) -> Any:
        if self.status == "cancelling":
            return self.move("acknowledge", "cancelled", "cancelled")
        return self.move("release", "queued", "queued") if self.is_leased else "lost"

    try_again = release

    def commit(self) -> Any:
        if not self.is_leased:
            return "lost"
        self.records, self.late = BATCH if self.stage.family in READING else 0, False
        return "cancel" if self.status == "cancelling" else "continue"

    def reap(self) -> Any:
        if not (self.is_leased and self.late):
            return 0
        return self.move("expire", "cancelled", 1) if self.status == "cancelling" else self.move("release", "queued", 1)

    def claim(self) -> Any:
        return self.move("claim", "running", 1) if self.status == "queued" else 0

    @property
    def is_leased(self) -> bool:
        return self.status in {"running", "cancelling"}


PASSES_OVER = {"reap", "claim"}  # rows that somebody has locked


def expected(model: Model, order: Sequence[str], ends: Mapping[str, str]) -> tuple[dict[str, Any], Model]:
    """Everybody's answer when the steps run in this order, and what is left."""
    answers: dict[str, Any] = {}
    open_: set[str] = set()
    for name in order:
        if name in answers:
            open_.discard(name)
            continue
        call = name.removesuffix("_2")
        after = replace(model)
        answers[name] = 0 if open_ and call in PASSES_OVER else getattr(after, call)()
        model = after if ends[name] == "commit" else model
        open_.add(name)
    return answers, model


def calls_of(stage: Stage, started: Started) -> dict[str, Statement]:
    of = {"execution_id": started.execution_id, "lease_token": 1}
    error = {"code": "gone", "message": "The source is gone."}
    return {
        "cancel": stage.statement(started),
        "cancel_2": stage.statement(started),
        "commit": stage.commit(started),
        "finish": rpc("worker_complete", **of),
        "fail": rpc("worker_fail", **of, error=error, retry=False),
        "try_again": rpc("worker_fail", **of, error=error, retry=True),
        "release": rpc("worker_release", **of),
        "reap": rpc("worker_reap"),
        "claim": rpc("worker_claim", worker="w", families=[stage.family], max_executions=1),
    }


# Who meets: two of whom the first is undone or not, or three. `late`: the lease has run out. A worker finishes once its
# last batch is stored.
MEETINGS: dict[str, list[tuple[str, ...]]] = {
    "queued": [("cancel", "cancel_2"), ("cancel", "claim")],
    "running": [("cancel", other) for other in ("cancel_2", "commit", "finish", "fail", "try_again", "release")],
    "late": [("cancel", "reap")],
    "the end": [("cancel", "commit", "finish")],
}


def orders(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All orders of everybody's two steps, but that one worker does one thing after the other."""
    every = interleavings(names)
    if {"commit", "finish"} <= {*names}:
        return [one for one in every if [name for name in one if name != "cancel"] == ["commit"] * 2 + ["finish"] * 2]
    return every


@each_family
@pytest.mark.parametrize("scene", MEETINGS)
def test_of_a_cancel_and_others_the_first_to_hold_the_row_wins(database: Database, family: str, scene: str) -> None:
    stage = Stage(database, family)
    for names in MEETINGS[scene]:
        with players(stage, names) as those:
            for order in orders(names):
                ends = dict.fromkeys(names, "commit")
                meet(stage, scene, those, order, ends)
                if order[0] != order[1] and len(names) == 2:  # somebody waits for what is undone
                    meet(stage, scene, those, order, {**ends, order[0]: "rollback"})


def meet(
    stage: Stage, scene: str, those: Mapping[str, ChaosWorker], order: Sequence[str], ends: Mapping[str, str]
) -> None:
    database, started, status = stage.database, stage.started(), "queued" if scene == "queued" else "running"
    database.move(started.execution_id, *TRANSITIONS_TO[status])
    if scene == "late":
        database.expire_lease(started.execution_id)
    history = [event["event"] for event in database.events(started.execution_id)]
    answers, after = expected(Model(stage, status, late=scene == "late"), order, ends)
    calls = calls_of(stage, started)
    assert perform(those, {name: calls[name] for name in those}, order, ends) == answers, (order, ends)
    events = [event["event"] for event in database.events(started.execution_id)]
    assert events == [*history, *after.events], (order, ends)
    assert stage.row(started)["status"] == after.status, (order, ends)
    assert stage.stored(started) == after.records, (order, ends)
    put_away(stage, started)


@contextmanager
def players(stage: Stage, names: Sequence[str]) -> Iterator[dict[str, ChaosWorker]]:
    with ExitStack() as stack:
        made = {}
        for name in names:
            claims = stage.user.claims if name.startswith("cancel") else SERVICE
            made[name] = ChaosWorker(stage.database, stage.database.session(claims))
            stack.callback(made[name].close)
        yield made


def put_away(stage: Stage, started: Started) -> None:
    """It is in nobody's way any more."""
    match stage.row(started)["status"]:
        case "queued":
            stage.database.update(started.execution_id, status="cancelled", event=stage.words["cancel_event"])
        case "running" | "cancelling":
            stage.database.update(started.execution_id, status="completed", event="complete")


@each_family
def test_a_worker_that_was_overtaken_has_no_say_in_a_cancel(database: Database, family: str) -> None:
    """Neither before it nor while its heir is asked to stop, nor after."""
    stage = Stage(database, family)
    started = stage.put("requeued")
    database.move(started.execution_id, ("claim", "running"))
    stage.check_fenced(started, lease_token=1)
    with database.session(stage.user.claims) as session:
        session.execute(*stage.statement(started))
    assert stage.row(started)["status"] == ("cancelling" if stage.two_steps else "cancelled")
    stage.check_fenced(started, lease_token=1)
    if stage.two_steps:
        database.move(started.execution_id, ("acknowledge", "cancelled"))
    for lease_token in (1, 3):
        stage.check_fenced(started, lease_token)


# With its worker, a process of its own


class Field:
    """A family with a real worker, a source that is as slow as one likes, and the functions over HTTP."""

    def __init__(self, project: Project, source: Source, family: str) -> None:
        self.project = project
        self.database = project.database
        self.source = source
        self.stage = Stage(self.database, family, source.connection(page_size=PAGE))
        self.token = project.token(self.stage.user)
        self._exit = ExitStack()

    def worker(self, **options: str) -> WorkerProcess:
        quick = {"WORKER_LEASE_SECONDS": "3600", "WORKER_HEARTBEAT_SECONDS": "0.1", "WORKER_TICK_SECONDS": "0.05"}
        # The source is on this machine.
        needed = {"DATABASE_URL": self.database.login("authenticator"), "WORKER_ALLOW_PRIVATE_ADDRESSES": "true"}
        made = WorkerProcess(log=True, **(quick | needed | options))
        self._exit.callback(made.close)
        self._exit.callback(self.notify, made)
        return made

    def working(self, **options: str) -> tuple[WorkerProcess, Started]:
        """A worker that has stored something of a long execution, and goes on."""
        started = self.stage.started("planes")
        worker = self.worker(**options)
        until(lambda: self.stage.row(started)["seq"] >= 2)
        return worker, started

    def stop(self, worker: WorkerProcess) -> None:
        """Stopped where it stands; what it has begun in the database has ended or will without it."""
        worker.process.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(worker.process.pid).status() == psutil.STATUS_STOPPED)
        busy = (
            "select from pg_stat_activity where state ~ 'active|transaction' and usename = 'authenticator'"
            " and datname = current_database()"
        )
        until(lambda: not self.database.all(busy))

    def notify(self, worker: WorkerProcess) -> None:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGCONT)

    def cancel(self, started: Started) -> Answer:
        return self.stage.said(self.stage.cancel(self.project, self.token, started.target))

    def is_told(self, started: Started, found: str, word: str) -> Answer:
        return self.stage.way.says(found, started.execution_id, self.stage.words[word])

    def close(self) -> None:
        self._exit.close()


PAGE = 20
FOR_EVER = 3600.0


@pytest.fixture
def field(database: Database, family: str) -> Iterator[Field]:
    with ExitStack() as stack:
        source = stack.enter_context(Source(delay_seconds=0.02))
        backend = Backend(database, "ES256")
        stack.callback(backend.close)
        project = stack.enter_context(Project(Setup(), backend))
        made = Field(project, source, family)
        stack.callback(made.close)
        yield made


@each_reading_family
def test_a_cancel_ends_a_slow_fetch_and_nothing_is_stored_after_it(field: Field) -> None:
    stage = field.stage
    field.source.faults.delay(0, times=3)
    field.source.faults.delay(FOR_EVER)
    worker, started = field.working()
    until(lambda: (stage.row(started)["seq"], len(field.source.requests)) == (3, 4))
    before = stage.left(started)

    assert field.cancel(started) == field.is_told(started, "running", "cancelling" if stage.two_steps else "cancelled")

    answered = stage.left(started)
    outcome = worker.wait_for("ended", started.execution_id)["outcome"]
    row, stored, events = stage.left(started)
    assert (row["status"], row["seq"], stored) == ("cancelled", 3, 3 * PAGE)
    assert len(field.source.requests) == 4
    if stage.two_steps:
        assert outcome == "cancelled"
        assert [(e["event"], e["reason"]) for e in events[2:]] == [("request_cancel", None), ("acknowledge", "cancel")]
        assert events[-1]["actor"] == f"worker:{before[0]['leased_by']}"
        assert row["lease_token"] == before[0]["lease_token"]
    else:
        assert outcome == "lost"
        assert (row, stored, events) == answered
    assert field.cancel(started) == field.is_told(started, "cancelled", "cancelled")
    assert stage.left(started) == (row, stored, events)
    stage.check_fenced(started, before[0]["lease_token"])


@each_reading_family
def test_a_cancel_that_races_the_end(field: Field) -> None:
    """Four pages; the cancel comes when so many are stored: the answer is what became of it."""
    stage, total = field.stage, RESOURCES["airports"].count
    field.stage = stage = Stage(field.database, stage.family, field.source.connection(page_size=total // 4 + 1))
    field.token = field.project.token(stage.user)
    field.source.faults.delay_seconds = 0.0
    worker = field.worker()
    first = stage.started("airports")
    until(lambda: stage.row(first)["finished_at"])
    for nth in range(10):
        started = stage.started_again("airports")
        until(lambda: (row := stage.row(started))["seq"] >= nth % 5 or row["finished_at"])  # noqa: B023 (called here)
        status, body = field.cancel(started)
        answered = stage.left(started)
        row = until(lambda: (row := stage.row(started)) and row["finished_at"] and row)  # noqa: B023
        if row["started_at"]:
            worker.wait_for("ended", started.execution_id)
        left = stage.left(started)
        if (status, body) == field.is_told(started, "completed", "completed"):
            assert (row["status"], left[1]) == ("completed", total)
        elif (status, body) == field.is_told(started, "running", "cancelled"):
            assert row["status"] == "cancelled"
            assert left == answered
        else:
            assert (status, body) == field.is_told(started, "running", "cancelling")
            assert (row["status"], row["event"]) in {("cancelled", "acknowledge"), ("completed", "complete")}
        assert row["status"] == "cancelled" or left[1] == total
        ends = [event["event"] for event in left[2] if event["to_status"] in {"completed", "cancelled"}]
        assert len(ends) == 1
        assert field.cancel(started) == field.is_told(started, row["status"], row["status"])


@pytest.mark.parametrize(
    ("family", "reaper"),
    [(family, by) for family in READING for by in (["deadline", "lease_token"] if family in TWO_STEPS else ["nobody"])],
)
def test_a_stopped_worker_keeps_no_cancel_waiting_and_stores_nothing_when_it_wakes(field: Field, reaper: str) -> None:
    """In two steps the reaper ends it: at the deadline though the lease is alive, or (another's) with the lease."""
    stage = field.stage
    worker, started = field.working(WORKER_LEASE_SECONDS="2" if reaper == "lease_token" else "3600")
    field.stop(worker)
    lease_token = stage.row(started)["lease_token"]

    assert field.cancel(started) == field.is_told(started, "running", "cancelling" if stage.two_steps else "cancelled")

    if reaper == "deadline":
        with field.database.worker() as other:
            assert other.call("worker_reap")["cancelled"] == 0
            unguarded(field.database, started.execution_id, "cancel_deadline = now() - interval '1 second'")
            assert other.call("worker_reap") == {"released": 0, "failed": 0, "cancelled": 1}
    elif reaper == "lease_token":
        field.worker()
        until(lambda: stage.row(started)["status"] == "cancelled")
    row, _, events = ended = stage.left(started)
    assert (row["status"], row["lease_token"]) == ("cancelled", lease_token + 1)
    if reaper != "nobody":
        reason = {"deadline": "cancel_deadline", "lease_token": "lease_expired"}[reaper]
        assert [events[-1][name] for name in ("event", "actor", "reason")] == ["expire", "reaper", reason]
    assert field.cancel(started) == field.is_told(started, "cancelled", "cancelled")

    field.notify(worker)
    assert worker.wait_for("ended", started.execution_id)["outcome"] == "lost"
    assert stage.left(started) == ended
    stage.check_fenced(started, lease_token)


@each_reading_family
def test_a_worker_that_is_killed_while_cancelling_leaves_it_to_the_next(field: Field) -> None:
    stage = field.stage
    worker, started = field.working(WORKER_LEASE_SECONDS="2")
    field.stop(worker)
    field.cancel(started)
    worker.process.kill()
    worker.process.wait()
    assert stage.row(started)["status"] == ("cancelling" if stage.two_steps else "cancelled")

    heir = field.worker()
    until(lambda: stage.row(started)["status"] == "cancelled")
    left = stage.left(started)
    moves = [event["event"] for event in left[2]]
    assert moves[-3:] == (["claim", "request_cancel", "expire"] if stage.two_steps else ["start", "claim", "cancel"])
    # What comes next is begun, and this one never again.
    following = stage.started_again("planes")
    heir.wait_for("begun", following.execution_id)
    field.cancel(following)
    heir.wait_for("ended", following.execution_id)
    assert stage.left(started) == left
