"""/sync-job-run except DELETE (test_stop_matrix.py): the members of a run, their validation, and the list."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from functions.sync_job_run.get_sync_job_run import SyncJobRun
from functions.sync_job_run.list_sync_job_runs import SyncJobRuns
from tests.support.project import Project, both_transports, expect_error, one_transport
from tests.support.sync_job_runs import ACCOUNTS, LIST_ACCOUNTS, Client, accepted

if TYPE_CHECKING:
    import httpx

UNKNOWN = "00000000-0000-4000-8000-000000000000"
NODE = {"resource": "plain", "method": "list"}


@pytest.fixture
def client(project: Project) -> Client:
    return Client(project, project.database.member())


@pytest.fixture
def account(client: Client) -> str:
    return client.account()


def start(client: Client, **members: Any) -> httpx.Response:
    return client.request("POST", "/sync-job-run", json=members)


@both_transports
def test_create_sync_job_run__returns_the_run(client: Client, account: str) -> None:
    job = client.job(LIST_ACCOUNTS)
    for destination in ({"daemon_group_key": "a group"}, {"webhook_id": client.webhook()["id"]}):
        made = client.run(job["id"], account, **destination)
        assert made == {
            "id": made["id"],
            "args": {},
            "resources": job["resources"],
            "sync_job_id": job["id"],
            "integrated_account_id": account,
            "environment_id": client.user.agency_id,
            "status": "created",
            "daemon_id": None,
            "daemon_group_key": None,
            "webhook_id": None,
            "error_handling": "fail_fast",
            "ignore_previous_run": False,
            "version": 3,
            "resource_stats": {},
            "created_at": made["created_at"],
            "updated_at": made["created_at"],
            "started_at": None,
            "finished_at": None,
            "sync_job": job,
            **destination,
        }
        assert client.get(made["id"]) == made
        assert accepted(client.request("GET", "/sync-job-run"), SyncJobRuns)["result"][0] == made


@both_transports
def test_create_sync_job_run__all_members(client: Client, account: str) -> None:
    job = client.job(LIST_ACCOUNTS, default_runtime_version=2, args_schema={"a": {"type": "array"}})
    members = {
        "args": {"a": [1, {"deep": None}], "of no schema": "é☺"},
        "error_handling": "batch",
        "ignore_previous_run": True,
        "version": 3,
        "resources": [NODE, {**NODE, "depends_on": "plain", "method": "get", "id": "{{resources.plain.id}}"}],
    }
    events = {"events_to_send": ["sync_job_run:record"]}
    without_effect = {"status": "running", "datastore_id": "", "super_query": None, "mutex_key": "", "force": False}
    made = client.run(job["id"], account, **members, **events, **without_effect)
    assert {name: made[name] for name in members} == members
    assert made["status"] == "created"
    assert client.database.execution(made["id"])["spec"]["events_to_send"] == events["events_to_send"]


@both_transports
@pytest.mark.parametrize("key", ["k", "a key \N{SNOWMAN}"], ids=["valid key", "key not ASCII"])
def test_create_sync_job_run__repeated_with_an_idempotency_key(client: Client, account: str, key: str) -> None:
    job = client.job()
    body = {"sync_job_id": job["id"], "integrated_account_id": account, "daemon_group_key": "g"}
    headers = {"idempotency-key": key}
    if key != "k":
        with client.project.unchanged():
            response = client.project._client.request(
                "POST",
                f"{client.project.url}/sync-job-run",
                json=body,
                headers=[(b"authorization", f"Bearer {client.token}".encode()), (b"idempotency-key", key.encode())],
            )
        expect_error(response, 400, "invalid_idempotency_key")
        return
    first = client.request("POST", "/sync-job-run", json=body, headers=headers).json()
    client.database.transition(first["id"], ("claim", "running"))
    assert client.request("POST", "/sync-job-run", json=body, headers=headers).json() == first  # the stored response
    reused = client.request("POST", "/sync-job-run", json={**body, "daemon_group_key": "h"}, headers=headers)
    expect_error(reused, 422, "idempotency_key_reused")
    assert len(client.request("GET", "/sync-job-run").json()["result"]) == 1
    many = client.project.concurrently(
        lambda: client.request("POST", "/sync-job-run", json=body, headers={"idempotency-key": "two"})
    )
    assert {response.status_code for response in many} <= {200, 409}
    assert len({response.json()["id"] for response in many if response.is_success}) == 1
    assert len(client.request("GET", "/sync-job-run").json()["result"]) == 2


@both_transports
def test_create_sync_job_run__requires_exactly_one_destination(client: Client, account: str) -> None:
    ids = {"sync_job_id": client.job()["id"], "integrated_account_id": account}
    webhook_id = client.webhook()["id"]
    with client.project.unchanged():
        for members in ({}, {"webhook_id": webhook_id, "daemon_group_key": "g"}, {"webhook_id": None}):
            expect_error(start(client, **ids, **members), 400, "one_destination")
        expect_error(start(client, **ids, daemon_group_key=""), 400, "invalid_field")
        expect_error(start(client, **ids, webhook_id=UNKNOWN), 404, "webhook_not_found")
        expect_error(start(client, **ids, webhook_id=account), 404, "webhook_not_found")


@both_transports
def test_create_sync_job_run__unknown_or_foreign_references(client: Client, account: str) -> None:
    job, other = client.job(), client.other()
    others_job, others_account, others_webhook = other.job()["id"], other.account(), other.webhook()["id"]
    records = client.database.connection(client.user.agency_id, "records", {})
    good = {"sync_job_id": job["id"], "integrated_account_id": account, "daemon_group_key": "g"}
    webhook_id = client.webhook()["id"]
    with client.project.unchanged():
        for job_id in (UNKNOWN, others_job, account):
            expect_error(start(client, **{**good, "sync_job_id": job_id}), 404, "sync_job_not_found")
        for account_id in (UNKNOWN, others_account, webhook_id):
            expect_error(start(client, **{**good, "integrated_account_id": account_id}), 404, "connection_not_found")
        expect_error(start(client, **{**good, "integrated_account_id": records}), 400, "not_a_source")
        by_webhook = {name: value for name, value in good.items() if name != "daemon_group_key"}
        expect_error(start(client, **by_webhook, webhook_id=others_webhook), 404, "webhook_not_found")
        members = expect_error(start(client, **good, resources=[{**NODE, "resource": "none"}]), 400, "unknown_resource")
        assert members["resource"] == "none"
        assert ACCOUNTS in members["available"]
        for name in ("sync_job_id", "integrated_account_id"):
            without = {member: value for member, value in good.items() if member != name}
            assert expect_error(start(client, **without), 400, "missing_field") == {"field": name}
            assert expect_error(start(client, **{**good, name: "x"}), 400, "invalid_field") == {"field": name}


@one_transport
@pytest.mark.parametrize(
    ("version", "allowed"),
    [(1, {None, 1}), (2, {None, 2, 3}), (3, {None, 3})],
    ids=["version 1", "version 2", "version 3"],
)
def test_create_sync_job_run__version(client: Client, account: str, version: int, allowed: set[int | None]) -> None:
    job = client.job(default_runtime_version=version)
    for requested in (None, 1, 2, 3):
        for sent in {requested, None if requested is None else str(requested)}:
            response = client.start(job["id"], account, **({} if sent is None else {"version": sent}))
            if requested in allowed:
                assert accepted(response, SyncJobRun)["version"] == (requested or version)
            else:
                assert expect_error(response, 400, "other_version") == {"version": version}
    assert expect_error(client.start(job["id"], account, version=4), 422, "unsupported_field") == {
        "fields": ["version"]
    }
    batch = client.start(job["id"], account, error_handling="batch")
    if version == 1:
        expect_error(batch, 400, "invalid_error_handling")
    else:
        assert accepted(batch, SyncJobRun)["error_handling"] == "batch"


BAD: dict[str, tuple[dict[str, Any], int, str, dict[str, Any]]] = {
    "args a list": ({"args": []}, 400, "invalid_field", {"field": "args"}),
    "args value with NUL": ({"args": {"a": "\0"}}, 400, "invalid_field", {"field": "args"}),
    "args name with NUL": ({"args": {"\0": 1}}, 400, "invalid_field", {"field": "args"}),
    "unknown error_handling": ({"error_handling": "stop"}, 400, "invalid_field", {"field": "error_handling"}),
    "ignore_previous_run a string": (
        {"ignore_previous_run": "true"},
        400,
        "invalid_field",
        {"field": "ignore_previous_run"},
    ),
    "resources empty": ({"resources": []}, 400, "invalid_field", {"field": "resources"}),
    "too many resources": ({"resources": [NODE] * 101}, 400, "invalid_field", {"field": "resources"}),
    "unknown dependency": (
        {"resources": [{**NODE, "depends_on": "x"}]},
        400,
        "unknown_dependency",
        {"depends_on": "x"},
    ),
    "events_to_send a string": ({"events_to_send": "x"}, 400, "invalid_field", {"field": "events_to_send"}),
    "status a number": ({"status": 1}, 400, "invalid_field", {"field": "status"}),
    "daemon_group_key too long": ({"daemon_group_key": "x" * 201}, 400, "invalid_field", {"field": "daemon_group_key"}),
    "force": ({"force": True}, 422, "unsupported_field", {"fields": ["force"]}),
    "unsupported members": (
        {"datastore_id": UNKNOWN, "super_query": "apac", "mutex_key": "m", "state_key": "s", "meta": {}},
        422,
        "unsupported_field",
        {"fields": ["datastore_id", "super_query", "mutex_key", "state_key", "meta"]},
    ),
}


@one_transport
@pytest.mark.parametrize(("body", "status", "code", "members"), BAD.values(), ids=BAD)
def test_create_sync_job_run__invalid_member(
    client: Client, account: str, body: dict[str, Any], status: int, code: str, members: dict[str, Any]
) -> None:
    job = client.job()
    with client.project.unchanged():
        assert (
            expect_error(client.start(job["id"], account, **{"daemon_group_key": "g", **body}), status, code) == members
        )


# Of args_schema: (rule, valid values, invalid values)
RULES: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"type": "string"}, ["", "x"], [1, True, [], {}]),
    ({"type": "number"}, [0, -1.5, 10**30], ["1", True, []]),
    ({"type": "integer"}, [0, -7, 10**20], [1.5, "1", True]),
    ({"type": "boolean"}, [True, False], ["true", 0]),
    ({"type": "array"}, [[], [1]], [{}, "[]"]),
    ({"type": "object"}, [{}, {"a": 1}], [[], "{}"]),
    ({"type": "anything else"}, [1, "x", []], []),
    ({}, [1, "x", [], {}], []),
    ({"enum": ["a", 1]}, ["a", 1], ["b", "1", 2]),
    ({"type": "string", "format": "integrated_account_id"}, [UNKNOWN, UNKNOWN.upper()], ["x", UNKNOWN[:-1]]),
    ({"type": "string", "format": "webhook_id"}, [UNKNOWN], ["x"]),
    ({"type": "string", "format": "datastore_id"}, [UNKNOWN], [f"{UNKNOWN} "]),
    ({"type": "string", "format": "date"}, ["2013-01-31"], ["31.1.2013", "2013-1-1", "2013-01-31x", " 2013-01-31"]),
    ({"format": "updated_at"}, ["2013-01-31", "2013-01-31T00:00:00Z", "2013-01-31 10:00:00.5+01:00"], ["x", "10:00"]),
    ({"format": "date-time"}, ["2013-01-31T00:00:00Z"], ["yesterday", "2013-01-31T"]),
]


@both_transports
@pytest.mark.parametrize("form", ["flat", "schema"])
@pytest.mark.parametrize(("rule", "valid", "invalid"), RULES, ids=[json.dumps(rule) for rule, _, _ in RULES])
def test_create_sync_job_run__args_against_the_schema(
    client: Client, account: str, form: str, rule: dict[str, Any], valid: list[Any], invalid: list[Any]
) -> None:
    def schema(**rules: Any) -> dict[str, Any]:
        return rules if form == "flat" else {"type": "object", "properties": rules}

    described = {"description": "An argument.", **rule}
    job = client.job(args_schema=schema(a=described))
    requiring = client.job(args_schema=schema(a={**described, "required": True}, type={"type": "string"}))
    for value in valid:
        assert client.run(job["id"], account, args={"a": value})["args"] == {"a": value}
        client.run(requiring["id"], account, args={"a": value, "type": "object"})
    for value in invalid:
        response = client.start(job["id"], account, args={"a": value})
        assert expect_error(response, 400, "invalid_argument") == {"argument": "a"}
    for missing in ({}, {"a": None}, {"b": 1}):
        client.run(job["id"], account, args=missing)
        response = client.start(requiring["id"], account, args=missing)
        assert expect_error(response, 400, "invalid_argument") == {"argument": "a"}


@both_transports
def test_create_sync_job_run__required_args_listed_in_the_schema(client: Client, account: str) -> None:
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}
    job = client.job(args_schema=schema)
    assert expect_error(client.start(job["id"], account), 400, "invalid_argument") == {"argument": "a"}
    client.run(job["id"], account, args={"a": "x"})


@both_transports
def test_sync_job_run_endpoints__callers_and_methods(client: Client, project: Project, account: str) -> None:
    job = client.job()
    run = client.run(job["id"], account)
    run_path = f"/sync-job-run/{run['id']}"
    body = {"sync_job_id": job["id"], "integrated_account_id": account, "daemon_group_key": "g"}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/sync-job-run", {}),
        ("POST", "/sync-job-run", {"json": body}),
        ("GET", run_path, {}),
        ("DELETE", run_path, {}),
    ]
    stranger, without_agency = client.other(), Client(project, project.database.user(None))
    with project.unchanged():
        for method, path, options in calls:
            expect_error(project.request(method, path, **options), 401, "missing_token")
            expect_error(project.request(method, path, "not-a-token", **options), 401, "invalid_token")
            expect_error(without_agency.request(method, path, **options), 403, "no_agency")
            if path == run_path:
                expect_error(stranger.request(method, path, **options), 404, "sync_job_run_not_found")
        expect_error(stranger.request("POST", "/sync-job-run", json=body), 404, "sync_job_not_found")
        assert stranger.request("GET", "/sync-job-run").json()["result"] == []
    for path, methods in {"/sync-job-run": "GET, POST", run_path: "DELETE, GET"}.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {*methods.split(", ")}:
            response = client.request(method, path, content=b"{}")
            expect_error(response, 405, "method_not_allowed")
            assert response.headers["allow"] == f"{methods}, OPTIONS"
    key = project.database.api_key(client.user)
    assert project.request("GET", run_path, key).json() == run
    assert project.request("DELETE", run_path, key).json()["status"] == "stopped"
    assert project.database.execution(run["id"])["cancelled_by"].startswith("api_key:")


@both_transports
def test_list_sync_job_runs__filters(client: Client, account: str) -> None:
    jobs, webhook = [client.job()["id"] for _ in range(2)], client.webhook()["id"]
    runs = [
        client.run(jobs[0], account, daemon_group_key="a"),
        client.run(jobs[0], account, webhook_id=webhook, error_handling="ignore"),
        client.run(jobs[1], client.account(), daemon_group_key="b", ignore_previous_run=True),
    ]
    ids = [run["id"] for run in runs]
    client.database.transition(ids[0], ("claim", "running"), ("release", "queued"))
    client.stop(ids[1])

    def found(**query: str) -> list[int]:
        result = accepted(client.request("GET", "/sync-job-run", params=query), SyncJobRuns)["result"]
        return sorted(ids.index(run["id"]) for run in result)

    assert found(status="running") == [0]  # released: queued, shown as running
    assert found(status="stopped") == [1]
    assert found(**{"status[in]": "created,stopped"}) == [1, 2]
    assert found(**{"status[ne]": "created"}) == [0, 1]
    assert found(status="queued") == found(status="cancelled") == []
    assert found(sync_job_id=jobs[0]) == found(integrated_account_id=account) == [0, 1]
    assert found(webhook_id=webhook) == found(**{"finished_at[exists]": "true"}) == [1]
    assert found(**{"webhook_id[exists]": "false"}) == found(**{"webhook_id[ne]": webhook}) == [0, 2]
    assert found(**{"daemon_group_key[like]": "%"}) == [0, 2]
    assert found(error_handling="ignore") == [1]
    assert found(ignore_previous_run="true") == [2]
    assert found(version="3") == [0, 1, 2]
    for field in ("args", "resource_stats", "sync_job", "daemon_id", "spec"):
        expect_error(client.request("GET", "/sync-job-run", params={field: "x"}), 400, "unknown_filter")
