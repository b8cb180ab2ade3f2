"""/sync-job: creation, update and deletion of sync jobs, dependencies of resources, and the lists of this API."""

from __future__ import annotations

import http.client
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared.http import PREFIX
from functions.sync_job.delete_sync_job import SyncJobDeleted
from functions.sync_job.get_sync_job import SyncJob
from functions.sync_job.list_sync_jobs import SyncJobs
from functions.sync_job_run.list_sync_job_runs import SyncJobRuns
from functions.webhook.list_webhooks import Webhooks
from tests.support.project import Project, both_transports, expect_error, one_transport
from tests.support.sync_job_runs import ACCOUNTS, LIST_ACCOUNTS, LIST_CONTACTS, Client, accepted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx
    from pydantic import BaseModel

UNKNOWN = "00000000-0000-4000-8000-000000000000"
NODE = {"resource": "plain", "method": "list"}


@pytest.fixture
def client(project: Project) -> Client:
    return Client(project, project.database.member())


def create(client: Client, **members: Any) -> httpx.Response:
    return client.request("POST", "/sync-job", json={"resources": [NODE], **members})


def change(client: Client, job_id: str, **members: Any) -> httpx.Response:
    return client.request("PATCH", f"/sync-job/{job_id}", json=members)


@both_transports
def test_create_sync_job__returns_the_request_and_defaults(client: Client) -> None:
    made = accepted(create(client), SyncJob)
    assert made == {
        "id": made["id"],
        "label": "Untitled",
        "integration_name": "",
        "environment_id": client.user.agency_id,
        "args_schema": {},
        "resources": [NODE],
        "default_runtime_version": 3,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    given = {
        "label": "Contacts ☺",
        "integration_name": "zendesk",
        "args_schema": {"type": "object", "properties": {"since": {"type": "string", "required": True}}},
        "resources": [LIST_ACCOUNTS, {**LIST_CONTACTS, "persist": True, "loop_on": "args.ids"}],
        "default_runtime_version": 2,
        "environment_id": client.user.agency_id,
    }
    full = accepted(create(client, **given), SyncJob)
    assert {name: full[name] for name in given} == given
    for job in (made, full):
        assert accepted(client.request("GET", f"/sync-job/{job['id']}"), SyncJob) == job
    assert accepted(client.request("GET", "/sync-job"), SyncJobs)["result"] == [full, made]


@both_transports
def test_update_sync_job__changes_the_given_members_and_no_run(client: Client) -> None:
    job = client.job(LIST_ACCOUNTS, label="A", args_schema={"a": {"type": "string"}})
    run = client.run(job["id"], client.account())
    for changes in (
        {"label": "B"},
        {"integration_name": "zendesk"},
        {"resources": [NODE, {**NODE, "persist": True}]},
        {"args_schema": {"b": {"type": "number", "required": True}}},
        {"default_runtime_version": 2},
        {},
        {"label": None, "resources": None},
    ):
        job |= {name: value for name, value in changes.items() if value is not None}
        changed = accepted(change(client, job["id"], **changes), SyncJob)
        assert changed == {**job, "updated_at": changed["updated_at"]}
        job = changed
    shown = client.get(run["id"])
    assert (shown["resources"], shown["args"], shown["version"]) == ([LIST_ACCOUNTS], {}, 3)
    assert shown["sync_job"] == job


@both_transports
def test_update_sync_job__concurrent_calls_all_succeed(client: Client) -> None:
    """Concurrent updates do not deadlock."""
    job_id = client.job()["id"]
    responses = client.project.concurrently(lambda: change(client, job_id, label="X"))
    assert {response.status_code for response in responses} == {200}


@both_transports
def test_delete_sync_job__stops_its_runs(client: Client) -> None:
    job, other, account = client.job(), client.job(), client.account()
    runs = [client.run(job["id"], account)["id"] for _ in range(4)]
    unaffected = client.run(other["id"], account)["id"]
    client.database.transition(runs[1], ("claim", "running"))
    client.database.transition(runs[2], ("claim", "running"), ("release", "queued"))
    client.database.transition(runs[3], ("claim", "running"), ("fail", "failed"))
    assert accepted(client.request("DELETE", f"/sync-job/{job['id']}"), SyncJobDeleted) == {"id": job["id"]}
    assert [client.get(run)["status"] for run in (*runs, unaffected)] == [*["stopped"] * 3, "failed", "created"]
    for run in runs[:3]:
        event = client.database.events(run)[-1]
        values = event["event"], event["actor"], event["reason"]
        assert values == ("cancel", f"user:{client.user.id}", "sync job deleted")
    shown = client.get(runs[0])["sync_job"]  # the runs stay and still show their job
    assert shown == {**job, "updated_at": shown["updated_at"]}
    for response in (
        client.request("GET", f"/sync-job/{job['id']}"),
        change(client, job["id"], label="X"),
        client.request("DELETE", f"/sync-job/{job['id']}"),
        client.start(job["id"], account),
    ):
        expect_error(response, 404, "sync_job_not_found")
    assert [listed["id"] for listed in client.request("GET", "/sync-job").json()["result"]] == [other["id"]]


@both_transports
def test_create_sync_job__repeated_with_an_idempotency_key(client: Client) -> None:
    headers = {"idempotency-key": "k"}
    body = {"resources": [NODE], "label": "A"}
    first = client.request("POST", "/sync-job", json=body, headers=headers)
    again = client.request("POST", "/sync-job", json=body, headers=headers)
    assert first.json() == again.json()
    expect_error(
        client.request("POST", "/sync-job", json={**body, "label": "B"}, headers=headers), 422, "idempotency_key_reused"
    )
    assert len(client.request("GET", "/sync-job").json()["result"]) == 1
    other = client.other().request("POST", "/sync-job", json=body, headers=headers).json()
    assert other["id"] != first.json()["id"]


@both_transports
def test_sync_job_endpoints__rejected_callers_and_unknown_ids(client: Client, project: Project) -> None:
    job_id = client.job()["id"]
    stranger, without_agency = client.other(), Client(project, project.database.user(None))
    job_path = f"/sync-job/{job_id}"
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/sync-job", {}),
        ("POST", "/sync-job", {"json": {"resources": [NODE]}}),
        ("GET", job_path, {}),
        ("PATCH", job_path, {"json": {"label": "X"}}),
        ("DELETE", job_path, {}),
    ]
    unknown_ids = [str(uuid.uuid4()), project.database.bulk_sync(client.user)]
    with project.unchanged():
        for method, path, body in calls:
            expect_error(project.request(method, path, **body), 401, "missing_token")
            expect_error(project.request(method, path, "not-a-token", **body), 401, "invalid_token")
            expect_error(without_agency.request(method, path, **body), 403, "no_agency")
            if path == job_path:
                expect_error(stranger.request(method, path, **body), 404, "sync_job_not_found")
                for malformed in ("x", "%00", "0" * 36, "2" * 4000):
                    expect_error(client.request(method, f"/sync-job/{malformed}", **body), 404, "not_found")
                for unknown_id in unknown_ids:
                    unknown_path = path.replace(job_id, unknown_id)
                    expect_error(client.request(method, unknown_path, **body), 404, "sync_job_not_found")
        assert stranger.request("GET", "/sync-job").json()["result"] == []


@both_transports
def test_sync_job_endpoints__api_key(client: Client, project: Project) -> None:
    key = project.database.api_key(client.user)
    made = project.request("POST", "/sync-job", key, json={"resources": [NODE]})
    job_id = accepted(made, SyncJob)["id"]
    assert project.request("PATCH", f"/sync-job/{job_id}", key, json={"label": "X"}).json()["label"] == "X"
    assert project.request("GET", f"/sync-job/{job_id}", key).json()["label"] == "X"
    assert project.request("GET", "/sync-job", key).json()["result"][0]["id"] == job_id
    assert project.request("DELETE", f"/sync-job/{job_id}", key).json() == {"id": job_id}


@one_transport
def test_sync_job_endpoints__method_not_allowed(client: Client) -> None:
    for path, methods in {"/sync-job": "GET, POST", f"/sync-job/{uuid.uuid4()}": "DELETE, GET, PATCH"}.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {*methods.split(", ")}:
            response = client.request(method, path, content=b"{}")
            expect_error(response, 405, "method_not_allowed")
            assert response.headers["allow"] == f"{methods}, OPTIONS"


# Invalid definitions


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


BAD: dict[str, tuple[dict[str, Any], int, str, dict[str, Any]]] = {
    "resources null": ({"resources": None}, 400, "invalid_field", {"field": "resources"}),
    "resources empty": ({"resources": []}, 400, "invalid_field", {"field": "resources"}),
    "resources an object": ({"resources": {}}, 400, "invalid_field", {"field": "resources"}),
    "too many resources": ({"resources": [NODE] * 101}, 400, "invalid_field", {"field": "resources"}),
    "resource a string": ({"resources": ["x"]}, 400, "invalid_field", {"field": "resources.0"}),
    "resource without name": (
        {"resources": [{"method": "list"}]},
        400,
        "missing_field",
        {"field": "resources.0.resource"},
    ),
    "resource without method": (
        {"resources": [{"resource": "a"}]},
        400,
        "missing_field",
        {"field": "resources.0.method"},
    ),
    "name empty": ({"resources": [{**NODE, "resource": ""}]}, 400, "invalid_field", {"field": "resources.0.resource"}),
    "name too long": (
        {"resources": [{**NODE, "resource": "a" * 201}]},
        400,
        "invalid_field",
        {"field": "resources.0.resource"},
    ),
    "persist a string": (
        {"resources": [{**NODE, "persist": "yes"}]},
        400,
        "invalid_field",
        {"field": "resources.0.persist"},
    ),
    "query a list": ({"resources": [{**NODE, "query": []}]}, 400, "invalid_field", {"field": "resources.0.query"}),
    "id a number": ({"resources": [{**NODE, "id": 1}]}, 400, "invalid_field", {"field": "resources.0.id"}),
    "name with NUL": (
        {"resources": [{**NODE, "resource": "a\0"}]},
        400,
        "invalid_field",
        {"field": "resources.0.resource"},
    ),
    "query value with NUL": (
        {"resources": [{**NODE, "query": {"a": ["\0"]}}]},
        400,
        "invalid_field",
        {"field": "resources.0.query"},
    ),
    "query name with NUL": (
        {"resources": [{**NODE, "query": {"a\0": 1}}]},
        400,
        "invalid_field",
        {"field": "resources.0.query"},
    ),
    "args_schema with NUL": (
        {"args_schema": {"a": {"description": "\0"}}},
        400,
        "invalid_field",
        {"field": "args_schema"},
    ),
    "method create": (
        {"resources": [{**NODE, "method": "create"}]},
        422,
        "unsupported_field",
        {"fields": ["resources.0.method"]},
    ),
    "get without id": ({"resources": [{**NODE, "method": "get"}]}, 400, "invalid_resources", {}),
    "get with an empty id": ({"resources": [{**NODE, "method": "get", "id": ""}]}, 400, "invalid_resources", {}),
    "unsupported members of resources": (
        {"resources": [{**NODE, "run_if": "x", "name": "y"}, {**NODE, "debug": True}]},
        422,
        "unsupported_field",
        {"fields": ["resources.0.run_if", "resources.0.name", "resources.1.debug"]},
    ),
    "label empty": ({"label": ""}, 400, "invalid_field", {"field": "label"}),
    "label too long": ({"label": "x" * 201}, 400, "invalid_field", {"field": "label"}),
    "label with NUL": ({"label": "\0"}, 400, "invalid_field", {"field": "label"}),
    "integration_name too long": ({"integration_name": "x" * 201}, 400, "invalid_field", {"field": "integration_name"}),
    "args_schema a list": ({"args_schema": []}, 400, "invalid_field", {"field": "args_schema"}),
    "version 4": ({"default_runtime_version": 4}, 422, "unsupported_field", {"fields": ["default_runtime_version"]}),
    "version 0": ({"default_runtime_version": 0}, 422, "unsupported_field", {"fields": ["default_runtime_version"]}),
    "version a fraction": (
        {"default_runtime_version": 2.5},
        400,
        "invalid_field",
        {"field": "default_runtime_version"},
    ),
    "version a word": ({"default_runtime_version": "x"}, 400, "invalid_field", {"field": "default_runtime_version"}),
    "unsupported members": (
        {"args_validation": "$x", "mutex_key": "a", "state_key": "b", "sharing": "ask"},
        422,
        "unsupported_field",
        {"fields": ["args_validation", "mutex_key", "state_key", "sharing"]},
    ),
}


@one_transport
@pytest.mark.parametrize(("body", "status", "code", "members"), BAD.values(), ids=BAD)
def test_create_and_update_sync_job__invalid_member(
    client: Client, body: dict[str, Any], status: int, code: str, members: dict[str, Any]
) -> None:
    job = client.job()
    with client.project.unchanged():
        assert expect_error(create(client, **body), status, code) == members
        if body != {"resources": None}:
            assert expect_error(change(client, job["id"], **body), status, code) == members


@both_transports
def test_create_sync_job__members_equal_to_the_defaults(client: Client) -> None:
    defaults = {"args_validation": "", "mutex_key": "", "state_key": None}
    assert accepted(create(client, **defaults), SyncJob)["label"] == "Untitled"
    for version in (1, 2, 3, "1", "2", "3"):
        job = accepted(create(client, default_runtime_version=version), SyncJob)
        assert job["default_runtime_version"] == int(version)
    expect_error(create(client, environment_id=str(uuid.uuid4())), 403, "other_organization")
    expect_error(create(client, environment_id="x"), 400, "invalid_field")


RAW: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "missing_field"),
    "array": (b"[]", 400, "invalid_request"),
    "cut off": (b'{"resources": [', 400, "invalid_json"),
    "deeply nested": (b'{"resources": ' + b"[" * 3000 + b"]" * 3000 + b"}", 400, "invalid_json"),
    "too large": (b'{"label": "' + b"x" * 1024 * 1024 + b'"}', 413, "body_too_large"),
    "NaN": (b'{"resources": [{"resource": "a", "method": "list", "query": {"a": NaN}}]}', 400, "invalid_field"),
    "number out of range": (
        b'{"resources": [{"resource": "a", "method": "list", "query": {"a": 1e999}}]}',
        400,
        "invalid_field",
    ),
    "lone surrogate": (
        b'{"resources": [{"resource": "a", "method": "list", "query": {"a": "\\ud800"}}]}',
        400,
        "invalid_json",
    ),
}


@one_transport
@pytest.mark.parametrize(("content", "status", "code"), RAW.values(), ids=RAW)
def test_create_sync_job__invalid_body(client: Client, content: bytes, status: int, code: str) -> None:
    with client.project.unchanged():
        expect_error(client.request("POST", "/sync-job", content=content), status, code)


@both_transports
def test_create_sync_job__big_and_deep_values_are_kept(client: Client) -> None:
    schema = {"a": {"description": "x" * 100_000}, "deep": nested(60), "n": {"enum": [10**30, -0.5, 1e-7, "é\u2028"]}}
    made = accepted(create(client, args_schema=schema, resources=[{**NODE, "query": nested(50)}] * 100), SyncJob)
    assert made["args_schema"] == schema
    assert made["resources"] == [{**NODE, "query": nested(50)}] * 100


# Dependencies between resources


def node(name: str, on: str | None = None, *, single: bool = False) -> dict[str, Any]:
    made: dict[str, Any] = {"resource": name, "method": "get" if single else "list"}
    return made | ({"id": "{{x}}"} if single else {}) | ({"depends_on": on} if on else {})


CIRCLES = {
    "two": [node("a", "b"), node("b", "a")],
    "three behind a fourth": [node("a", "b"), node("b", "c"), node("c", "d"), node("d", "b")],
    "three beside a root": [node("z"), node("a", "c"), node("b", "a"), node("c", "b")],
    "same name listed and single": [node("a", "a"), node("a", "a", single=True)],
    "listed and single": [node("a", "b"), node("b", "a", single=True)],
    "a hundred": [node(str(n), str((n + 1) % 100)) for n in range(100)],
}


@one_transport
@pytest.mark.parametrize("resources", CIRCLES.values(), ids=CIRCLES)
def test_sync_job__circular_dependency(client: Client, resources: list[dict[str, Any]]) -> None:
    names = {resource["resource"] for resource in resources}
    job_id, account = client.job()["id"], client.account({"resources": {name: {} for name in names}})
    for response in (
        create(client, resources=resources),
        change(client, job_id, resources=resources),
        client.start(job_id, account, resources=resources),
    ):
        members = expect_error(response, 400, "circular_dependency")
        assert members["resource"] in names


@one_transport
@pytest.mark.parametrize(
    ("resources", "missing"),
    [
        ([node("a", "b")], "b"),
        ([node("a", "a")], "a"),
        ([node("a"), node("b", "A")], "A"),
        ([node("a"), node("b", "a ")], "a "),
        ([node("a"), node("b", "c"), node("c", "nothing")], "nothing"),
        ([node("a"), node("b", "x" * 500)], "x" * 200),
    ],
    ids=["unknown", "itself", "other case", "trailing space", "second in a chain", "500 letters"],
)
def test_create_sync_job__unknown_dependency(client: Client, resources: list[dict[str, Any]], missing: str) -> None:
    assert expect_error(create(client, resources=resources), 400, "unknown_dependency") == {"depends_on": missing}


TREES: dict[str, tuple[list[dict[str, Any]], list[int | None]]] = {
    "chain": ([node("a"), node("b", "a"), node("c", "b")], [None, 0, 1]),
    "chain in reverse order": ([node("c", "b"), node("b", "a"), node("a")], [1, 2, None]),
    "below a single record": ([node("a", single=True), node("b", "a")], [None, 0]),
    "below the listed one of two": ([node("a"), node("a", "a", single=True), node("b", "a")], [None, 0, 0]),
    "single below listed of its name": ([node("a", "a", single=True), node("a")], [1, None]),
    "below the first of two": ([node("a"), node("a"), node("b", "a")], [None, None, 0]),
    "chain of a hundred": ([node(str(n), str(n - 1) if n else None) for n in range(100)], [None, *range(99)]),
    "99 children": ([node("a"), *[node("b", "a")] * 99], [None, *[0] * 99]),
}


@one_transport
@pytest.mark.parametrize(("resources", "parents"), TREES.values(), ids=TREES)
def test_create_sync_job__dependency_tree(
    client: Client, resources: list[dict[str, Any]], parents: list[int | None]
) -> None:
    job = accepted(create(client, resources=resources), SyncJob)
    account = client.account({"resources": {resource["resource"]: {} for resource in resources}})
    run = client.run(job["id"], account)
    assert run["resources"] == job["resources"] == resources
    spec = client.database.execution(run["id"])["spec"]
    assert [planned["parent"] for planned in spec["nodes"]] == parents


@both_transports
def test_create_sync_job_run__persist_defaults_to_names_with_a_slash(client: Client) -> None:
    """By default, records of resources with a slash in their name are stored and others are not."""
    resources = [
        {**NODE, "resource": name, **({} if persist is None else {"persist": persist})}
        for name in ("plain", ACCOUNTS)
        for persist in (None, True, False)
    ]
    run = client.run(client.job(*resources)["id"], client.account())
    persist = [planned["persist"] for planned in client.database.execution(run["id"])["spec"]["nodes"]]
    assert persist == [False, True, False, True, True, False]


# Lists


class Listed:
    """A list endpoint and how to create an entry of it."""

    def __init__(self, path: str, model: type[BaseModel], make: Callable[[Client], str]) -> None:
        self.path, self.model, self.make = path, model, make

    def __str__(self) -> str:
        return self.path

    def page(self, client: Client, **query: Any) -> dict[str, Any]:
        body = accepted(client.request("GET", self.path, params=query), self.model)
        assert {*body} == {"result", "next_cursor", "prev_cursor", "limit"}
        return body

    def ids(self, client: Client, **query: Any) -> list[str]:
        return [entry["id"] for entry in self.page(client, **query)["result"]]


def make_run(client: Client) -> str:
    return str(client.run(client.job()["id"], client.account())["id"])


JOBS = Listed("/sync-job", SyncJobs, lambda client: str(client.job()["id"]))
RUNS = Listed("/sync-job-run", SyncJobRuns, make_run)
WEBHOOKS = Listed("/webhook", Webhooks, lambda client: str(client.webhook()["id"]))
LISTS = [JOBS, RUNS, WEBHOOKS]
each_list = pytest.mark.parametrize("listed", LISTS, ids=str)


@both_transports
@each_list
@pytest.mark.parametrize("sort", ["", "-created_at", "created_at"])
def test_list_endpoints__walk_forth_and_back_during_creations(client: Client, listed: Listed, sort: str) -> None:
    made = [listed.make(client) for _ in range(7)]
    order = made if sort == "created_at" else made[::-1]
    query = {"limit": 2, "sort": sort}
    forth: list[list[str]] = []
    page = listed.page(client, **query, next_cursor="")
    assert page["prev_cursor"] is None
    while True:
        assert page["limit"] == 2
        forth.append([entry["id"] for entry in page["result"]])
        made.append(listed.make(client))
        if page["next_cursor"] is None or len(forth) > 8:
            break
        page = listed.page(client, **query, next_cursor=page["next_cursor"])
    seen = [entry_id for ids in forth for entry_id in ids]
    if sort == "created_at":  # entries created meanwhile come last
        assert seen == made[: len(seen)]
        assert len(seen) >= 7
    else:
        assert seen == order
    back = [forth[-1]]
    while page["prev_cursor"] is not None:
        page = listed.page(client, **query, prev_cursor=page["prev_cursor"])
        back.insert(0, [entry["id"] for entry in page["result"]])
        assert page["next_cursor"] is not None
    everything = [entry_id for ids in back for entry_id in ids]
    assert len(everything) == len({*everything})
    if sort == "created_at":
        assert everything == seen
    else:  # entries created meanwhile come first
        assert everything == made[::-1]


@both_transports
@each_list
def test_list_endpoints__limit(client: Client, listed: Listed) -> None:
    made = [listed.make(client) for _ in range(3)][::-1]
    for limit, size in (("", 100), ("0", 100), ("-1", 100), ("1", 1), ("5000", 5000), ("999999999", 5000)):
        page = listed.page(client, **({"limit": limit} if limit else {}))
        assert (page["limit"], [entry["id"] for entry in page["result"]]) == (size, made[:size])
        assert (page["next_cursor"] is None) == (size >= 3)
    for bad in ("x", "1.5", "1e3", "99999999999999999999", " 1", "१"):
        expect_error(client.request("GET", listed.path, params={"limit": bad}), 400, "invalid_field")


@both_transports
@each_list
def test_list_endpoints__invalid_cursor_or_sort(client: Client, listed: Listed) -> None:
    for cursor in ("x", "1", str(uuid.uuid4())[:-1], "' or true --", "\n"):
        for name in ("next_cursor", "prev_cursor"):
            expect_error(client.request("GET", listed.path, params={name: cursor}), 400, "invalid_cursor")
    expect_error(client.request("GET", listed.path, params={"sort": "label"}), 400, "unknown_sort")
    expect_error(client.request("GET", listed.path, params={"next_cursor": "\0"}), 400, "invalid_field")
    listed.make(client)
    assert listed.ids(client, next_cursor=str(uuid.UUID(int=2**128 - 1))) == listed.ids(client)
    assert listed.ids(client, next_cursor=str(uuid.UUID(int=0))) == []


def matching(client: Client, **query: str) -> set[str]:
    found = JOBS.page(client, **query)["result"]
    return {job["label"] for job in found}


LABELS = ["alpha", "Beta", "be_a", "gamma,delta", "%"]
FILTERS: list[tuple[dict[str, str], set[str]]] = [
    ({"label": "alpha"}, {"alpha"}),
    ({"label": "Alpha"}, set()),
    ({"label[eq]": "alpha"}, {"alpha"}),
    ({"label[]": "alpha"}, {"alpha"}),
    ({"label[ne]": "alpha"}, {*LABELS} - {"alpha"}),
    ({"label[in]": "alpha,Beta,none"}, {"alpha", "Beta"}),
    ({"label[in]": ""}, set()),
    ({"label[nin]": "alpha,Beta,none"}, {*LABELS} - {"alpha", "Beta"}),
    ({"label[nin]": ""}, {*LABELS}),
    ({"label[exists]": "true"}, {*LABELS}),
    ({"label[exists]": "false"}, set()),
    ({"label[like]": "be_a"}, {"be_a"}),
    ({"label[like]": "_e_a"}, {"be_a", "Beta"}),
    ({"label[like]": "BE%"}, set()),
    ({"label[ilike]": "BE%"}, {"be_a", "Beta"}),
    ({"label[like]": "\\%"}, {"%"}),
    ({"label": "' or true --"}, set()),
    ({"label": "%s"}, set()),
    ({"label": "%"}, {"%"}),
    ({"label[gt]": "alpha", "label[lt]": "c"}, {"Beta", "be_a"}),
    ({"label": "alpha", "integration_name": "x"}, set()),
    ({"integration_name": ""}, {*LABELS}),
    ({"default_runtime_version": "3"}, {*LABELS} - {"alpha"}),
    ({"default_runtime_version[gte]": "3"}, {*LABELS} - {"alpha"}),
    ({"default_runtime_version[gt]": "3"}, set()),
    ({"default_runtime_version[lt]": "3"}, {"alpha"}),
    ({"default_runtime_version[lte]": "2"}, {"alpha"}),
    ({"default_runtime_version[in]": "1,2"}, {"alpha"}),
    ({"default_runtime_version[nin]": "1,2"}, {*LABELS} - {"alpha"}),
    ({"created_at[gt]": "2020-01-01T00:00:00Z"}, {*LABELS}),
    ({"created_at[lt]": "2020-01-01"}, set()),
]


@both_transports
def test_list_sync_jobs__filters(client: Client) -> None:
    for label in LABELS:
        client.job(label=label, **({"default_runtime_version": 2} if label == "alpha" else {}))
    stranger = client.other()
    stranger.job(label="alpha")
    for query, found in FILTERS:
        if any("[gt]" in name and name.startswith("label") for name in query):
            with client.database.session(client.user.claims) as session:  # the database's own order
                rows = session.execute("select label from public.sync_jobs where label > 'alpha' and label < 'c'")
            found = {row["label"] for row in rows}  # noqa: PLW2901
        assert matching(client, **query) == found, query


@both_transports
def test_list_sync_jobs__filter_by_id_and_timestamps(client: Client) -> None:
    first, second = client.job(), client.job()
    for field in ("id", "created_at", "updated_at"):
        for op in ("", "[eq]", "[in]"):
            assert JOBS.ids(client, **{f"{field}{op}": first[field]}) == [first["id"]], (field, op)
        assert JOBS.ids(client, **{f"{field}[in]": f"{first[field]},{second[field]}"}) == [second["id"], first["id"]]
        assert JOBS.ids(client, **{f"{field}[nin]": first[field]}) == [second["id"]]
    upper = first["id"].upper()
    assert JOBS.ids(client, id=upper) == JOBS.ids(client, **{"id[in]": upper}) == [first["id"]]


INVALID_FILTERS: list[tuple[Mapping[str, str], str, dict[str, Any]]] = [
    ({"nme": "x"}, "unknown_filter", {"field": "nme"}),
    ({"agency_id": "x"}, "unknown_filter", {"field": "agency_id"}),
    ({"resources": "x"}, "unknown_filter", {"field": "resources"}),
    ({"xmin": "1"}, "unknown_filter", {"field": "xmin"}),
    ({"": "x"}, "unknown_filter", {"field": ""}),
    ({"label[in][0]": "x"}, "unknown_filter", {"field": "label[in][0]"}),
    ({"label[": "x"}, "unknown_filter", {"field": "label["}),
    ({"lábel": "x"}, "unknown_filter", {"field": "lábel"}),
    ({"x" * 300: "x"}, "unknown_filter", {"field": "x" * 200}),
    ({"label[between]": "x"}, "unknown_operator", {"operator": "between"}),
    ({"label[0]": "x"}, "unknown_operator", {"operator": "0"}),
    ({"label[EQ]": "x"}, "unknown_operator", {"operator": "EQ"}),
    ({"id": "x"}, "invalid_value", {}),
    ({"id[in]": f"{UNKNOWN},x"}, "invalid_value", {}),
    ({"id[nin]": "x"}, "invalid_value", {}),
    ({"created_at[gt]": "yesterday-ish"}, "invalid_value", {}),
    ({"created_at[gt]": "2013-02-31"}, "invalid_value", {}),
    ({"created_at[in]": "x"}, "invalid_value", {}),
    ({"default_runtime_version": "three"}, "invalid_value", {}),
    ({"default_runtime_version": "99999999999"}, "invalid_value", {}),
    ({"default_runtime_version[in]": "1,x"}, "invalid_value", {}),
    ({"label[like]": "\\"}, "invalid_value", {}),
    ({"label": "\0"}, "invalid_field", {}),
    ({f"label[{op}]": "x" for op in map(str, range(21))}, "invalid_field", {"field": "filters"}),
]


@one_transport
@pytest.mark.parametrize(
    ("query", "code", "members"), INVALID_FILTERS, ids=[f"{code} {query}"[:80] for query, code, _ in INVALID_FILTERS]
)
def test_list_sync_jobs__invalid_filter(
    client: Client, query: dict[str, str], code: str, members: dict[str, Any]
) -> None:
    client.job()
    details = expect_error(client.request("GET", "/sync-job", params=query), 400, code)
    assert {name: details[name] for name in members} == members
    if code == "unknown_filter":
        assert {"id", "label", "integration_name", "environment_id", "created_at"} <= {*details["available"]}


# Requests of the vendor's TypeScript client


def raw(client: Client, method: str, path: str) -> tuple[int, dict[str, Any]]:
    """Send the path byte for byte, without normalization."""
    host = client.project.url.removesuffix(PREFIX).removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        headers = {"authorization": f"Bearer {client.token}", "content-type": "application/json"}
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@one_transport
def test_sync_job_endpoints__extra_slashes_of_the_typescript_client(client: Client) -> None:
    """That client joins a base URL with a trailing slash and paths with a leading one."""
    job = client.job()
    run = client.run(job["id"], client.account())
    prefix = PREFIX
    assert raw(client, "GET", f"{prefix}//sync-job/{job['id']}") == (200, job)
    assert raw(client, "GET", f"{prefix}//sync-job?next_cursor=")[1]["result"] == [job]
    assert raw(client, "GET", f"{prefix}//sync-job-run?next_cursor=&sync_job_id={job['id']}")[1]["result"] == [run]
    assert raw(client, "GET", f"{prefix}//sync-job-run//{run['id']}/") == (200, run)
    assert raw(client, "GET", f"{prefix}//webhook?next_cursor=")[1]["result"] == []
    status, stopped = raw(client, "DELETE", f"{prefix}//sync-job-run/{run['id']}")
    assert (status, stopped["status"]) == (200, "stopped")
    status, error = raw(client, "DELETE", f"{prefix}//sync-job-run/{run['id']}")
    assert (status, error["statusCode"], error["current_status"]) == (400, 400, "stopped")
    assert raw(client, "DELETE", f"{prefix}//sync-job/{job['id']}") == (200, {"id": job["id"]})


@both_transports
def test_list_endpoints__own_agency_only(client: Client) -> None:
    for listed in LISTS:
        listed.make(client)
        cursor = listed.ids(client)[0]
        stranger = client.other()
        assert listed.ids(stranger) == listed.ids(stranger, prev_cursor=cursor) == []
        assert listed.ids(stranger, id=cursor) == []
