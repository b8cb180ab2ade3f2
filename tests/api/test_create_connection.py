"""POST /api/connections: stored configurations, errors, and secrecy of the secret."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.connections import CONFIG, GOOD, PATH, SECRET, UNKNOWN, created, everything_stored, ids, row
from tests.support.documented import DOCUMENT
from tests.support.project import Project, both_transports, expect_error, one_transport

if TYPE_CHECKING:
    import httpx

FLIGHTS = CONFIG["resources"]["flights"]


def post(project: Project, token: str | None, body: object, **options: Any) -> httpx.Response:
    """Send `body` unchanged if it is bytes, as JSON otherwise."""
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    return project.request("POST", PATH, token, **content, **options)


def configured(**members: Any) -> dict[str, Any]:
    """The valid request with these members of its configuration replaced."""
    return GOOD | {"configuration": GOOD["configuration"] | members}


def with_resource(**members: Any) -> dict[str, Any]:
    return configured(resources={"flights": FLIGHTS | members})


# Valid requests


@both_transports
def test_create_connection__stores_and_returns_the_request(project: Project) -> None:
    user = project.database.member()
    made = created(post(project, project.token(user), GOOD))
    assert made == {
        "id": made["id"],
        "name": "Flights",
        "organization_id": user.agency_id,
        "type": {"id": "http", "name": "Http"},
        "configuration": CONFIG,
        "policies": [],
        "saved": True,
        "status": None,
        "status_error": None,
        "created_at": made["created_at"],
        "created_by": {"id": user.id, "type": "user", "name": f"user:{user.id}"},
        "updated_at": made["created_at"],
    }
    stored = row(project.database, made["id"])
    assert (stored["config"], stored["secret"], stored["deleted_at"]) == (CONFIG, SECRET, None)
    assert str(stored["agency_id"]) == user.agency_id
    assert created(project.request("GET", f"{PATH}/{made['id']}", project.token(user))) == made


@both_transports
@pytest.mark.parametrize("body", [{}, {"configuration": {}}, {"configuration": None}], ids=str)
def test_create_connection__type_records(project: Project, body: dict[str, Any]) -> None:
    user = project.database.member()
    made = created(post(project, project.token(user), {"name": "Records", "type": "records", **body}))
    assert (made["type"], made["configuration"]) == ({"id": "records", "name": "Records"}, {})


@both_transports
def test_create_connection__organization_id(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    token = project.token(user)
    made = created(post(project, token, GOOD | {"organization_id": user.agency_id}))
    assert made["organization_id"] == user.agency_id
    with project.unchanged():
        for other in (stranger.agency_id, UNKNOWN):
            assert (
                expect_error(post(project, token, GOOD | {"organization_id": other}), 403, "other_organization") == {}
            )


@both_transports
def test_create_connection__members_equal_to_the_defaults(project: Project) -> None:
    user = project.database.member()
    defaults = {"healthcheck_interval": "", "policies": [], "redirect_url": "", "validate": False}
    with_nulls = dict.fromkeys([*defaults, "organization_id"])
    for members in (defaults, with_nulls):
        assert created(post(project, project.token(user), GOOD | members))["configuration"] == CONFIG


@one_transport
@pytest.mark.parametrize(
    "name",
    ["x" * 200, "🛫" * 200, " ", "'); drop table app.connections; -- $$ %s", "a\u2028\u202eb\t"],
    ids=["200 letters", "200 emojis", "space", "SQL", "control characters"],
)
def test_create_connection__unusual_names(project: Project, name: str) -> None:
    token = project.token(project.database.member())
    assert created(post(project, token, GOOD | {"name": name}))["name"] == name


@both_transports
@pytest.mark.parametrize(
    ("auth", "secret"),
    [
        ({"type": "none"}, {}),
        ({"type": "basic"}, {"username": "reader 日本", "password": "pässword"}),
        ({"type": "api_key", "in": "query", "name": "key"}, {"api_key": "k3y"}),
        ({"type": "api_key", "in": "header", "name": "X-Key"}, {"api_key": "k3y"}),
    ],
    ids=["none", "basic", "api_key in query", "api_key in header"],
)
def test_create_connection__secret_of_each_auth_type(
    project: Project, auth: dict[str, Any], secret: dict[str, Any]
) -> None:
    made = created(post(project, project.token(project.database.member()), configured(auth=auth, secret=secret)))
    assert made["configuration"] == CONFIG | {"auth": auth}
    assert row(project.database, made["id"])["secret"] == secret


@both_transports
@pytest.mark.parametrize("secret", [None, {}])
def test_create_connection__secret_not_needed(project: Project, secret: object) -> None:
    body = configured(auth={"type": "none"}, secret=secret)
    made = created(post(project, project.token(project.database.member()), body))
    assert row(project.database, made["id"])["secret"] == {}
    del body["configuration"]["secret"]
    created(post(project, project.token(project.database.member()), body))


@both_transports
def test_create_connection__nulls_and_big_numbers_are_kept(project: Project) -> None:
    params = {"n": 10**4000, "text": "\\u0000 🚀"}
    body = with_resource(params=params, date_filter=None)
    made = created(post(project, project.token(project.database.member()), body))
    flights = made["configuration"]["resources"]["flights"]
    assert flights["params"] == params
    assert flights["date_filter"] is None
    assert flights["pagination"]["size_param"] is None


# Invalid requests


@one_transport
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "x"}, "type"),
        ({"type": "http", "configuration": {}}, "name"),
    ],
    ids=["empty", "no type", "no name"],
)
def test_create_connection__missing_member(project: Project, body: dict[str, Any], field: str) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        assert expect_error(post(project, token, body), 400, "missing_field") == {"field": field}


WRONG_TYPES: dict[str, list[Any]] = {
    "name": [None, "", 1, True, ["x"], {"x": 1}, "x" * 201, "x" * 1_000_000, "a\0b"],
    "type": [None, "", "HTTP", "postgresql", 1, ["http"], {"id": "http", "name": "Http"}, "http\0", "x" * 100_000],
    "configuration": ["", "{}", 1, True, [], [{}]],
    "organization_id": ["", "mine", 1, [], {}, UNKNOWN[:-1], f" {UNKNOWN}", f"{UNKNOWN}\0"],
    "validate": ["true", 1, 0, [], {}],
    "healthcheck_interval": [1, [], {}],
    "policies": ["", {}, [1]],
    "redirect_url": [1, []],
}


@one_transport
@pytest.mark.parametrize("field", WRONG_TYPES)
def test_create_connection__member_of_another_type(project: Project, field: str) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        for value in WRONG_TYPES[field]:
            response = post(project, token, GOOD | {field: value})
            path = expect_error(response, 400, "invalid_field")["field"]
            assert path.partition(".")[0] == field, value
            assert len(response.content) < 1000


BAD_BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "missing_field"),
    "not JSON": (b"name=x", 400, "invalid_json"),
    "cut off": (json.dumps(GOOD).encode()[:-1], 400, "invalid_json"),
    "array": (json.dumps([GOOD]).encode(), 400, "invalid_request"),
    "null": (b"null", 400, "invalid_request"),
    "lone surrogate": (b'{"name": "\\ud800", "type": "records"}', 400, "invalid_json"),
    "lone surrogate in the configuration": (
        b'{"name": "x", "type": "http", "configuration": {"a": "\\udfff"}}',
        400,
        "invalid_json",
    ),
    "lone surrogate in a member's name": (
        b'{"name": "x", "type": "http", "configuration": {"\\udfff": 1}}',
        400,
        "invalid_json",
    ),
    "not UTF-8": (b'{"name": "\xff"}', 400, "invalid_json"),
    "deeply nested": (b'{"name": "x", "type": "records", "configuration": ' + b'{"a":' * 50_000, 400, "invalid_json"),
    "number of 10,000 digits": (
        b'{"name": "x", "type": "records", "configuration": {"a": ' + b"9" * 10_000 + b"}}",
        400,
        "invalid_json",
    ),
    "too large": (b'{"name": "' + b"x" * 1024 * 1024 + b'"}', 413, "body_too_large"),
}


@one_transport
@pytest.mark.parametrize("name", BAD_BODIES)
def test_create_connection__invalid_body(project: Project, name: str) -> None:
    body, status, code = BAD_BODIES[name]
    token = project.token(project.database.member())
    with project.unchanged():
        response = post(project, token, body)
    assert expect_error(response, status, code) == ({"field": "name"} if code == "missing_field" else {})


WITHOUT = {name: value for name, value in GOOD["configuration"].items() if name != "base_url"}
INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "empty": (GOOD | {"configuration": {}}, "at base_url"),
    "null": (GOOD | {"configuration": None}, "at base_url"),
    "no base_url": (GOOD | {"configuration": WITHOUT}, "at base_url"),
    "base_url without scheme": (configured(base_url="api.example.com"), "at base_url"),
    "not https": (configured(base_url="http://api.example.com"), "at base_url"),
    "file scheme": (configured(base_url="file:///etc/passwd"), "at base_url"),
    "password in the URL": (configured(base_url="https://me:t0p-secret@example.com"), "at base_url"),
    "key in the URL": (configured(base_url="https://example.com/?key=t0p-secret"), "at base_url"),
    "base_url a number": (configured(base_url=1), "at base_url"),
    "no auth": (configured(auth=None), "at auth"),
    "unknown auth": (configured(auth={"type": "oauth2"}), "at auth"),
    "secret in auth": (configured(auth={"type": "bearer", "token": "t0p-secret"}), "at auth.bearer.token"),
    "credentials in headers": (configured(headers={"Authorization": "Bearer t0p-secret"}), "at headers"),
    "header with a line break": (configured(headers={"X": "a\r\nHost: t0p-secret"}), "at headers.X"),
    "timeout zero": (configured(timeout_seconds=0), "at timeout_seconds"),
    "unknown member": (configured(proxy="http://t0p-secret"), "at proxy"),
    "no resources": (configured(resources={}), "at resources"),
    "resources a list": (configured(resources=[]), "at resources"),
    "resource without primary key": (with_resource(primary_key=[]), "at resources.flights.primary_key"),
    "path with another host": (with_resource(path="//t0p-secret/x"), "at resources.flights.path"),
    "unknown pagination": (with_resource(pagination={"type": "magic"}), "at resources.flights.pagination"),
    "no secret": (GOOD | {"configuration": CONFIG}, "The secret for auth type bearer must hold token"),
    "secret null": (configured(secret=None), "The secret for auth type bearer must hold token"),
    "secret empty": (configured(secret={}), "The secret for auth type bearer must hold token"),
    "secret of another auth type": (
        configured(secret={"api_key": "t0p-secret"}),
        "The secret for auth type bearer must hold token",
    ),
    "secret with an extra member": (
        configured(secret=SECRET | {"t0p-secret": "x"}),
        "The secret for auth type bearer must hold token",
    ),
    "token empty": (configured(secret={"token": ""}), "The secret for auth type bearer must hold token"),
    "token with a line break": (configured(secret={"token": "t0p\nsecret"}), "The secret for auth type"),
    "secret a string": (configured(secret="t0p-secret"), "configuration.secret must be an object."),
    "secret a list": (configured(secret=["t0p-secret"]), "configuration.secret must be an object."),
    "secret a boolean": (configured(secret=False), "secret"),
    "records with a configuration": (
        {"name": "x", "type": "records", "configuration": {"a": "t0p-secret"}},
        "configuration must be empty for a connection of type records.",
    ),
    "records with a secret": (
        {"name": "x", "type": "records", "configuration": {"secret": {"token": "t0p-secret"}}},
        "configuration must be empty for a connection of type records.",
    ),
}


@one_transport
@pytest.mark.parametrize("name", INVALID)
def test_create_connection__invalid_configuration_names_the_member(project: Project, name: str) -> None:
    body, fragment = INVALID[name]
    token = project.token(project.database.member())
    with project.unchanged():
        response = post(project, token, body)
    assert expect_error(response, 400, "invalid_configuration") == {}
    assert fragment in response.json()["message"]
    assert "t0p" not in response.text


@both_transports
@pytest.mark.parametrize(
    "configuration",
    [
        '{"requests_per_second": 1e400}',
        '{"requests_per_second": NaN}',
        '{"timeout_seconds": Infinity}',
        '{"base_url": "https://a.example\\u0000"}',
        '{"headers": {"a\\u0000": "b"}}',
        json.dumps({"resources": {"a\0b": FLIGHTS}}),
        json.dumps({"resources": {"a": FLIGHTS | {"params": {"x": "a\0b"}}}}),
        json.dumps({"resources": {"a": FLIGHTS | {"primary_key": ["\0"]}}}),
        '{"secret": {"token": "a\\u0000"}}',
        json.dumps({"x" * 500_000: 1}),
        json.dumps({"resources": {"x" * 500_000: 1}}),
    ],
    ids=[
        "number out of range",
        "NaN",
        "Infinity",
        "base_url with NUL",
        "header name with NUL",
        "resource name with NUL",
        "parameter with NUL",
        "primary key with NUL",
        "token with NUL",
        "member name of 500,000 letters",
        "resource name of 500,000 letters",
    ],
)
@pytest.mark.parametrize("type_", ["http", "records"])
def test_create_connection__configuration_that_cannot_be_stored(
    project: Project, configuration: str, type_: str
) -> None:
    token = project.token(project.database.member())
    base = json.dumps(GOOD["configuration"])
    body = f'{{"name": "x", "type": "{type_}", "configuration": {base[:-1]}, {configuration[1:]}}}'
    with project.unchanged():
        response = post(project, token, body.encode())
    assert response.status_code == 400, response.text
    assert response.json()["key"] in {"invalid_configuration", "invalid_field", "invalid_json"}
    assert len(response.content) < 2000
    assert expect_error(response, 400, response.json()["key"]) in ({}, {"field": "configuration"})


@one_transport
def test_create_connection__deeply_nested_configuration(project: Project) -> None:
    """A nested configuration is a validation error at every depth, never an internal error."""
    token = project.token(project.database.member())
    for depth in (10, 100, 150, 190, 197, 198, 199, 200, 250, 1000):
        nested = '{"a":' * depth + "1" + "}" * depth
        deep = f'{{"name": "x", "type": "records", "configuration": {nested}}}'
        with project.unchanged():
            response = post(project, token, deep.encode())
        assert response.status_code == 400, (depth, response.text)
        assert response.json()["key"] in {"invalid_configuration", "invalid_json"}


@one_transport
@pytest.mark.parametrize(
    ("members", "fields"),
    [
        ({"nope": 1}, ["nope"]),
        ({"Name": "x", "connection_type": "http", "": None}, ["Name", "connection_type", ""]),
        ({"healthcheck_interval": "15m"}, ["healthcheck_interval"]),
        (
            {"x": 1, "policies": [UNKNOWN], "redirect_url": "https://a.example", "healthcheck_interval": "1h"},
            ["healthcheck_interval", "policies", "redirect_url", "x"],
        ),
    ],
    ids=["unknown", "similar names", "not supported yet", "several"],
)
def test_create_connection__names_all_unsupported_members(
    project: Project, members: dict[str, Any], fields: list[str]
) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        response = post(project, token, GOOD | members)
    details = expect_error(response, 422, "unsupported_field")
    assert sorted(details.pop("fields")) == sorted(fields)
    assert details == {}


@one_transport
def test_create_connection__unsupported_members_are_bounded_in_the_error(project: Project) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        many = post(project, token, GOOD | {f"unknown {n}": n for n in range(1000)})
        long = post(project, token, GOOD | {"x" * 500_000: 1})
    assert len(expect_error(many, 422, "unsupported_field")["fields"]) == 100
    assert expect_error(long, 422, "unsupported_field")["fields"] == ["x" * 200]
    assert max(len(many.content), len(long.content)) < 10_000


@one_transport
def test_create_connection__invalid_before_unsupported(project: Project) -> None:
    token = project.token(project.database.member())
    response = post(project, token, GOOD | {"name": 1, "nope": 2})
    assert expect_error(response, 400, "invalid_field") == {"field": "name"}


# Callers


@both_transports
def test_create_connection__rejected_callers(project: Project) -> None:
    token = project.token(project.database.user(None))
    with project.unchanged():
        expect_error(post(project, token, GOOD), 403, "no_agency")
        expect_error(post(project, None, GOOD), 401, "missing_token")
        expect_error(post(project, project.auth.service_role_key(), GOOD), 401, "invalid_token")


@one_transport
def test_create_connection__service_role_has_no_agency(project: Project) -> None:
    with project.database.worker() as service:
        error = service.error("create_connection", name="x", type="records")
    assert (error.sqlstate, error.code) == ("PT403", "no_agency")


# Secrecy


@both_transports
def test_create_connection__secret_is_visible_only_to_the_worker(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    user = project.database.member()
    token, headers = project.token(user), {"idempotency-key": "k"}
    secret = {"token": "0nly-the-w0rker"}
    body = configured(secret=secret)
    responses = [
        post(project, token, body, headers=headers),
        post(project, token, body, headers=headers),
        post(project, token, body | {"name": "other"}, headers=headers),
        post(project, token, configured(secret=secret | {"more": 1})),
        post(project, token, body | {"nope": 1}),
        project.request("GET", PATH, token),
    ]
    made = created(responses[0])
    responses.append(project.request("GET", f"{PATH}/{made['id']}", token))
    with project.without("app.insert_connection"):
        responses.append(post(project, token, body))
    assert [response.status_code for response in responses] == [200, 200, 422, 400, 422, 200, 200, 500]
    assert caplog.text
    for response in responses:
        assert secret["token"] not in response.text
        assert '"secret"' not in response.text
    assert secret["token"] not in caplog.text
    if project.setup.transport == "postgrest":
        assert secret["token"] not in project.backend.postgrest.logged()
    assert row(project.database, made["id"])["secret"] == secret
    project.database.admin.execute("update app.secrets set value = '{}' where agency_id = %s", (user.agency_id,))
    assert secret["token"] not in everything_stored(project.database)


def test_connection_endpoints__documented_responses_show_no_secret() -> None:
    paths = [path for name, path in DOCUMENT["paths"].items() if name.startswith(PATH)]
    operations = [operation for path in paths for operation in path.values()]
    assert len(operations) >= 5
    responses = json.dumps([operation["responses"] for operation in operations])
    assert '"secret"' not in responses
    assert '"token"' not in responses


# Idempotency-Key


@both_transports
def test_create_connection__repeated_with_an_idempotency_key(project: Project) -> None:
    user = project.database.member()
    token, headers = project.token(user), {"idempotency-key": "k"}
    first = post(project, token, GOOD, headers=headers)
    with project.unchanged():
        assert post(project, token, GOOD, headers=headers).content == first.content
        for other in (GOOD | {"name": "x"}, configured(secret={"token": "another"}), configured(timeout_seconds=3)):
            expect_error(post(project, token, other, headers=headers), 422, "idempotency_key_reused")
        expect_error(post(project, token, GOOD, headers={"idempotency-key": "x" * 256}), 400, "invalid_idempotency_key")
    assert ids(project, token) == [created(first)["id"]]


@both_transports
def test_create_connection__concurrent_calls_with_one_idempotency_key(project: Project) -> None:
    user = project.database.member()
    token, headers = project.token(user), {"idempotency-key": "k"}
    responses = project.concurrently(lambda: post(project, token, GOOD, headers=headers))
    [connection_id] = ids(project, token)
    for response in responses:
        if response.status_code == 200:
            assert created(response)["id"] == connection_id
        else:
            expect_error(response, 409, "idempotency_key_in_use")


# Order of checks and versions


@one_transport
def test_create_connection__order_of_checks(project: Project) -> None:
    without_agency, member = project.token(project.database.user(None)), project.token(project.database.member())

    def error_of(token: str | None, body: object) -> tuple[int, str]:
        response = post(project, token, body)
        return response.status_code, response.json()["key"]

    with project.unchanged():
        assert project.request("PUT", PATH).status_code == 405
        assert project.request("PUT", PATH).headers["allow"] == "GET, POST, OPTIONS"
        assert error_of(None, b"{") == (401, "missing_token")
        assert error_of(without_agency, b"{") == (400, "invalid_json")
        assert error_of(without_agency, GOOD | {"configuration": {}}) == (400, "invalid_configuration")
        assert error_of(without_agency, GOOD) == (403, "no_agency")
        assert error_of(member, GOOD | {"organization_id": UNKNOWN}) == (403, "other_organization")


@one_transport
@pytest.mark.parametrize(
    "version",
    [None, "2025-09-18", "2024-02-08", "2021-05-23", "1999-01-01", "", "x" * 5000],
    ids=lambda version: str(version)[:10],
)
def test_create_connection__version_header(project: Project, version: str | None) -> None:
    token = project.token(project.database.member())
    headers = {} if version is None else {"x-polytomic-version": version}
    for response in (post(project, token, GOOD, headers=headers), post(project, None, GOOD, headers=headers)):
        known = version if version in {"2025-09-18", "2024-02-08", "2021-05-23"} else "2025-09-18"
        assert response.headers["x-polytomic-version"] == known
