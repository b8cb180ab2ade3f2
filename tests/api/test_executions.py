"""Executions of bulk and model syncs: at most one active per sync, status before, during and after, and lists."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import TRANSITIONS_TO
from tests.support.project import both_transports, expect_error, one_transport
from tests.support.syncs import (
    BULK,
    MODEL_SYNC,
    STARTED,
    UNKNOWN,
    Client,
    StepWorker,
    TableSource,
    accepted,
    at_once,
    make_model,
    run,
    walk,
)
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.support.database import Database
    from tests.support.project import Project
    from tests.support.syncs import Family

each_family = pytest.mark.parametrize("family", STARTED, ids=str)

PUBLIC_STATUS = {
    "queued": "created",
    "requeued": "running",
    "running": "running",
    "cancelling": "canceling",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "canceled",
}
ENDED = {"completed", "failed", "cancelled"}


@pytest.fixture(scope="module")
def table_source() -> Iterator[TableSource]:
    with TableSource() as running:
        yield running


def client_of(project: Project, family: Family) -> Client:
    return Client(project, family, project.database.member())


def readable(client: Client, table_source: TableSource) -> str:
    """Create a sync that reads three records."""
    table_source.put("airlines", *({"id": n, "code": f"c{n}", "name": f"n{n}"} for n in range(3)))
    connection_id = client.database.connection(client.user.agency_id, config=table_source.config("airlines"))
    if client.family is BULK:
        return client.made(source_connection_id=connection_id)
    model_id = make_model(client, connection_id, "airlines", ["code", "name"])
    fields = [{"source": {"model_id": model_id, "field": "name"}, "target": "title"}]
    identity = {"source": {"model_id": model_id, "field": "code"}, "target": "code", "function": "Equality"}
    return client.made(fields=fields, identity=identity)


def put(client: Client, sync_id: str, status: str) -> str:
    """Start an execution of this sync and bring it to this status."""
    execution_id = client.started(sync_id)
    transitions = [
        ("request_cancel", "cancelling") if transition[0] == "cancel" else transition
        for transition in TRANSITIONS_TO[status]
    ]
    client.database.transition(execution_id, *transitions)
    if status == "cancelled":
        client.database.transition(execution_id, ("acknowledge", "cancelled"))
    return execution_id


# Start


@both_transports
@each_family
def test_start_sync__queues_one_execution(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    response = client.start(sync_id, {}, headers={"x-request-id": "req-7"})
    execution = accepted(response, family.execution)
    assert (execution["status"], execution["type"], execution["version"]) == ("created", "manual", "0")
    assert execution["started_at"] is execution["completed_at"] is None
    assert dt.datetime.fromisoformat(execution["created_at"]).tzinfo is not None
    row = project.database.execution(execution["id"])
    assert (row["family"], str(row["definition_id"]), row["concurrency_key"]) == (family.kind, sync_id, sync_id)
    assert (row["status"], row["created_by"]) == ("queued", f"user:{client.user.id}")
    [event] = project.database.events(execution["id"])
    assert (event["event"], event["request_id"]) == ("start", "req-7")


@one_transport
@each_family
@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b" {} ", b'{"test": null}', b'{"test": false}', b'{"resync": null}', b'{"resync": false}'],
    ids=lambda content: content.decode() or "no body",
)
def test_start_sync__body_is_optional(project: Project, family: Family, content: bytes) -> None:
    client = client_of(project, family)
    headers = {"content-type": "application/json"}
    accepted(client.start(client.made(), content=content, headers=headers), family.execution)


BAD_BODIES: dict[str, tuple[bytes, int, str]] = {
    "array": (b"[]", 400, "invalid_request"),
    "null": (b"null", 400, "invalid_request"),
    "not JSON": (b"{test: 1}", 400, "invalid_json"),
    "not UTF-8": (b'{"a": "\xff"}', 400, "invalid_json"),
    "UTF-16": ("{}".encode("utf-16"), 400, "invalid_json"),
    "deeply nested, unclosed": (b'{"test": ' + b"[" * 100_000, 400, "invalid_json"),
    "deeply nested, closed": (b'{"test": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "invalid_json"),
    "too large": (b" " * (1024 * 1024 + 1), 413, "body_too_large"),
    "string": (b'{"test": "x"}', 400, "invalid_field"),
    "NaN": (b'{"test": NaN}', 400, "invalid_field"),
    "number of 5,000 digits": (b'{"test": ' + b"1" * 5000 + b"}", 400, "invalid_json"),
}


@one_transport
@each_family
@pytest.mark.parametrize("name", BAD_BODIES)
def test_start_sync__invalid_body(project: Project, family: Family, name: str) -> None:
    content, status, code = BAD_BODIES[name]
    client = client_of(project, family)
    sync_id = client.made()
    with project.unchanged():
        response = client.start(sync_id, content=content)
    assert expect_error(response, status, code) == ({"field": "test"} if code == "invalid_field" else {})
    assert len(response.content) < 1000


@one_transport
@each_family
def test_start_sync__names_all_unsupported_members(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    body: dict[str, Any] = {"test": True, "nonsense": 1, "zz": None}
    body |= {"resync": True, "resync_mode": "rebuild", "fetch_mode": "incremental"} if family is BULK else {}
    body |= {"identities": ["a"], "source_identities": [1]} if family is MODEL_SYNC else {}
    with project.unchanged():
        fields = expect_error(client.start(sync_id, body), 422, "unsupported_field")["fields"]
    assert sorted(fields) == sorted(body)


@one_transport
@each_family
@pytest.mark.parametrize("status", ["queued", "requeued", "running", "cancelling"])
def test_start_sync__already_active(project: Project, family: Family, status: str) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    active, colleague = put(client, sync_id, status), client.colleague()
    with project.unchanged():
        response = colleague.start(sync_id)
    assert expect_error(response, 409, "already_active") == {"job_id": active}


@one_transport
@each_family
@pytest.mark.parametrize("status", sorted(ENDED))
def test_start_sync__after_the_previous_execution_ended(project: Project, family: Family, status: str) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    assert put(client, sync_id, status) != client.started(sync_id)


@one_transport
@each_family
def test_start_sync__two_syncs_run_side_by_side(project: Project, family: Family) -> None:
    client = client_of(project, family)
    body = client.body()
    for name in ("A", "B"):
        client.started(accepted(client.create({**body, "name": name}), family.one)["id"])


@both_transports
@each_family
def test_start_sync__concurrent_calls_start_once(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    responses = project.concurrently(lambda: client.start(sync_id))
    [execution_id] = [accepted(response, family.execution)["id"] for response in responses if response.is_success]
    for response in responses:
        if response.status_code != 200:
            assert expect_error(response, 409, "already_active") == {"job_id": execution_id}
    assert walk(client, f"/{sync_id}/executions") == [[execution_id]]


@both_transports
@each_family
def test_start_sync__repeated_with_an_idempotency_key(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id, key = client.made(), {"idempotency-key": str(uuid.uuid4())}
    first = accepted(client.start(sync_id, headers=key), family.execution)
    project.database.transition(first["id"], *TRANSITIONS_TO["completed"])
    with project.unchanged():
        assert accepted(client.start(sync_id, {}, headers=key), family.execution) == first
    other = client.made()
    with project.unchanged():
        expect_error(client.start(other, headers=key), 422, "idempotency_key_reused")
    if family is BULK:
        with project.unchanged():
            expect_error(client.start(sync_id, {"schemas": ["flights"]}, headers=key), 422, "idempotency_key_reused")
    assert walk(client, f"/{sync_id}/executions") == [[first["id"]]]


@both_transports
@each_family
def test_start_sync__concurrent_calls_with_one_idempotency_key(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id, key = client.made(), {"idempotency-key": "k"}
    responses = project.concurrently(lambda: client.start(sync_id, headers=key))
    [execution_id] = {accepted(response, family.execution)["id"] for response in responses if response.is_success}
    for response in responses:
        if response.status_code != 200:
            expect_error(response, 409, "idempotency_key_in_use")
    assert walk(client, f"/{sync_id}/executions") == [[execution_id]]


# Delete


def active(database: Database, sync_id: str) -> list[dict[str, Any]]:
    return database.all("select id from app.executions where definition_id = %s and finished_at is null", (sync_id,))


@both_transports
@each_family
def test_delete_sync__concurrent_with_starts_leaves_nothing_active(project: Project, family: Family) -> None:
    client = client_of(project, family)
    body = client.body()
    seen = set()
    for _ in range(25):
        sync_id = accepted(client.create(body), family.one)["id"]

        def start(sync_id: str = sync_id) -> httpx.Response:
            return client.start(sync_id)

        def delete(sync_id: str = sync_id) -> httpx.Response:
            return client.request("DELETE", f"/{sync_id}")

        *starts, deleted = at_once(start, start, start, delete)
        assert deleted.status_code == 204, deleted.text
        assert active(project.database, sync_id) == []
        ids = [accepted(response, family.execution)["id"] for response in starts if response.is_success]
        assert len(ids) <= 1
        for response in starts:
            if response.status_code == 404:
                expect_error(response, 404, f"{family}_not_found")
            elif response.status_code != 200:
                assert expect_error(response, 409, "already_active") == {"job_id": ids[0]}
        for execution_id in ids:
            row = project.database.execution(execution_id)
            assert (row["status"], row["cancel_reason"]) == ("cancelled", "deleted")
        seen |= {response.status_code for response in starts}
    assert {200, 404} & seen


@one_transport
@each_family
def test_delete_sync__waits_for_an_open_start_and_cancels_it(project: Project, family: Family) -> None:
    """The start's transaction is open when the deletion arrives. The deletion waits and cancels the execution."""
    client = client_of(project, family)
    sync_id = client.made()
    with project.database.session(client.user.claims) as starter:
        starter.execute("begin")
        started = starter.call(f"start_{family}", sync_id=sync_id)["data"]["id"]
        response = call_that_waits(
            project, lambda: client.request("DELETE", f"/{sync_id}"), lambda: starter.execute("commit")
        )
    assert response.status_code == 204
    assert project.database.execution(started)["status"] == "cancelled"


@one_transport
@each_family
def test_start_sync__waits_for_an_open_deletion_and_fails(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    with project.database.session(client.user.claims) as deleter:
        deleter.execute("begin")
        deleter.call(f"delete_{family}", sync_id=sync_id)
        response = call_that_waits(project, lambda: client.start(sync_id), lambda: deleter.execute("commit"))
    assert expect_error(response, 404, f"{family}_not_found") == {}
    assert active(project.database, sync_id) == []


def call_that_waits(project: Project, call: Any, release: Any) -> httpx.Response:
    """Make a call, call `release` once it waits for a lock, and return its response."""
    responses: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: responses.append(call()))
    thread.start()
    until(lambda: project.database.all("select from pg_locks where not granted"))
    release()
    thread.join()
    return responses[0]


@both_transports
@each_family
def test_delete_sync__cancels_a_queued_execution(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    execution_id = client.started(sync_id)
    assert client.request("DELETE", f"/{sync_id}").status_code == 204
    row = project.database.execution(execution_id)
    assert (row["status"], row["cancelled_by"], row["cancel_reason"]) == (
        "cancelled",
        f"user:{client.user.id}",
        "deleted",
    )


@both_transports
@each_family
def test_delete_sync__requests_cancel_of_a_running_execution(
    project: Project, family: Family, table_source: TableSource
) -> None:
    """The worker learns of the cancel at its next heartbeat or commit; later batches are not stored."""
    client = client_of(project, family)
    sync_id = readable(client, table_source)
    execution_id = client.started(sync_id)
    with StepWorker(project.database, execution_id) as step_worker:
        assert step_worker.steps(1) == "continue"
        assert client.request("DELETE", f"/{sync_id}").status_code == 204
        assert project.database.execution(execution_id)["status"] == "cancelling"
        assert step_worker.call("worker_heartbeat") == "cancel"
        assert step_worker.call("worker_release") == "cancelled"
        batch = step_worker.batch()
        assert batch is not None
        with project.unchanged():
            assert step_worker.commit(batch) == "lost"


@both_transports
@each_family
def test_delete_sync__keeps_the_deadline_of_a_cancelling_execution(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    execution_id = put(client, sync_id, "cancelling")
    before = project.database.execution(execution_id)
    assert client.request("DELETE", f"/{sync_id}").status_code == 204
    assert project.database.execution(execution_id) == before
    project.database.update(execution_id, status="cancelled", event="acknowledge")


# Cancel


@both_transports
@each_family
def test_cancel_sync__repeated_with_an_idempotency_key_after_a_new_start(project: Project, family: Family) -> None:
    """A repeated request returns the stored response byte for byte and does not cancel the execution started since."""
    client = client_of(project, family)
    sync_id, key = client.made(), {"idempotency-key": str(uuid.uuid4())}
    first = client.started(sync_id)

    def cancel(**options: Any) -> httpx.Response:
        response = client.request("POST", f"/{sync_id}/cancel", **options)
        assert response.status_code == 200, response.text
        return response

    response = cancel(headers=key)
    assert response.json()["data"]["execution_id"] == first
    second = client.started(sync_id)
    for transition in (None, ("claim", "running")):
        if transition:
            project.database.transition(second, transition)
        before = project.database.execution(second), project.database.events(second)
        with project.unchanged():
            assert cancel(headers=key).content == response.content
        assert (project.database.execution(second), project.database.events(second)) == before
    assert project.database.execution(first)["status"] == "cancelled"
    assert cancel().json()["data"]["execution_id"] == second
    assert project.database.execution(second)["status"] == "cancelling"
    with project.unchanged():
        assert cancel(headers=key).content == response.content


# Get


@both_transports
@each_family
@pytest.mark.parametrize("status", PUBLIC_STATUS)
def test_get_sync_execution__in_each_status(project: Project, family: Family, status: str) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    execution_id = put(client, sync_id, status)
    with project.unchanged():
        shown = client.execution(sync_id, execution_id)
    assert (shown["id"], shown["status"]) == (execution_id, PUBLIC_STATUS[status])
    assert (shown["started_at"] is None) == (status == "queued")
    assert (shown["completed_at"] is None) == (status not in ENDED)
    assert (shown["cancel_requested_at"] is None) == (status not in {"cancelling", "cancelled"})
    assert (shown["cancel_deadline"] is None) == (status != "cancelling")
    assert (shown["cancelled_by"] is None) == (shown["cancel_requested_at"] is None)
    assert client.status(sync_id)["current_execution"] == shown
    assert client.request("GET", f"/{sync_id}/executions").json()["data"] == [shown]


@both_transports
@each_family
def test_sync_endpoints__responses_equal_those_of_the_database(
    project: Project, family: Family, table_source: TableSource
) -> None:
    client = client_of(project, family)
    sync_id = readable(client, table_source)
    execution_id = client.started(sync_id)
    run(project.database, execution_id)
    with project.database.session(client.user.claims) as session:
        execution = session.call(f"get_{family}_execution", sync_id=sync_id, execution_id=execution_id)
        status = session.call(f"get_{family}_status", sync_id=sync_id)
        listed = session.call(f"list_{family}_executions", sync_id=sync_id)
        sync = session.call(f"get_{family}", sync_id=sync_id)
        syncs = session.call(f"list_{family}s")
    assert client.execution(sync_id, execution_id) == execution["data"]
    assert client.status(sync_id) == status["data"]
    assert client.request("GET", f"/{sync_id}/executions").json() == listed
    assert client.request("GET", f"/{sync_id}").json() == sync
    assert client.request("GET").json() == syncs


@both_transports
@each_family
def test_get_sync_execution__execution_of_another_sync(project: Project, family: Family) -> None:
    client, stranger = client_of(project, family), client_of(project, family)
    mine, other, theirs = client.made(), client.made(), stranger.made()
    of_other, of_theirs = client.started(other), stranger.started(theirs)
    for execution_id in (of_other, of_theirs, UNKNOWN, mine):
        with project.unchanged():
            response = client.request("GET", f"/{mine}/executions/{execution_id}")
        assert expect_error(response, 404, "execution_not_found") == {}
    assert expect_error(client.request("GET", f"/{theirs}/executions/{of_theirs}"), 404, f"{family}_not_found") == {}


# Status


@both_transports
@each_family
def test_get_sync_status__from_no_execution_to_the_next(
    project: Project, family: Family, table_source: TableSource
) -> None:
    client = client_of(project, family)
    sync_id = readable(client, table_source)
    rest = {"next_execution_time": None} | ({"ingestion_status": None} if family is BULK else {})

    def current_and_last() -> tuple[Any, Any]:
        with project.unchanged():
            shown = client.status(sync_id)
        assert {n: v for n, v in shown.items() if n not in {"current_execution", "last_execution"}} == rest
        current, last = shown["current_execution"], shown["last_execution"]
        return current and (current["id"], current["status"]), last and (last["id"], last["status"])

    assert current_and_last() == (None, None)
    first = client.started(sync_id)
    assert current_and_last() == ((first, "created"), None)
    with StepWorker(project.database, first) as step_worker:
        assert current_and_last() == ((first, "running"), None)
        step_worker.steps(1)
        assert current_and_last() == ((first, "running"), None)
        step_worker.rest()
    assert current_and_last() == ((first, "completed"), (first, "completed"))
    second = client.started(sync_id)
    assert current_and_last() == ((second, "created"), (first, "completed"))
    with StepWorker(project.database, second) as step_worker:
        assert current_and_last() == ((second, "running"), (first, "completed"))
        assert step_worker.fails(retry=True) == "queued"
        assert current_and_last() == ((second, "running"), (first, "completed"))
    project.database.admin.execute("set session_replication_role = replica")
    project.database.admin.execute("update app.executions set run_at = now() where id = %s", (second,))
    project.database.admin.execute("set session_replication_role = origin")
    with StepWorker(project.database, second) as step_worker:
        assert step_worker.fails() == "failed"
    assert current_and_last() == ((second, "failed"), (second, "failed"))
    third = client.started(sync_id)
    assert client.request("POST", f"/{sync_id}/cancel").status_code == 200
    assert current_and_last() == ((third, "canceled"), (third, "canceled"))


# Lists


def history(client: Client, sync_id: str, count: int) -> list[str]:
    """Start `count` executions, all but the newest cancelled, and return their ids, oldest first."""
    made: list[str] = []
    with client.database.session(client.user.claims) as session:
        while len(made) < count:
            if made:
                client.database.transition(made[-1], ("request_cancel", "cancelled"))
            made.append(session.call(f"start_{client.family}", sync_id=sync_id)["data"]["id"])
    return made


@one_transport
@each_family
def test_list_sync_executions__page_size_and_order(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    path = f"/{sync_id}/executions"
    assert walk(client, path) == walk(client, path, ascending="true") == [[]]
    oldest_first = history(client, sync_id, 101)
    newest_first = oldest_first[::-1]
    for limit in (None, 0, -1, 101, 2**31 - 1, -(2**31), 100):
        query: dict[str, Any] = {} if limit is None else {"limit": limit}
        assert walk(client, path, **query) == [newest_first[:100], newest_first[100:]], limit
    assert walk(client, path, limit=34) == [newest_first[:34], newest_first[34:68], newest_first[68:]]
    assert walk(client, path, limit=51, ascending="true") == [oldest_first[:51], oldest_first[51:]]
    assert walk(client, path, limit=51, ascending="false") == [newest_first[:51], newest_first[51:]]
    ended = {family.only_ended: "true"}
    assert walk(client, path, **ended) == [newest_first[1:]]
    assert walk(client, path, limit=99, ascending="true", **ended) == [oldest_first[:99], oldest_first[99:-1]]
    expect_error(client.request("GET", path, params={"limit": 2**31}), 400, "invalid_field")


@one_transport
@each_family
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_list_sync_executions__walk_during_starts_and_ends(project: Project, family: Family, size: int) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    existing = history(client, sync_id, 8)
    newest = existing[-1]
    for ascending in (False, True):
        walked: list[str] = []
        query: dict[str, Any] = {"limit": size, "ascending": str(ascending).lower()}
        while query.get("page_token") != "":
            page = client.request("GET", f"/{sync_id}/executions", params=query).json()
            walked += [execution["id"] for execution in page["data"]]
            query["page_token"] = page["pagination"]["next_page_token"]
            if len(walked) < 20:
                project.database.transition(newest, ("request_cancel", "cancelled"))
                newest = client.started(sync_id)
        assert walked == sorted(walked, reverse=not ascending)
        assert len(set(walked)) == len(walked)
        assert set(existing) <= set(walked)


@both_transports
@each_family
def test_list_sync_executions__only_terminal(project: Project, family: Family) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    path, only_ended = f"/{sync_id}/executions", {family.only_ended: "true"}
    ended = [put(client, sync_id, status) for status in ("completed", "failed", "cancelled")]
    active = client.started(sync_id)
    assert walk(client, path, **only_ended) == [ended[::-1]]
    assert walk(client, path, **{family.only_ended: "false"}) == [[active, *ended[::-1]]]
    assert walk(client, path, limit=2, **only_ended) == [ended[:0:-1], ended[:1]]


@both_transports
@each_family
def test_list_sync_executions__page_token_of_another_sync(project: Project, family: Family) -> None:
    client, stranger = client_of(project, family), client_of(project, family)
    theirs, mine = stranger.made(), client.made()
    older = client.started(mine)
    token = stranger.started(theirs)

    def listed(**query: str) -> list[str]:
        response = client.request("GET", f"/{mine}/executions", params={"page_token": token, **query})
        return [execution["id"] for execution in response.json()["data"]]

    assert listed() == [older]
    assert listed(ascending="true") == []


@one_transport
@each_family
@pytest.mark.parametrize(
    "token",
    ["x", UNKNOWN[:-1], UNKNOWN + "0", UNKNOWN + "\n", f"{{{UNKNOWN}}}", "[" * 20_000, " "],
    ids=["letter", "too short", "too long", "line break", "braces", "deeply nested", "space"],
)
def test_list_sync_executions__invalid_page_token(project: Project, family: Family, token: str) -> None:
    client = client_of(project, family)
    sync_id = client.made()
    with project.unchanged():
        response = client.request("GET", f"/{sync_id}/executions", params={"page_token": token})
    assert expect_error(response, 400, "invalid_page_token") == {}


@one_transport
@each_family
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "x"),
        ("limit", ""),
        ("ascending", "x"),
        ("ascending", ""),
        ("only_ended", "null"),
        ("page_token", "\0"),
    ],
    ids=repr,
)
def test_list_sync_executions__invalid_query(project: Project, family: Family, name: str, value: str) -> None:
    client = client_of(project, family)
    name = family.only_ended if name == "only_ended" else name
    sync_id = client.made()
    with project.unchanged():
        response = client.request("GET", f"/{sync_id}/executions", params={name: value})
    assert expect_error(response, 400, "invalid_field") == {"field": name}
