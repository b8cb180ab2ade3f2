"""Idempotency-Key: a repeated request runs once, and gets the first response."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest

from functions._shared.http import Request
from tests.support.database import Session, SqlError
from tests.support.project import BOTH_TRANSPORTS, JANUARY, Project, expect_error
from tests.support.proxy import Proxy
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database, User
    from tests.support.project import Projects, Setup

KEY = "8c1b1f0e-key"


@dataclass(frozen=True)
class KeyedRequest:
    """A POST that changes a job. `body` makes its fixtures and body, `other` a different request."""

    name: str
    rpc: str
    status: int
    body: Callable[[Project, User], dict[str, Any]]
    other: Callable[[Project, User, dict[str, Any]], dict[str, Any]]

    def __str__(self) -> str:
        return self.name

    def send(self, project: Project, token: str, body: object, key: str | None = KEY, **options: Any) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        path = f"/{self.name}-historical-sync"
        return project.request("POST", path, token, headers={**headers, **options.pop("headers", {})}, **content)


START = KeyedRequest(
    "start",
    "start_historical_sync",
    201,
    lambda project, user: {"connection_id": project.database.connection(user.agency_id), **JANUARY},
    lambda _project, _user, body: body | {"resources": ["flights"]},
)
CANCEL = KeyedRequest(
    "cancel",
    "cancel_sync_job",
    200,
    lambda project, user: {"job_id": project.database.start(user), "reason": "wrong range"},
    lambda _project, _user, body: body | {"reason": "another"},
)
RETRY = KeyedRequest(
    "retry",
    "retry_historical_sync",
    201,
    lambda project, user: {"job_id": project.job(user, "cancelled")},
    lambda project, user, _body: {"job_id": project.job(user, "cancelled")},
)
KEYED_REQUESTS = [START, CANCEL, RETRY]
every_keyed_request = pytest.mark.parametrize("keyed", KEYED_REQUESTS, ids=str)
through_both_transports = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)


def accepted(keyed: KeyedRequest, response: httpx.Response) -> bytes:
    assert response.status_code == keyed.status, response.text
    return response.content


def count_events(project: Project, user: User) -> int:
    """The number of audit events of the user's agency."""
    query = "select count(*) from app.execution_events where agency_id = %s"
    return int(project.database.one(query, (user.agency_id,))["count"])


@contextlib.contextmanager
def exactly_one_event(project: Project, user: User) -> Iterator[None]:
    before = count_events(project, user)
    yield
    assert count_events(project, user) == before + 1


def complete_job(project: Project, job_id: str) -> None:
    """Claims and completes the job as a worker."""
    lease_token = project.claim(job_id)["lease_token"]
    with project.database.worker() as worker:
        assert worker.call("worker_complete", execution_id=job_id, lease_token=lease_token) == {"result": "completed"}


# Repeated requests


@every_keyed_request
def test_repeated_request__same_response_no_transition(project: Project, keyed: KeyedRequest) -> None:
    user = project.database.member()
    token, body = project.token(user), keyed.body(project, user)
    with exactly_one_event(project, user):
        first = accepted(keyed, keyed.send(project, token, body))
    for _ in range(3):
        with project.unchanged():
            assert accepted(keyed, keyed.send(project, token, body)) == first


@through_both_transports
@every_keyed_request
def test_repeated_request__without_the_key(project: Project, keyed: KeyedRequest) -> None:
    user = project.database.member()
    token, body = project.token(user), keyed.body(project, user)
    with exactly_one_event(project, user):
        accepted(keyed, keyed.send(project, token, body))
        assert keyed.send(project, token, body, key=None).status_code in {400, 409}
        assert keyed.send(project, token, body, key="another").status_code in {400, 409}


@through_both_transports
@every_keyed_request
def test_repeated_request__after_the_job_has_changed(project: Project, keyed: KeyedRequest) -> None:
    """A lost response can be fetched again, even if the job has changed since."""
    user = project.database.member()
    token, body = project.token(user), keyed.body(project, user)
    first = keyed.send(project, token, body)
    accepted(keyed, first)
    job_id = first.json()["job_id"]
    if keyed is CANCEL:
        project.retry(token, {"job_id": job_id})
    else:
        complete_job(project, job_id)
    project.database.update(job_id, deleted_at="2020-01-01")
    with project.unchanged():
        assert accepted(keyed, keyed.send(project, token, body)) == first.content


@through_both_transports
@every_keyed_request
def test_repeated_request__equivalent_json(project: Project, keyed: KeyedRequest) -> None:
    user = project.database.member()
    token, body = project.token(user), keyed.body(project, user)
    first = accepted(keyed, keyed.send(project, token, body))
    equivalent = {name: value.upper() if name.endswith("_id") else value for name, value in reversed(body.items())}
    with project.unchanged():
        assert accepted(keyed, keyed.send(project, token, equivalent | {"unknown": 1, "x": None})) == first
        assert accepted(keyed, keyed.send(project, token, body, headers={"content-type": "text/plain"})) == first


@through_both_transports
def test_repeated_request__null_equals_missing(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    start = START.body(project, user)
    job = START.send(project, token, start | {"resources": None})
    with project.unchanged():
        assert START.send(project, token, start).content == job.content
    cancel = {"job_id": job.json()["job_id"]}
    cancelled = accepted(CANCEL, CANCEL.send(project, token, cancel))
    with project.unchanged():
        assert accepted(CANCEL, CANCEL.send(project, token, cancel | {"reason": None})) == cancelled
        expect_error(CANCEL.send(project, token, cancel | {"reason": ""}), 422, "idempotency_key_reused")


@through_both_transports
def test_repeated_request__audit_names_the_first_request(project: Project) -> None:
    user = project.database.member()
    token, body = project.token(user), CANCEL.body(project, user)
    for request_id in ("first", "second"):
        response = CANCEL.send(project, token, body, headers={"x-request-id": request_id})
        assert response.headers["x-request-id"] == request_id
    events = project.database.events(body["job_id"])
    assert [(event["event"], event["request_id"]) for event in events] == [("start", "test"), ("cancel", "first")]


# A different request with the same key


@through_both_transports
@every_keyed_request
def test_reused_key__different_request_is_rejected(project: Project, keyed: KeyedRequest) -> None:
    user = project.database.member()
    token, body = project.token(user), keyed.body(project, user)
    other = keyed.other(project, user, body)
    first = accepted(keyed, keyed.send(project, token, body))
    with project.unchanged():
        assert expect_error(keyed.send(project, token, other), 422, "idempotency_key_reused") == {}
        assert accepted(keyed, keyed.send(project, token, body)) == first


@through_both_transports
@every_keyed_request
def test_key_scope__per_user(project: Project, keyed: KeyedRequest) -> None:
    database = project.database
    user = database.member()
    first_responses = []
    for one in (user, database.user(user.agency_id), database.member()):
        token, body = project.token(one), keyed.body(project, one)
        with exactly_one_event(project, one):
            first_responses.append(accepted(keyed, keyed.send(project, token, body)))
            assert accepted(keyed, keyed.send(project, token, body)) == first_responses[-1]
    assert len(set(first_responses)) == 3


@through_both_transports
@every_keyed_request
def test_key_scope__other_agency_learns_nothing(project: Project, keyed: KeyedRequest) -> None:
    user, stranger = project.database.member(), project.database.member()
    body = keyed.body(project, user)
    accepted(keyed, keyed.send(project, project.token(user), body))
    token = project.token(stranger)
    code = "connection_of_another_agency" if keyed is START else "job_of_another_agency"
    with project.unchanged():
        assert expect_error(keyed.send(project, token, body), 403, code) == {}


@through_both_transports
def test_key_scope__per_endpoint(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    bodies = {START: START.body(project, user)}
    first_responses = {START: START.send(project, token, bodies[START])}
    for keyed in (CANCEL, RETRY):
        bodies[keyed] = {"job_id": first_responses[START].json()["job_id"]}
        with exactly_one_event(project, user):
            first_responses[keyed] = keyed.send(project, token, bodies[keyed])
    with project.unchanged():
        for keyed in KEYED_REQUESTS:
            accepted(keyed, first_responses[keyed])
            assert keyed.send(project, token, bodies[keyed]).content == first_responses[keyed].content


@through_both_transports
def test_key_scope__case_sensitive(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    for key in ("k", "K"):
        accepted(START, START.send(project, token, START.body(project, user), key=key))


# Concurrent requests


@every_keyed_request
def test_concurrent_requests__one_runs_others_agree(project: Project, keyed: KeyedRequest) -> None:
    user = project.database.member()
    token, body = project.token(user), keyed.body(project, user)

    with exactly_one_event(project, user):
        responses = project.concurrently(lambda: keyed.send(project, token, body))
        first_responses = {response.content for response in responses if response.status_code == keyed.status}
        assert len(first_responses) == 1
        for response in responses:
            if response.status_code != keyed.status:
                assert expect_error(response, 409, "idempotency_key_in_use") == {}
        assert {accepted(keyed, keyed.send(project, token, body))} == first_responses


@through_both_transports
def test_concurrent_requests__different_bodies_one_wins(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    bodies = [START.body(project, user) for _ in range(16)]
    turns = iter(bodies)

    with exactly_one_event(project, user):
        responses = project.concurrently(lambda: START.send(project, token, next(turns)))

    assert [response.status_code for response in responses].count(201) == 1
    for response in responses:
        if response.status_code != 201:
            code = {409: "idempotency_key_in_use", 422: "idempotency_key_reused"}[response.status_code]
            assert expect_error(response, response.status_code, code) == {}


# Two transactions


class KeyedSession(Session):
    """A session whose calls all carry the key. Waiting for a lock fails after a timeout."""

    def __init__(self, database: Database, user: User, key: str = KEY) -> None:
        super().__init__(database, user.claims, "authenticated")
        self.execute("set statement_timeout = '10s'")
        self.carry(key)

    def __enter__(self) -> Self:
        return self

    def carry(self, key: str) -> None:
        self.execute(
            "select set_config('request.headers', json_build_object('idempotency-key', %s)::text, false)", (key,)
        )


def arguments_of(keyed: KeyedRequest, database: Database, user: User) -> dict[str, Any]:
    if keyed is START:
        return {"connection_id": database.connection(user.agency_id), **JANUARY}
    return {"job_id": database.put("queued" if keyed is CANCEL else "failed", user.agency_id)}


@pytest.mark.sql
@every_keyed_request
@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_two_transactions__second_sees_in_use_then_the_outcome(
    database: Database, keyed: KeyedRequest, how: str
) -> None:
    user = database.member()
    arguments = arguments_of(keyed, database, user)
    with KeyedSession(database, user) as one, KeyedSession(database, user) as other:
        before = database.fingerprint()
        one.execute("begin")
        first = one.call(keyed.rpc, **arguments)
        for _ in range(2):
            error = other.error(keyed.rpc, **arguments)
            assert (error.sqlstate, error.code) == ("PT409", "idempotency_key_in_use")
        assert database.fingerprint() == before
        one.execute(how)
        second = other.call(keyed.rpc, **arguments)
    assert (second == first) == (how == "commit" or keyed is CANCEL)
    job_id = second["job_id"]
    assert [event["event"] for event in database.events(job_id)][-1] == ("cancel" if keyed is CANCEL else "start")
    assert database.one("select count(*) from app.idempotency_keys")["count"] == 1


@pytest.mark.sql
def test_two_transactions__other_keys_are_not_blocked(database: Database) -> None:
    user = database.member()
    colleague, stranger = database.user(user.agency_id), database.member()
    with KeyedSession(database, user) as one, one.connection.transaction():
        one.call(START.rpc, **arguments_of(START, database, user))
        for other in (colleague, stranger):
            with KeyedSession(database, other) as session:
                assert session.call(START.rpc, **arguments_of(START, database, other))["status"] == "pending"
        with KeyedSession(database, user) as mine:
            assert mine.call(CANCEL.rpc, **arguments_of(CANCEL, database, user))["status"] == "cancelled"
            mine.carry("another")
            assert mine.call(START.rpc, **arguments_of(START, database, user))["status"] == "pending"


@pytest.mark.sql
def test_two_transactions__rollback_frees_the_key(database: Database) -> None:
    """An error rolls back, which also frees the key."""
    user = database.member()
    arguments = arguments_of(CANCEL, database, user)
    with KeyedSession(database, user) as one, KeyedSession(database, user) as other:
        one.execute("begin")
        assert isinstance(one.attempt("select public.cancel_sync_job(gen_random_uuid())"), SqlError)
        one.execute("rollback")
        assert other.call(CANCEL.rpc, **arguments)["status"] == "cancelled"


# What is not stored


@through_both_transports
def test_not_stored__errors(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    active = project.job(user, "in_progress")
    connection_id = str(project.database.execution(active)["connection_id"])
    start, retry = {"connection_id": connection_id, **JANUARY}, {"job_id": active}
    with project.unchanged():
        assert expect_error(START.send(project, token, start), 409, "already_active") == {"job_id": active}
        assert expect_error(RETRY.send(project, token, retry), 400, "not_retryable") == {
            "current_status": "in_progress"
        }
    project.cancel(token, {"job_id": active})
    retried = accepted(RETRY, RETRY.send(project, token, retry))
    with project.unchanged():
        assert accepted(RETRY, RETRY.send(project, token, retry)) == retried
        expect_error(START.send(project, token, start), 409, "already_active")
    # The rejected start did not use up the key.
    accepted(START, START.send(project, token, START.body(project, user)))


@through_both_transports
def test_not_stored__malformed_requests(project: Project) -> None:
    user = project.database.member()
    token, body = project.token(user), CANCEL.body(project, user)
    with project.unchanged():
        expect_error(CANCEL.send(project, token, b"{"), 400, "invalid_json")
        expect_error(CANCEL.send(project, token, {"job_id": "x"}), 400, "invalid_field")
    accepted(CANCEL, CANCEL.send(project, token, body))


@through_both_transports
def test_not_stored__internal_errors(project: Project) -> None:
    user = project.database.member()
    token, body = project.token(user), CANCEL.body(project, user)
    with project.unchanged(), project.without("app.save_idempotent_response"):
        expect_error(CANCEL.send(project, token, body), 500, "internal_error")
    with exactly_one_event(project, user):
        accepted(CANCEL, CANCEL.send(project, token, body))


# Expiry after a day


def set_key_age(database: Database, age: str, actor: User) -> None:
    database.admin.execute(
        "update app.idempotency_keys set created_at = now() - %s::interval where actor = %s", (age, f"user:{actor.id}")
    )


@through_both_transports
def test_expiry__key_is_new_after_a_day(project: Project) -> None:
    user = project.database.member()
    token, body = project.token(user), CANCEL.body(project, user)
    first = accepted(CANCEL, CANCEL.send(project, token, body))
    set_key_age(project.database, "23 h 59 min", user)
    assert accepted(CANCEL, CANCEL.send(project, token, body)) == first
    set_key_age(project.database, "24 h 1 s", user)
    expect_error(CANCEL.send(project, token, body), 400, "not_cancellable")
    other = CANCEL.body(project, user)
    second = accepted(CANCEL, CANCEL.send(project, token, other))
    assert accepted(CANCEL, CANCEL.send(project, token, other)) == second
    expect_error(CANCEL.send(project, token, body), 422, "idempotency_key_reused")


@pytest.mark.sql
def test_expiry__two_requests_find_an_expired_key(database: Database) -> None:
    user = database.member()
    arguments = arguments_of(START, database, user)
    with KeyedSession(database, user) as one, KeyedSession(database, user) as other:
        old = one.call(START.rpc, **arguments)
        one.call(CANCEL.rpc, job_id=old["job_id"])
        set_key_age(database, "25 h", user)
        one.execute("begin")
        new = one.call(START.rpc, **arguments)
        assert new != old
        assert other.error(START.rpc, **arguments).code == "idempotency_key_in_use"
        with database.worker() as worker:  # the tick skips rows that are locked
            worker.execute("set statement_timeout = '10s'")
            worker.call("worker_reap")
        one.execute("commit")
        assert other.call(START.rpc, **arguments) == new


@pytest.mark.sql
def test_expiry__tick_deletes_keys_older_than_a_day(database: Database) -> None:
    old, young = database.member(), database.member()
    for user in (old, young):
        with KeyedSession(database, user) as session:
            session.call(START.rpc, **arguments_of(START, database, user))
    set_key_age(database, "24 h 1 s", old)
    set_key_age(database, "23 h 59 min", young)
    with database.worker() as worker:
        assert worker.call("worker_reap") == {"released": 0, "failed": 0, "cancelled": 0}
    assert database.all("select actor from app.idempotency_keys") == [{"actor": f"user:{young.id}"}]


@pytest.mark.sql
def test_expiry__tick_deletes_in_batches(database: Database) -> None:
    database.admin.execute(
        "insert into app.idempotency_keys (agency_id, actor, function, key, request, response, created_at)"
        " select null, 'service_role', 'f', n, '{}', '{}', now() - interval '2 days' from generate_series(1, 1001) as n"
    )
    left = []
    for _ in range(2):
        with database.worker() as worker:
            worker.call("worker_reap", limit=1)
        left.append(database.one("select count(*) from app.idempotency_keys")["count"])
    assert left == [1, 0]


# Syntax of keys

GOOD_KEYS = ["a", "x" * 255, "'\"; drop table app.idempotency_keys; -- %s $$ \\ {}", "null", "0", "a b", "a,b", "~!@#"]
BAD_KEYS = ["", "x" * 256, "x" * 5000, "é", "a\xa0b", "a\tb", "\xff"]


@through_both_transports
@pytest.mark.parametrize("key", GOOD_KEYS, ids=lambda key: key[:20])
def test_key_syntax__printable_ascii(project: Project, key: str) -> None:
    user = project.database.member()
    token, body = project.token(user), CANCEL.body(project, user)
    first = accepted(CANCEL, CANCEL.send(project, token, body, key=key))
    with project.unchanged():
        assert accepted(CANCEL, CANCEL.send(project, token, body, key=key)) == first
    [row] = project.database.all("select key from app.idempotency_keys where actor = %s", (f"user:{user.id}",))
    assert row["key"] == key


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@every_keyed_request
@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key)[:20])
def test_key_syntax__malformed_is_rejected_without_a_call(project: Project, keyed: KeyedRequest, key: str) -> None:
    """The database is not called: it would reject this caller."""
    body = keyed.body(project, project.database.member())
    token = project.token(project.database.user(None))
    with project.unchanged():
        response = keyed.send(project, token, body, key=key)
    assert expect_error(response, 400, "invalid_idempotency_key") == {}


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("key", [" ", "a\nb", "a\r\nx-request-id: b", "a\x01", "\0", "\x7f", "ключ", "🛑"], ids=repr)
def test_key_syntax__control_characters_in_an_event(project: Project, key: str) -> None:
    """No HTTP server passes it on, but a Lambda event can hold it."""
    response = ask_directly(project, key)
    assert (response[0], b'"invalid_idempotency_key"' in response[1]) == (400, True)


@through_both_transports
def test_key_syntax__surrounding_spaces_are_ignored(project: Project) -> None:
    user = project.database.member()
    token, body = project.token(user), CANCEL.body(project, user)
    first = accepted(CANCEL, CANCEL.send(project, token, body, key="k"))
    assert ask_directly(project, "  k ", user, body) == (200, first)


def ask_directly(
    project: Project, key: str, user: User | None = None, body: dict[str, Any] | None = None
) -> tuple[int, bytes]:
    user = user or project.database.member()
    headers = {"authorization": f"Bearer {project.token(user)}", "idempotency-key": key}
    content = httpx.Request("POST", "http://x", json=body or CANCEL.body(project, user)).content
    response = project._handle(Request("POST", "/cancel-historical-sync", headers=headers, body=content))
    return response.status, response.body


@pytest.mark.sql
def test_key_syntax__too_long_or_empty_in_sql(database: Database) -> None:
    user = database.member()
    arguments = arguments_of(CANCEL, database, user)
    with KeyedSession(database, user, "☃" * 256) as session:
        error = session.error(CANCEL.rpc, **arguments)
        assert (error.sqlstate, error.code) == ("PT400", "invalid_idempotency_key")
        session.carry("")
        assert session.call(CANCEL.rpc, **arguments)["status"] == "cancelled"
        assert session.error(CANCEL.rpc, **arguments).code == "not_cancellable"
        session.carry("☃" * 255)
        session.call(CANCEL.rpc, **arguments_of(CANCEL, database, user))
    assert [row["key"] for row in database.all("select key from app.idempotency_keys")] == ["☃" * 255]


@through_both_transports
@pytest.mark.parametrize("key", [KEY, "", "x" * 256])
def test_key_syntax__reads_ignore_keys(project: Project, key: str) -> None:
    user = project.database.member()
    token, job_id = project.token(user), project.job(user)
    headers = {"Idempotency-Key": key}
    seen = []
    for _ in range(2):
        with project.unchanged():
            seen.append(project.get(token, job_id, headers=headers).json()["status"])
            listed = project.request("GET", "/list-historical-syncs", token, headers=headers)
            assert listed.json()["jobs"][0]["status"] == seen[-1]
        project.cancel(token, {"job_id": job_id})
    assert seen == ["pending", "cancelled"]


# Callers


@every_keyed_request
def test_caller__signed_out_gets_no_stored_response(project: Project, keyed: KeyedRequest) -> None:
    user = project.database.member()
    token, body = project.token(user), keyed.body(project, user)
    first = accepted(keyed, keyed.send(project, token, body))
    project.auth.sign_out(token)
    with project.unchanged():
        assert expect_error(keyed.send(project, token, body), 401, "revoked_token") == {}
    again = project.auth.sign_in(user.id)
    with project.unchanged():
        assert accepted(keyed, keyed.send(project, again, body)) == first


@through_both_transports
@every_keyed_request
def test_caller__changed_agency_gets_no_stored_response(project: Project, keyed: KeyedRequest) -> None:
    user = project.database.member()
    token, body = project.token(user), keyed.body(project, user)
    first = accepted(keyed, keyed.send(project, token, body))
    moved = "update public.users set agency_id = %s where id = %s"
    project.database.admin.execute(moved, (project.database.agency(), user.id))
    code = "connection_of_another_agency" if keyed is START else "job_of_another_agency"
    with project.unchanged():
        assert expect_error(keyed.send(project, token, body), 403, code) == {}
    project.database.admin.execute(moved, (None, user.id))
    expect_error(keyed.send(project, token, body), 403, "no_agency")
    project.database.admin.execute(moved, (user.agency_id, user.id))
    assert accepted(keyed, keyed.send(project, token, body)) == first


@pytest.mark.sql
def test_stored_responses__no_access_for_others(database: Database) -> None:
    user = database.member()
    colleague, stranger, outsider = database.user(user.agency_id), database.member(), database.user(None)
    with KeyedSession(database, user) as session:
        session.call(START.rpc, **arguments_of(START, database, user))
        assert len(session.execute("select * from app.idempotency_keys")) == 1
    before = database.fingerprint()
    for other in (colleague, stranger):
        with database.session(other.claims) as session:
            assert session.execute("select * from app.idempotency_keys") == []
            assert session.execute("delete from app.idempotency_keys returning id") == []
            assert not reads(session, "select * from app.idempotency_keys for update")
    for claims in (outsider.claims, user.claims | {"session_id": stranger.session_id}):
        with database.session(claims, "authenticated") as session:
            assert not reads(session, "select * from app.idempotency_keys")
            assert not reads(session, "delete from app.idempotency_keys returning id")
    with database.session({"role": "anon"}) as session:
        assert not reads(session, "select * from app.idempotency_keys")
    assert database.fingerprint() == before


def reads(session: Session, query: str) -> bool:
    found = session.attempt(query)
    return not isinstance(found, SqlError) and found != []


@pytest.mark.sql
def test_stored_responses__not_written_for_others(database: Database) -> None:
    user = database.member()
    colleague, stranger = database.user(user.agency_id), database.member()
    before = database.fingerprint()
    query = (
        "insert into app.idempotency_keys (agency_id, actor, function, key, request, response)"
        " values (%s, %s, 'f', 'k', '{}', '{}')"
    )
    for agency_id, actor in (
        (user.agency_id, f"user:{colleague.id}"),
        (stranger.agency_id, f"user:{user.id}"),
        (stranger.agency_id, f"user:{stranger.id}"),
        (None, f"user:{user.id}"),
        (None, "service_role"),
    ):
        with database.session(user.claims) as session:
            error = session.attempt(query, (agency_id, actor))
            assert isinstance(error, SqlError)
            assert error.sqlstate == "42501"
    assert database.fingerprint() == before


@pytest.mark.sql
def test_key_scope__trusted_server(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.worker() as service:
        service.execute("select set_config('request.headers', %s, false)", ('{"idempotency-key": "k"}',))
        first = service.call("cancel_sync_job", job_id=job_id)
        assert service.call("cancel_sync_job", job_id=job_id) == first
        assert service.error("cancel_sync_job", job_id=job_id, reason="x").code == "idempotency_key_reused"
    with KeyedSession(database, user, "k") as session:
        assert session.error("cancel_sync_job", job_id=job_id).code == "not_cancellable"


# Lost responses


@pytest.mark.parametrize("setup", BOTH_TRANSPORTS, ids=str)
@every_keyed_request
def test_lost_response__repeated_after_a_broken_connection(
    projects: Projects, setup: Setup, keyed: KeyedRequest
) -> None:
    backend = projects.backend(setup.signing)
    database = backend.database
    behind = database.server.port if setup.transport == "postgres" else httpx.URL(backend.url).port
    assert behind
    with Proxy(behind) as proxy:
        url = database.login("authenticator").replace(f":{behind}/", f":{proxy.port}/")
        network = (
            {"database_url": url}
            if setup.transport == "postgres"
            else {"supabase_url": f"http://127.0.0.1:{proxy.port}"}
        )
        with Project(setup, backend, **network) as project:
            user = database.member()
            token, body = project.token(user), keyed.body(project, user)
            with exactly_one_event(project, user):
                proxy.lose_response(keyed.rpc.encode())
                expect_error(keyed.send(project, token, body), 503, "database_unavailable")
                assert proxy.lost == 1

                def again() -> bytes | None:
                    """The first request may still be running."""
                    response = keyed.send(project, token, body)
                    if response.status_code == 409:
                        expect_error(response, 409, "idempotency_key_in_use")
                        return None
                    return accepted(keyed, response)

                result = until(again)
                assert accepted(keyed, keyed.send(project, token, body)) == result
    database.check_invariants()
