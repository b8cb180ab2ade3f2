"""/webhook: what is created, shown, changed and deleted; the secret, which is shown once; who may."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from functions.webhook.delete_webhook import WebhookDeleted
from functions.webhook.get_webhook import Webhook
from functions.webhook.list_webhooks import Webhooks
from tests.support.project import BOTH_TRANSPORTS, Project, refusal
from tests.support.sync_job_runs import Client, accepted

if TYPE_CHECKING:
    import httpx

both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
pytestmark = both_doors

URL = "https://example.com/events"


@pytest.fixture
def client(project: Project) -> Client:
    return Client(project, project.database.member())


def show(client: Client, webhook_id: str) -> dict[str, Any]:
    return accepted(client.ask("GET", f"/webhook/{webhook_id}"), Webhook)


def change(client: Client, webhook_id: str, **members: Any) -> httpx.Response:
    return client.ask("PATCH", f"/webhook/{webhook_id}", json=members)


def test_what_is_created_is_shown_without_its_secret(client: Client) -> None:
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
    assert accepted(client.ask("GET", "/webhook"), Webhooks)["result"] == [made]
    changed = accepted(change(client, made["id"], is_active=False), Webhook)
    assert changed == {**made, "is_active": False, "updated_at": changed["updated_at"]}
    assert changed["updated_at"] > made["updated_at"]


def test_the_secret_is_in_one_place(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """No list, no log, no table but app.secrets knows it; an Idempotency-Key does not bring it back."""
    response = client.ask("POST", "/webhook", json={"target_url": URL}, headers={"idempotency-key": "k"})
    made = response.json()
    secret = made["secret"]
    answers = [
        client.ask("GET", "/webhook"),
        client.ask("GET", f"/webhook/{made['id']}"),
        change(client, made["id"], event_types=["a"]),
        client.ask("GET", "/webhook", params={"secret": secret}),
        client.ask("GET", "/api/connections"),
        client.ask("GET", f"/api/connections/{made['id']}"),
        client.ask("POST", "/webhook", json={"target_url": URL}, headers={"idempotency-key": "k"}),
    ]
    for answer in answers:
        assert secret not in answer.text
    again = answers[-1].json()
    assert (again["id"] != made["id"], again["secret"] != secret) == (True, True)
    refusal(answers[5], 404, "connection_not_found")
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


def test_what_was_deleted_is_gone_with_its_secret(client: Client) -> None:
    made = client.webhook()
    answer = accepted(client.ask("DELETE", f"/webhook/{made['id']}"), WebhookDeleted)
    assert answer == {"id": made["id"]}
    assert made["secret"] not in json.dumps(client.database.fingerprint(), default=str)
    for response in (
        client.ask("GET", f"/webhook/{made['id']}"),
        change(client, made["id"], is_active=True),
        client.ask("DELETE", f"/webhook/{made['id']}"),
    ):
        refusal(response, 404, "webhook_not_found")
    assert client.ask("GET", "/webhook").json()["result"] == []


def test_deleting_one_stops_the_runs_that_deliver_to_it(client: Client) -> None:
    job, account, webhook, other = client.job(), client.account(), client.webhook(), client.webhook()
    doomed = [client.run(job["id"], account, webhook_id=webhook["id"])["id"] for _ in range(3)]
    spared = [client.run(job["id"], account, webhook_id=other["id"])["id"], client.run(job["id"], account)["id"]]
    client.database.move(doomed[1], ("claim", "running"))
    client.database.move(doomed[2], ("claim", "running"), ("complete", "completed"))
    assert client.ask("DELETE", f"/webhook/{webhook['id']}").status_code == 200
    assert [client.get(run)["status"] for run in doomed] == ["stopped", "stopped", "completed"]
    assert [client.get(run)["status"] for run in spared] == ["created", "created"]
    for run in doomed[:2]:
        assert client.get(run)["webhook_id"] == webhook["id"]
        event = client.database.events(run)[-1]
        said = event["event"], event["actor"], event["reason"]
        assert said == ("cancel", f"user:{client.user.id}", "webhook deleted")
    refusal(client.start(job["id"], account, webhook_id=webhook["id"]), 404, "webhook_not_found")


CHANGES: list[dict[str, Any]] = [
    {"target_url": "https://example.org/x?y=1"},
    {"event_types": ["sync_job_run:record", "sync_job_run:completed"]},
    {"event_types": []},
    {"is_active": False},
    {"is_active": True, "event_types": ["a"], "target_url": "https://localhost/"},
    {},
]


def test_a_change_changes_what_is_given(client: Client) -> None:
    one = show(client, client.webhook(event_types=["x"])["id"])
    for changes in CHANGES:
        changed = accepted(change(client, one["id"], **changes), Webhook)
        one |= changes
        assert changed == {**one, "updated_at": changed["updated_at"]}
        assert show(client, one["id"]) == changed
    assert (
        accepted(change(client, one["id"], is_active=None, target_url=None), Webhook)["target_url"] == one["target_url"]
    )


def test_changes_at_once_are_all_made(client: Client) -> None:
    """None waits for another in a circle."""
    webhook_id = client.webhook()["id"]
    responses = client.project.at_once(lambda: change(client, webhook_id, is_active=False, event_types=["a"]))
    assert {response.status_code for response in responses} == {200}


BAD: list[tuple[dict[str, Any], int, str, dict[str, Any]]] = [
    ({}, 400, "missing_field", {"field": "target_url"}),
    ({"target_url": None}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": 1}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "http://example.com/"}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "http://localhost.example.com/"}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "http://127.0.0.1.example.com/"}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "http://127.0.0.1@example.com/"}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "https://"}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "https:///path"}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "https://[::1/"}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "https://user:password@example.com/"}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "https://example.com:99999/"}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "ftp://example.com/"}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "https://example.com/\0"}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": "https://example.com/" + "x" * 2000}, 400, "invalid_field", {"field": "target_url"}),
    ({"target_url": URL, "event_types": "a"}, 400, "invalid_field", {"field": "event_types"}),
    ({"target_url": URL, "event_types": [1]}, 400, "invalid_field", {"field": "event_types.0"}),
    ({"target_url": URL, "event_types": ["a\0"]}, 400, "invalid_field", {"field": "event_types.0"}),
    ({"target_url": URL, "event_types": ["a" * 101]}, 400, "invalid_field", {"field": "event_types.0"}),
    ({"target_url": URL, "event_types": ["a"] * 101}, 400, "invalid_field", {"field": "event_types"}),
    ({"target_url": URL, "is_active": "yes"}, 400, "invalid_field", {"field": "is_active"}),
    ({"target_url": URL, "is_active": 1}, 400, "invalid_field", {"field": "is_active"}),
    ({"target_url": URL, "environment_id": "x"}, 400, "invalid_field", {"field": "environment_id"}),
    ({"target_url": URL, "environment_id": str(uuid.uuid4())}, 403, "other_organization", {}),
    ({"target_url": URL, "secret": "mine"}, 422, "unsupported_field", {"fields": ["secret"]}),
    ({"target_url": URL, "id": "x", "more": {"a": 1}}, 422, "unsupported_field", {"fields": ["id", "more"]}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "code", "members"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_what_cannot_be_created(
    client: Client, body: dict[str, Any], status: int, code: str, members: dict[str, Any]
) -> None:
    with client.project.unchanged():
        assert refusal(client.ask("POST", "/webhook", json=body), status, code) == members
    webhook_id = client.webhook()["id"]
    if not {"environment_id", "secret", "id"} & {*body} and body not in ({}, {"target_url": None}):
        with client.project.unchanged():
            assert refusal(change(client, webhook_id, **body), status, code) == members


def test_the_environment_may_be_named(client: Client) -> None:
    assert client.webhook(environment_id=client.user.agency_id)["environment_id"] == client.user.agency_id
    refusal(change(client, client.webhook()["id"], environment_id=client.user.agency_id), 422, "unsupported_field")


def paths(webhook_id: str) -> list[tuple[str, str]]:
    one = f"/webhook/{webhook_id}"
    return [("GET", "/webhook"), ("POST", "/webhook"), ("GET", one), ("PATCH", one), ("DELETE", one)]


def ask(project: Project, method: str, path: str, token: str | None) -> httpx.Response:
    body: dict[str, Any] = {"json": {"target_url": URL}} if method in {"POST", "PATCH"} else {}
    return project.request(method, path, token, **body)


def test_who_may_not(client: Client, project: Project) -> None:
    webhook_id = client.webhook()["id"]
    stranger, of_none = client.other(), Client(project, project.database.user(None))
    no_webhooks = [client.account(), str(uuid.uuid4())]
    with project.unchanged():
        for method, path in paths(webhook_id):
            refusal(ask(project, method, path, None), 401, "missing_token")
            refusal(ask(project, method, path, "not-a-token"), 401, "invalid_token")
            refusal(ask(project, method, path, of_none.token), 403, "no_agency")
            if path != "/webhook":
                refusal(ask(project, method, path, stranger.token), 404, "webhook_not_found")
        assert stranger.ask("GET", "/webhook").json()["result"] == []
        for connection_id in no_webhooks:
            for method, path in paths(connection_id)[2:]:
                refusal(ask(project, method, path, client.token), 404, "webhook_not_found")


def test_an_agencys_own_server_may(client: Client, project: Project) -> None:
    key = project.database.api_key(client.user)
    made = project.request("POST", "/webhook", key, json={"target_url": URL}).json()
    for method, path in paths(made["id"]):
        assert ask(project, method, path, key).status_code == 200


@pytest.mark.parametrize("malformed", ["x", "%00", "null", "0" * 36, "%F0%9F%92%A9", "{webhook_id}", "1" * 3000])
def test_malformed_ids_are_nothing(client: Client, malformed: str) -> None:
    for method, path in paths(malformed)[2:]:
        refusal(ask(client.project, method, path, client.token), 404, "not_found")


def test_other_methods(client: Client) -> None:
    for path, methods in {"/webhook": "GET, POST", f"/webhook/{uuid.uuid4()}": "DELETE, GET, PATCH"}.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - {*methods.split(", ")}:
            response = client.ask(method, path, content=b"{}")
            refusal(response, 405, "method_not_allowed")
            assert response.headers["allow"] == f"{methods}, OPTIONS"


BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, "missing_field"),
    (b"{", 400, "invalid_json"),
    (b"[]", 400, "invalid_request"),
    (b'"x"', 400, "invalid_request"),
    (b"null", 400, "invalid_request"),
    (b'{"target_url": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "invalid_json"),
    (b'{"target_url": "' + b"x" * (1024 * 1024) + b'"}', 413, "body_too_large"),
    (b'{"target_url": "https://example.com/\xff"}', 400, "invalid_json"),
    (b'{"target_url": "https://example.com/\\ud800"}', 400, "invalid_json"),
]


@pytest.mark.parametrize(("content", "status", "code"), BODIES, ids=[str(number) for number in range(len(BODIES))])
def test_bodies_that_are_none(client: Client, content: bytes, status: int, code: str) -> None:
    with client.project.unchanged():
        refusal(client.ask("POST", "/webhook", content=content), status, code)


def test_the_list_knows_its_fields(client: Client) -> None:
    active, other = client.webhook("https://a.example/"), client.webhook("https://b.example/", is_active=False)

    def found(**query: str) -> list[str]:
        response = client.ask("GET", "/webhook", params=query)
        return [one["id"] for one in accepted(response, Webhooks)["result"]]

    assert [found(is_active=value) for value in ("true", "false")] == [[active["id"]], [other["id"]]]
    assert found(**{"target_url[like]": "%//b.%"}) == [other["id"]]
    assert found(environment_id=str(client.user.agency_id)) == [other["id"], active["id"]]
    refusal(client.ask("GET", "/webhook", params={"event_types": "x"}), 400, "unknown_filter")
