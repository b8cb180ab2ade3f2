"""Idempotency-Key: what was done once is not done again, and its answer can be asked for until it was received."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest

from functions._shared.http import Request
from tests.support.database import ErrorSpec, Session
from tests.support.project import BOTH_TRANSPORTS, JANUARY, Project, refusal
from tests.support.proxy import Proxy
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database, User
    from tests.support.project import Projects, Setup

KEY = "8c1b1f0e-key"


@dataclass(frozen=True)
class Move:
    """A POST that moves a job: `body` sets the scene for it, `other` is a request that differs from it."""

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


START = Move(
    "start",
    "start_historical_sync",
    201,
    lambda project, user: {"connection_id": project.database.connection(user.agency_id), **JANUARY},
    lambda _project, _user, body: body | {"resources": ["flights"]},
)
CANCEL = Move(
    "cancel",
    "cancel_sync_job",
    200,
    lambda project, user: {"job_id": project.database.start(user), "reason": "wrong range"},
    lambda _project, _user, body: body | {"reason": "another"},
)
RETRY = Move(
    "retry",
    "retry_historical_sync",
    201,
    lambda project, user: {"job_id": project.job(user, "cancelled")},
    lambda project, user, _body: {"job_id": project.job(user, "cancelled")},
)
MOVES = [START, CANCEL, RETRY]
every_move = pytest.mark.parametrize("move", MOVES, ids=str)
through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)


def accepted(move: Move, response: httpx.Response) -> bytes:
    assert response.status_code == move.status, response.text
    return response.content


def moves(project: Project, user: User) -> int:
    """How many events the audit of this user's agency has."""
    query = "select count(*) from app.execution_events where agency_id = %s"
    return int(project.database.one(query, (user.agency_id,))["count"])


@contextlib.contextmanager
def one_move(project: Project, user: User) -> Iterator[None]:
    before = moves(project, user)
    yield
    assert moves(project, user) == before + 1


def end(project: Project, job_id: str) -> None:
    """A worker completes it."""
    lease_token = project.claim(job_id)["lease_token"]
    with project.database.worker() as worker:
        assert worker.call("worker_complete", execution_id=job_id, lease_token=lease_token) == {"result": "completed"}


# The same again


@every_move
def test_the_same_request_gets_the_same_answer_and_moves_nothing(project: Project, move: Move) -> None:
    user = project.database.member()
    token, body = project.token(user), move.body(project, user)
    with one_move(project, user):
        first = accepted(move, move.send(project, token, body))
    for _ in range(3):
        with project.unchanged():
            assert accepted(move, move.send(project, token, body)) == first


@through_both_doors
@every_move
def test_without_a_key_the_second_is_a_request_of_its_own(project: Project, move: Move) -> None:
    user = project.database.member()
    token, body = project.token(user), move.body(project, user)
    with one_move(project, user):
        accepted(move, move.send(project, token, body))
        assert move.send(project, token, body, key=None).status_code in {400, 409}
        assert move.send(project, token, body, key="another").status_code in {400, 409}


@through_both_doors
@every_move
def test_the_answer_stays_when_the_job_has_moved_on(project: Project, move: Move) -> None:
    """A 200 that was lost can be asked for again, however long ago it was true."""
    user = project.database.member()
    token, body = project.token(user), move.body(project, user)
    first = move.send(project, token, body)
    accepted(move, first)
    job_id = first.json()["job_id"]
    if move is CANCEL:
        project.retry(token, {"job_id": job_id})
    else:
        end(project, job_id)
    project.database.update(job_id, deleted_at="2020-01-01")
    with project.unchanged():
        assert accepted(move, move.send(project, token, body)) == first.content


@through_both_doors
@every_move
def test_it_is_the_same_request_however_it_is_spelled(project: Project, move: Move) -> None:
    user = project.database.member()
    token, body = project.token(user), move.body(project, user)
    first = accepted(move, move.send(project, token, body))
    spelled = {name: value.upper() if name.endswith("_id") else value for name, value in reversed(body.items())}
    with project.unchanged():
        assert accepted(move, move.send(project, token, spelled | {"unknown": 1, "x": None})) == first
        assert accepted(move, move.send(project, token, body, headers={"content-type": "text/plain"})) == first


@through_both_doors
def test_what_is_null_is_what_is_left_out(project: Project) -> None:
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
        refusal(CANCEL.send(project, token, cancel | {"reason": ""}), 422, "idempotency_key_reused")


@through_both_doors
def test_the_audit_names_the_request_that_did_it(project: Project) -> None:
    user = project.database.member()
    token, body = project.token(user), CANCEL.body(project, user)
    for request_id in ("first", "second"):
        response = CANCEL.send(project, token, body, headers={"x-request-id": request_id})
        assert response.headers["x-request-id"] == request_id
    events = project.database.events(body["job_id"])
    assert [(event["event"], event["request_id"]) for event in events] == [("start", "test"), ("cancel", "first")]


# Another request


@through_both_doors
@every_move
def test_another_request_with_the_key_is_refused(project: Project, move: Move) -> None:
    user = project.database.member()
    token, body = project.token(user), move.body(project, user)
    other = move.other(project, user, body)
    first = accepted(move, move.send(project, token, body))
    with project.unchanged():
        assert refusal(move.send(project, token, other), 422, "idempotency_key_reused") == {}
        assert accepted(move, move.send(project, token, body)) == first


@through_both_doors
@every_move
def test_everybody_has_keys_of_their_own(project: Project, move: Move) -> None:
    database = project.database
    user = database.member()
    answers = []
    for one in (user, database.user(user.agency_id), database.member()):
        token, body = project.token(one), move.body(project, one)
        with one_move(project, one):
            answers.append(accepted(move, move.send(project, token, body)))
            assert accepted(move, move.send(project, token, body)) == answers[-1]
    assert len(set(answers)) == 3


@through_both_doors
@every_move
def test_another_agency_learns_nothing_by_a_key(project: Project, move: Move) -> None:
    user, stranger = project.database.member(), project.database.member()
    body = move.body(project, user)
    accepted(move, move.send(project, project.token(user), body))
    token = project.token(stranger)
    code = "connection_of_another_agency" if move is START else "job_of_another_agency"
    with project.unchanged():
        assert refusal(move.send(project, token, body), 403, code) == {}


@through_both_doors
def test_every_endpoint_has_keys_of_its_own(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    bodies = {START: START.body(project, user)}
    answers = {START: START.send(project, token, bodies[START])}
    for move in (CANCEL, RETRY):
        bodies[move] = {"job_id": answers[START].json()["job_id"]}
        with one_move(project, user):
            answers[move] = move.send(project, token, bodies[move])
    with project.unchanged():
        for move in MOVES:
            accepted(move, answers[move])
            assert move.send(project, token, bodies[move]).content == answers[move].content


@through_both_doors
def test_upper_and_lower_case_are_two_keys(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    for key in ("k", "K"):
        accepted(START, START.send(project, token, START.body(project, user), key=key))


# At once


@every_move
def test_of_many_first_uses_at_once_one_works_and_nobody_gets_another_answer(project: Project, move: Move) -> None:
    user = project.database.member()
    token, body = project.token(user), move.body(project, user)

    with one_move(project, user):
        responses = project.at_once(lambda: move.send(project, token, body))
        answers = {response.content for response in responses if response.status_code == move.status}
        assert len(answers) == 1
        for response in responses:
            if response.status_code != move.status:
                assert refusal(response, 409, "idempotency_key_in_use") == {}
        assert {accepted(move, move.send(project, token, body))} == answers


@through_both_doors
def test_of_many_requests_with_one_key_one_is_the_first(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    bodies = [START.body(project, user) for _ in range(16)]
    turns = iter(bodies)

    with one_move(project, user):
        responses = project.at_once(lambda: START.send(project, token, next(turns)))

    assert [response.status_code for response in responses].count(201) == 1
    for response in responses:
        if response.status_code != 201:
            code = {409: "idempotency_key_in_use", 422: "idempotency_key_reused"}[response.status_code]
            assert refusal(response, response.status_code, code) == {}


# Two transactions, step by step


class Keyed(Session):
    """Whose every call carries the key; one that waits for a lock is ended instead."""

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


def arguments_of(move: Move, database: Database, user: User) -> dict[str, Any]:
    if move is START:
        return {"connection_id": database.connection(user.agency_id), **JANUARY}
    return {"job_id": database.put("queued" if move is CANCEL else "failed", user.agency_id)}


@pytest.mark.sql
@every_move
@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_who_comes_second_is_told_at_once_and_afterwards_what_became_of_it(
    database: Database, move: Move, how: str
) -> None:
    user = database.member()
    arguments = arguments_of(move, database, user)
    with Keyed(database, user) as one, Keyed(database, user) as other:
        before = database.fingerprint()
        one.execute("begin")
        first = one.call(move.rpc, **arguments)
        for _ in range(2):
            refused = other.refusal(move.rpc, **arguments)
            assert (refused.sqlstate, refused.code) == ("PT409", "idempotency_key_in_use")
        assert database.fingerprint() == before
        one.execute(how)
        second = other.call(move.rpc, **arguments)
    assert (second == first) == (how == "commit" or move is CANCEL)
    job_id = second["job_id"]
    assert [event["event"] for event in database.events(job_id)][-1] == ("cancel" if move is CANCEL else "start")
    assert database.one("select count(*) from app.idempotency_keys")["count"] == 1


@pytest.mark.sql
def test_a_key_in_use_stands_in_nobody_elses_way(database: Database) -> None:
    user = database.member()
    colleague, stranger = database.user(user.agency_id), database.member()
    with Keyed(database, user) as one, one.connection.transaction():
        one.call(START.rpc, **arguments_of(START, database, user))
        for other in (colleague, stranger):
            with Keyed(database, other) as session:
                assert session.call(START.rpc, **arguments_of(START, database, other))["status"] == "pending"
        with Keyed(database, user) as mine:
            assert mine.call(CANCEL.rpc, **arguments_of(CANCEL, database, user))["status"] == "cancelled"
            mine.carry("another")
            assert mine.call(START.rpc, **arguments_of(START, database, user))["status"] == "pending"


@pytest.mark.sql
def test_a_key_is_free_again_after_a_refusal_in_a_longer_transaction(database: Database) -> None:
    """What is refused is rolled back, and with it goes the key's use."""
    user = database.member()
    arguments = arguments_of(CANCEL, database, user)
    with Keyed(database, user) as one, Keyed(database, user) as other:
        one.execute("begin")
        assert isinstance(one.attempt("select public.cancel_sync_job(gen_random_uuid())"), ErrorSpec)
        one.execute("rollback")
        assert other.call(CANCEL.rpc, **arguments)["status"] == "cancelled"


# What is not remembered


@through_both_doors
def test_a_refusal_is_not_remembered(project: Project) -> None:
    user = project.database.member()
    token = project.token(user)
    active = project.job(user, "in_progress")
    connection_id = str(project.database.execution(active)["connection_id"])
    start, retry = {"connection_id": connection_id, **JANUARY}, {"job_id": active}
    with project.unchanged():
        assert refusal(START.send(project, token, start), 409, "already_active") == {"job_id": active}
        assert refusal(RETRY.send(project, token, retry), 400, "not_retryable") == {"current_status": "in_progress"}
    project.cancel(token, {"job_id": active})
    retried = accepted(RETRY, RETRY.send(project, token, retry))
    with project.unchanged():
        assert accepted(RETRY, RETRY.send(project, token, retry)) == retried
        refusal(START.send(project, token, start), 409, "already_active")
    # The key was never used for a start, so it may come with another one.
    accepted(START, START.send(project, token, START.body(project, user)))


@through_both_doors
def test_a_malformed_request_does_not_use_its_key_up(project: Project) -> None:
    user = project.database.member()
    token, body = project.token(user), CANCEL.body(project, user)
    with project.unchanged():
        refusal(CANCEL.send(project, token, b"{"), 400, "invalid_json")
        refusal(CANCEL.send(project, token, {"job_id": "x"}), 400, "invalid_field")
    accepted(CANCEL, CANCEL.send(project, token, body))


@through_both_doors
def test_an_error_of_ours_does_not_use_its_key_up(project: Project) -> None:
    user = project.database.member()
    token, body = project.token(user), CANCEL.body(project, user)
    with project.unchanged(), project.without("app.save_idempotent_response"):
        refusal(CANCEL.send(project, token, body), 500, "internal_error")
    with one_move(project, user):
        accepted(CANCEL, CANCEL.send(project, token, body))


# For a day


def remembered_since(database: Database, age: str, actor: User) -> None:
    database.admin.execute(
        "update app.idempotency_keys set created_at = now() - %s::interval where actor = %s", (age, f"user:{actor.id}")
    )


@through_both_doors
def test_after_a_day_a_key_is_new_again(project: Project) -> None:
    user = project.database.member()
    token, body = project.token(user), CANCEL.body(project, user)
    first = accepted(CANCEL, CANCEL.send(project, token, body))
    remembered_since(project.database, "23 h 59 min", user)
    assert accepted(CANCEL, CANCEL.send(project, token, body)) == first
    remembered_since(project.database, "24 h 1 s", user)
    refusal(CANCEL.send(project, token, body), 400, "not_cancellable")
    other = CANCEL.body(project, user)
    second = accepted(CANCEL, CANCEL.send(project, token, other))
    assert accepted(CANCEL, CANCEL.send(project, token, other)) == second
    refusal(CANCEL.send(project, token, body), 422, "idempotency_key_reused")


@pytest.mark.sql
def test_of_two_that_find_an_old_key_one_works(database: Database) -> None:
    user = database.member()
    arguments = arguments_of(START, database, user)
    with Keyed(database, user) as one, Keyed(database, user) as other:
        old = one.call(START.rpc, **arguments)
        one.call(CANCEL.rpc, job_id=old["job_id"])
        remembered_since(database, "25 h", user)
        one.execute("begin")
        new = one.call(START.rpc, **arguments)
        assert new != old
        assert other.refusal(START.rpc, **arguments).code == "idempotency_key_in_use"
        with database.worker() as worker:  # the tick passes over what somebody is forgetting just now
            worker.execute("set statement_timeout = '10s'")
            worker.call("worker_reap")
        one.execute("commit")
        assert other.call(START.rpc, **arguments) == new


@pytest.mark.sql
def test_the_tick_forgets_what_is_older_than_a_day_and_nothing_else(database: Database) -> None:
    old, young = database.member(), database.member()
    for user in (old, young):
        with Keyed(database, user) as session:
            session.call(START.rpc, **arguments_of(START, database, user))
    remembered_since(database, "24 h 1 s", old)
    remembered_since(database, "23 h 59 min", young)
    with database.worker() as worker:
        assert worker.call("worker_reap") == {"released": 0, "failed": 0, "cancelled": 0}
    assert database.all("select actor from app.idempotency_keys") == [{"actor": f"user:{young.id}"}]


@pytest.mark.sql
def test_the_tick_forgets_so_many_at_a_time(database: Database) -> None:
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


# Keys

GOOD_KEYS = ["a", "x" * 255, "'\"; drop table app.idempotency_keys; -- %s $$ \\ {}", "null", "0", "a b", "a,b", "~!@#"]
BAD_KEYS = ["", "x" * 256, "x" * 5000, "é", "a\xa0b", "a\tb", "\xff"]


@through_both_doors
@pytest.mark.parametrize("key", GOOD_KEYS, ids=lambda key: key[:20])
def test_a_key_may_be_any_printable_ascii(project: Project, key: str) -> None:
    user = project.database.member()
    token, body = project.token(user), CANCEL.body(project, user)
    first = accepted(CANCEL, CANCEL.send(project, token, body, key=key))
    with project.unchanged():
        assert accepted(CANCEL, CANCEL.send(project, token, body, key=key)) == first
    [row] = project.database.all("select key from app.idempotency_keys where actor = %s", (f"user:{user.id}",))
    assert row["key"] == key


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@every_move
@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key)[:20])
def test_a_key_that_is_none(project: Project, move: Move, key: str) -> None:
    """The database is not asked: it would refuse this caller."""
    body = move.body(project, project.database.member())
    token = project.token(project.database.user(None))
    with project.unchanged():
        response = move.send(project, token, body, key=key)
    assert refusal(response, 400, "invalid_idempotency_key") == {}


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("key", [" ", "a\nb", "a\r\nx-request-id: b", "a\x01", "\0", "\x7f", "ключ", "🛑"], ids=repr)
def test_a_key_that_no_http_server_would_pass_on(project: Project, key: str) -> None:
    """In a cloud function's event it may be there all the same."""
    response = ask_directly(project, key)
    assert (response[0], b'"invalid_idempotency_key"' in response[1]) == (400, True)


@through_both_doors
def test_white_space_around_a_key_is_not_its_own(project: Project) -> None:
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
def test_the_database_refuses_a_key_that_is_too_long_and_takes_an_empty_one_for_none(database: Database) -> None:
    user = database.member()
    arguments = arguments_of(CANCEL, database, user)
    with Keyed(database, user, "☃" * 256) as session:
        refused = session.refusal(CANCEL.rpc, **arguments)
        assert (refused.sqlstate, refused.code) == ("PT400", "invalid_idempotency_key")
        session.carry("")
        assert session.call(CANCEL.rpc, **arguments)["status"] == "cancelled"
        assert session.refusal(CANCEL.rpc, **arguments).code == "not_cancellable"
        session.carry("☃" * 255)
        session.call(CANCEL.rpc, **arguments_of(CANCEL, database, user))
    assert [row["key"] for row in database.all("select key from app.idempotency_keys")] == ["☃" * 255]


@through_both_doors
@pytest.mark.parametrize("key", [KEY, "", "x" * 256])
def test_a_read_does_not_look_at_a_key(project: Project, key: str) -> None:
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


# Who is asking


@every_move
def test_who_has_signed_out_is_not_answered(project: Project, move: Move) -> None:
    user = project.database.member()
    token, body = project.token(user), move.body(project, user)
    first = accepted(move, move.send(project, token, body))
    project.auth.sign_out(token)
    with project.unchanged():
        assert refusal(move.send(project, token, body), 401, "revoked_token") == {}
    again = project.auth.sign_in(user.id)
    with project.unchanged():
        assert accepted(move, move.send(project, again, body)) == first


@through_both_doors
@every_move
def test_who_has_changed_agency_does_not_see_the_old_answer(project: Project, move: Move) -> None:
    user = project.database.member()
    token, body = project.token(user), move.body(project, user)
    first = accepted(move, move.send(project, token, body))
    moved = "update public.users set agency_id = %s where id = %s"
    project.database.admin.execute(moved, (project.database.agency(), user.id))
    code = "connection_of_another_agency" if move is START else "job_of_another_agency"
    with project.unchanged():
        assert refusal(move.send(project, token, body), 403, code) == {}
    project.database.admin.execute(moved, (None, user.id))
    refusal(move.send(project, token, body), 403, "no_agency")
    project.database.admin.execute(moved, (user.agency_id, user.id))
    assert accepted(move, move.send(project, token, body)) == first


@pytest.mark.sql
def test_nobody_reads_or_changes_anothers_answers(database: Database) -> None:
    user = database.member()
    colleague, stranger, nobody = database.user(user.agency_id), database.member(), database.user(None)
    with Keyed(database, user) as session:
        session.call(START.rpc, **arguments_of(START, database, user))
        assert len(session.execute("select * from app.idempotency_keys")) == 1
    before = database.fingerprint()
    for other in (colleague, stranger):
        with database.session(other.claims) as session:
            assert session.execute("select * from app.idempotency_keys") == []
            assert session.execute("delete from app.idempotency_keys returning id") == []
            assert not reads(session, "select * from app.idempotency_keys for update")
    for claims in (nobody.claims, user.claims | {"session_id": stranger.session_id}):
        with database.session(claims, "authenticated") as session:
            assert not reads(session, "select * from app.idempotency_keys")
            assert not reads(session, "delete from app.idempotency_keys returning id")
    with database.session({"role": "anon"}) as session:
        assert not reads(session, "select * from app.idempotency_keys")
    assert database.fingerprint() == before


def reads(session: Session, query: str) -> bool:
    found = session.attempt(query)
    return not isinstance(found, ErrorSpec) and found != []


@pytest.mark.sql
def test_nobody_remembers_in_anothers_name(database: Database) -> None:
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
            refused = session.attempt(query, (agency_id, actor))
            assert isinstance(refused, ErrorSpec)
            assert refused.sqlstate == "42501"
    assert database.fingerprint() == before


@pytest.mark.sql
def test_a_trusted_server_has_keys_too(database: Database) -> None:
    user = database.member()
    job_id = database.start(user)
    with database.worker() as service:
        service.execute("select set_config('request.headers', %s, false)", ('{"idempotency-key": "k"}',))
        first = service.call("cancel_sync_job", job_id=job_id)
        assert service.call("cancel_sync_job", job_id=job_id) == first
        assert service.refusal("cancel_sync_job", job_id=job_id, reason="x").code == "idempotency_key_reused"
    with Keyed(database, user, "k") as session:
        assert session.refusal("cancel_sync_job", job_id=job_id).code == "not_cancellable"


# An answer that was lost


@pytest.mark.parametrize("setup", BOTH_TRANSPORTS, ids=str)
@every_move
def test_an_answer_lost_on_its_way_from_the_database_can_be_asked_for_again(
    projects: Projects, setup: Setup, move: Move
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
            token, body = project.token(user), move.body(project, user)
            with one_move(project, user):
                proxy.lose_answer(move.rpc.encode())
                refusal(move.send(project, token, body), 503, "database_unavailable")
                assert proxy.lost == 1

                def again() -> bytes | None:
                    """The first may still be under way."""
                    response = move.send(project, token, body)
                    if response.status_code == 409:
                        refusal(response, 409, "idempotency_key_in_use")
                        return None
                    return accepted(move, response)

                answer = until(again)
                assert accepted(move, move.send(project, token, body)) == answer
    database.check_invariants()
