"""/webhook: creation, update and deletion of webhooks, and the secret, which is shown once."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from functions.webhook.delete_webhook import WebhookDeleted
from functions.webhook.get_webhook import Webhook
from functions.webhook.list_webhooks import Webhooks
from tests.support.project import Project, both_transports, expect_error, one_transport
from tests.support.sync_job_runs import Client, accepted

if TYPE_CHECKING:
    import httpx

URL = "https://example.com/events"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def client(project: Project) -> Client:
    return Client(project, project.database.member())


def show(client: Client, webhook_id: str) -> dict[str, Any]:
    return accepted(client.request("GET", f"/webhook/{webhook_id}"), Webhook)


def change(client: Client, webhook_id: str, **members: Any) -> httpx.Response:
    return client.request("PATCH", f"/webhook/{webhook_id}", json=members)


@both_transports
def test_create_webhook__shows_its_secret_once(client: Client) -> None:
    made = client.webhook()
    secret = made.pop("secret")
    assert str(uuid.UUID(secret)) == secret
    assert made == {
        "id": made["id"],
        "environment_id": client.user.agency_id,
        "target_url": URL,
        "is_active": True,
        "event_types": [],
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    assert show(client, made["id"]) == made
    assert accepted(client.request("GET", "/webhook"), Webhooks)["result"] == [made]
    changed = accepted(change(client, made["id"], is_active=False), Webhook)
    assert changed == {**made, "is_active": False, "updated_at": changed["updated_at"]}
    assert changed["updated_at"] > made["updated_at"]


@both_transports
def test_webhook_secret__stored_and_shown_in_one_place(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """The secret is in no list, no log and no table except app.secrets. An Idempotency-Key does not return it again."""
    response = client.request("POST", "/webhook", json={"target_url": URL}, headers={"idempotency-key": "k"})
    made = response.json()
    secret = made["secret"]
    responses = [
        client.request("GET", "/webhook"),
        client.request("GET", f"/webhook/{made['id']}"),
        change(client, made["id"], event_types=["a"]),
        client.request("GET", "/webhook", params={"secret": secret}),
        client.request("GET", "/api/connections"),
        client.request("GET", f"/api/connections/{made['id']}"),
        client.request("POST", "/webhook", json={"target_url": URL}, headers={"idempotency-key": "k"}),
    ]
    for response in responses:
        assert secret not in response.text
    again = responses[-1].json()
    assert (again["id"] != made["id"], again["secret"] != secret) == (True, True)
    expect_error(responses[5], 404, "connection_not_found")
    found = [name for name, rows in client.database.fingerprint().items() if secret in json.dumps(rows, default=str)]
    assert found == ["app.secrets"]
    row = client.database.one("select name, config from app.connections where id = %s", (made["id"],))
    assert client.database.secret(made["id"]) == {"secret": secret}
    assert secret not in json.dumps([row["name"], row["config"]])
    assert secret not in caplog.text
    with client.database.session(client.user.claims) as session:
        assert getattr(session.attempt("select value from app.secrets"), "sqlstate", None) == "42501"
        seen = session.execute("select * from public.webhooks where id = %s", (made["id"],))
        assert secret not in json.dumps(seen, default=str)


@both_transports
def test_delete_webhook__deletes_its_secret(client: Client) -> None:
    made = client.webhook()
    assert accepted(client.request("DELETE", f"/webhook/{made['id']}"), WebhookDeleted) == {"id": made["id"]}
    assert made["secret"] not in json.dumps(client.database.fingerprint(), default=str)
    for response in (
        client.request("GET", f"/webhook/{made['id']}"),
        change(client, made["id"], is_active=True),
        client.request("DELETE", f"/webhook/{made['id']}"),
    ):
        expect_error(response, 404, "webhook_not_found")
    assert client.request("GET", "/webhook").json()["result"] == []


@both_transports
def test_delete_webhook__stops_runs_that_deliver_to_it(client: Client) -> None:
    job, account, webhook, other = client.job(), client.account(), client.webhook(), client.webhook()
    affected = [client.run(job["id"], account, webhook_id=webhook["id"])["id"] for _ in range(3)]
    unaffected = [client.run(job["id"], account, webhook_id=other["id"])["id"], client.run(job["id"], account)["id"]]
    client.database.transition(affected[1], ("claim", "running"))
    client.database.transition(affected[2], ("claim", "running"), ("complete", "completed"))
    assert client.request("DELETE", f"/webhook/{webhook['id']}").status_code == 200
    assert [client.get(run)["status"] for run in affected] == ["stopped", "stopped", "completed"]
    assert [client.get(run)["status"] for run in unaffected] == ["created", "created"]
    for run in affected[:2]:
        assert client.get(run)["webhook_id"] == webhook["id"]
        event = client.database.events(run)[-1]
        values = event["event"], event["actor"], event["reason"]
        assert values == ("cancel", f"user:{client.user.id}", "webhook deleted")
    expect_error(client.start(job["id"], account, webhook_id=webhook["id"]), 404, "webhook_not_found")


CHANGES: list[dict[str, Any]] = [
    {"target_url": "https://example.org/x?y=1"},
    {"event_types": ["sync_job_run:record", "sync_job_run:completed"]},
    {"event_types": []},
    {"is_active": False},
    {"is_active": True, "event_types": ["a"], "target_url": "https://localhost/"},
    {},
]


@both_transports
def test_update_webhook__changes_the_given_members(client: Client) -> None:
    webhook = show(client, client.webhook(event_types=["x"])["id"])
    for changes in CHANGES:
        changed = accepted(change(client, webhook["id"], **changes), Webhook)
        webhook |= changes
        assert changed == {**webhook, "updated_at": changed["updated_at"]}
        assert show(client, webhook["id"]) == changed
    unchanged = accepted(change(client, webhook["id"], is_active=None, target_url=None), Webhook)
    assert unchanged["target_url"] == webhook["target_url"]


@both_transports
def test_update_webhook__concurrent_calls_all_succeed(client: Client) -> None:
    """Concurrent updates do not deadlock."""
    webhook_id = client.webhook()["id"]
    responses = client.project.concurrently(lambda: change(client, webhook_id, is_active=False, event_types=["a"]))
    assert {response.status_code for response in responses} == {200}


INVALID_URLS: dict[str, Any] = {
    "target_url null": None,
    "target_url a number": 1,
    "http": "http://example.com/",
    "http to a subdomain named localhost": "http://localhost.example.com/",
    "http to a host that starts like localhost": "http://127.0.0.1.example.com/",
    "http with localhost as user": "http://127.0.0.1@example.com/",
    "no host": "https://",
    "no host but a path": "https:///path",
    "unclosed bracket": "https://[::1/",
    "password in the URL": "https://user:password@example.com/",
    "port too large": "https://example.com:99999/",
    "ftp": "ftp://example.com/",
    "target_url with NUL": "https://example.com/\0",
    "target_url too long": "https://example.com/" + "x" * 2000,
}
BAD: dict[str, tuple[dict[str, Any], int, str, dict[str, Any]]] = {
    "empty": ({}, 400, "missing_field", {"field": "target_url"}),
    **{
        name: ({"target_url": url}, 400, "invalid_field", {"field": "target_url"}) for name, url in INVALID_URLS.items()
    },
    "event_types a string": ({"target_url": URL, "event_types": "a"}, 400, "invalid_field", {"field": "event_types"}),
    "event type a number": ({"target_url": URL, "event_types": [1]}, 400, "invalid_field", {"field": "event_types.0"}),
    "event type with NUL": (
        {"target_url": URL, "event_types": ["a\0"]},
        400,
        "invalid_field",
        {"field": "event_types.0"},
    ),
    "event type too long": (
        {"target_url": URL, "event_types": ["a" * 101]},
        400,
        "invalid_field",
        {"field": "event_types.0"},
    ),
    "too many event types": (
        {"target_url": URL, "event_types": ["a"] * 101},
        400,
        "invalid_field",
        {"field": "event_types"},
    ),
    "is_active a string": ({"target_url": URL, "is_active": "yes"}, 400, "invalid_field", {"field": "is_active"}),
    "is_active a number": ({"target_url": URL, "is_active": 1}, 400, "invalid_field", {"field": "is_active"}),
    "environment_id not a UUID": (
        {"target_url": URL, "environment_id": "x"},
        400,
        "invalid_field",
        {"field": "environment_id"},
    ),
    "another environment": ({"target_url": URL, "environment_id": UNKNOWN}, 403, "other_organization", {}),
    "secret": ({"target_url": URL, "secret": "mine"}, 422, "unsupported_field", {"fields": ["secret"]}),
    "unknown members": (
        {"target_url": URL, "id": "x", "more": {"a": 1}},
        422,
        "unsupported_field",
        {"fields": ["id", "more"]},
    ),
}


@one_transport
@pytest.mark.parametrize(("body", "status", "code", "members"), BAD.values(), ids=BAD)
def test_create_and_update_webhook__invalid_member(
    client: Client, body: dict[str, Any], status: int, code: str, members: dict[str, Any]
) -> None:
    with client.project.unchanged():
        assert expect_error(client.request("POST", "/webhook", json=body), status, code) == members
    webhook_id = client.webhook()["id"]
    if not {"environment_id", "secret", "id"} & {*body} and body not in ({}, {"target_url": None}):
        with client.project.unchanged():
            assert expect_error(change(client, webhook_id, **body), status, code) == members


@both_transports
def test_create_webhook__environment_id(client: Client) -> None:
    assert client.webhook(environment_id=client.user.agency_id)["environment_id"] == client.user.agency_id
    expect_error(change(client, client.webhook()["id"], environment_id=client.user.agency_id), 422, "unsupported_field")


def paths(webhook_id: str) -> list[tuple[str, str]]:
    path = f"/webhook/{webhook_id}"
    return [("GET", "/webhook"), ("POST", "/webhook"), ("GET", path), ("PATCH", path), ("DELETE", path)]


def send(project: Project, method: str, path: str, token: str | None) -> httpx.Response:
    body: dict[str, Any] = {"json": {"target_url": URL}} if method in {"POST", "PATCH"} else {}
    return project.request(method, path, token, **body)


@both_transports
def test_webhook_endpoints__rejected_callers_and_unknown_ids(client: Client, project: Project) -> None:
    webhook_id = client.webhook()["id"]
    stranger, without_agency = client.other(), Client(project, project.database.user(None))
    other_ids = [client.account(), str(uuid.uuid4())]
    with project.unchanged():
        for method, path in paths(webhook_id):
            expect_error(send(project, method, path, None), 401, "missing_token")
            expect_error(send(project, method, path, "not-a-token"), 401, "invalid_token")
            expect_error(send(project, method, path, without_agency.token), 403, "no_agency")
            if path != "/webhook":
                expect_error(send(project, method, path, stranger.token), 404, "webhook_not_found")
        assert stranger.request("GET", "/webhook").json()["result"] == []
        for other_id in other_ids:
            for method, path in paths(other_id)[2:]:
                expect_error(send(project, method, path, client.token), 404, "webhook_not_found")


@both_transports
def test_webhook_endpoints__api_key(client: Client, project: Project) -> None:
    key = project.database.api_key(client.user)
    made = project.request("POST", "/webhook", key, json={"target_url": URL}).json()
    for method, path in paths(made["id"]):
        assert send(project, method, path, key).status_code == 200


@one_transport
@pytest.mark.parametrize(
    "malformed",
    ["x", "%00", "null", "0" * 36, "%F0%9F%92%A9", "{webhook_id}", "1" * 3000],
    ids=["letter", "NUL", "null", "36 zeros", "emoji", "placeholder", "3000 digits"],
)
def test_webhook_endpoints__malformed_id(client: Client, malformed: str) -> None:
    for method, path in paths(malformed)[2:]:
        expect_error(send(client.project, method, path, client.token), 404, "not_found")


@one_transport
def test_webhook_endpoints__method_not_allowed(client: Client) -> None:
    for path, methods in {"/webhook": "GET, POST", f"/webhook/{uuid.uuid4()}": "DELETE, GET, PATCH"}.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {*methods.split(", ")}:
            response = client.request(method, path, content=b"{}")
            expect_error(response, 405, "method_not_allowed")
            assert response.headers["allow"] == f"{methods}, OPTIONS"


BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "missing_field"),
    "cut off": (b"{", 400, "invalid_json"),
    "array": (b"[]", 400, "invalid_request"),
    "string": (b'"x"', 400, "invalid_request"),
    "null": (b"null", 400, "invalid_request"),
    "deeply nested": (b'{"target_url": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "invalid_json"),
    "too large": (b'{"target_url": "' + b"x" * (1024 * 1024) + b'"}', 413, "body_too_large"),
    "not UTF-8": (b'{"target_url": "https://example.com/\xff"}', 400, "invalid_json"),
    "lone surrogate": (b'{"target_url": "https://example.com/\\ud800"}', 400, "invalid_json"),
}


@one_transport
@pytest.mark.parametrize(("content", "status", "code"), BODIES.values(), ids=BODIES)
def test_create_webhook__invalid_body(client: Client, content: bytes, status: int, code: str) -> None:
    with client.project.unchanged():
        expect_error(client.request("POST", "/webhook", content=content), status, code)


@both_transports
def test_list_webhooks__filters(client: Client) -> None:
    active, other = client.webhook("https://a.example/"), client.webhook("https://b.example/", is_active=False)

    def found(**query: str) -> list[str]:
        response = client.request("GET", "/webhook", params=query)
        return [webhook["id"] for webhook in accepted(response, Webhooks)["result"]]

    assert [found(is_active=value) for value in ("true", "false")] == [[active["id"]], [other["id"]]]
    assert found(**{"target_url[like]": "%//b.%"}) == [other["id"]]
    assert found(environment_id=str(client.user.agency_id)) == [other["id"], active["id"]]
    expect_error(client.request("GET", "/webhook", params={"event_types": "x"}), 400, "unknown_filter")
