"""POST /api/connections through both doors: what is stored, what is refused, and that the secret is in no answer."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.connections import CONFIG, GOOD, PATH, SECRET, UNKNOWN, created, everything_stored, ids, row
from tests.support.documented import DOCUMENT
from tests.support.project import BOTH_TRANSPORTS, Project, refusal

if TYPE_CHECKING:
    import httpx

FLIGHTS = CONFIG["resources"]["flights"]
through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)


def post(project: Project, token: str | None, body: object, **options: Any) -> httpx.Response:
    """`body` is sent as it is when it is bytes, as JSON otherwise."""
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    return project.request("POST", PATH, token, **content, **options)


def configured(**members: Any) -> dict[str, Any]:
    """The good request, with these members of its configuration instead."""
    return GOOD | {"configuration": GOOD["configuration"] | members}


def with_resource(**members: Any) -> dict[str, Any]:
    return configured(resources={"flights": FLIGHTS | members})


# What is stored


def test_a_connection_is_created(project: Project) -> None:
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


@pytest.mark.parametrize("body", [{}, {"configuration": {}}, {"configuration": None}], ids=str)
def test_one_that_receives_records(project: Project, body: dict[str, Any]) -> None:
    user = project.database.member()
    made = created(post(project, project.token(user), {"name": "Records", "type": "records", **body}))
    assert (made["type"], made["configuration"]) == ({"id": "records", "name": "Records"}, {})


def test_its_own_organization_may_be_named(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    token = project.token(user)
    made = created(post(project, token, GOOD | {"organization_id": user.agency_id}))
    assert made["organization_id"] == user.agency_id
    with project.unchanged():
        for other in (stranger.agency_id, UNKNOWN):
            assert refusal(post(project, token, GOOD | {"organization_id": other}), 403, "other_organization") == {}


@through_both_doors
def test_members_that_say_what_happens_anyway(project: Project) -> None:
    user = project.database.member()
    anyway = {"healthcheck_interval": "", "policies": [], "redirect_url": "", "validate": False}
    nothing = dict.fromkeys([*anyway, "organization_id"])
    for members in (anyway, nothing):
        assert created(post(project, project.token(user), GOOD | members))["configuration"] == CONFIG


@pytest.mark.parametrize(
    "name", ["x" * 200, "🛫" * 200, " ", "'); drop table app.connections; -- $$ %s", "a\u2028\u202eb\t"]
)
def test_names(project: Project, name: str) -> None:
    token = project.token(project.database.member())
    assert created(post(project, token, GOOD | {"name": name}))["name"] == name


@through_both_doors
@pytest.mark.parametrize(
    ("auth", "secret"),
    [
        ({"type": "none"}, {}),
        ({"type": "basic"}, {"username": "reader 日本", "password": "pässword"}),
        ({"type": "api_key", "in": "query", "name": "key"}, {"api_key": "k3y"}),
        ({"type": "api_key", "in": "header", "name": "X-Key"}, {"api_key": "k3y"}),
    ],
    ids=["none", "basic", "query", "header"],
)
def test_every_kind_of_secret(project: Project, auth: dict[str, Any], secret: dict[str, Any]) -> None:
    made = created(post(project, project.token(project.database.member()), configured(auth=auth, secret=secret)))
    assert made["configuration"] == CONFIG | {"auth": auth}
    assert row(project.database, made["id"])["secret"] == secret


@through_both_doors
@pytest.mark.parametrize("secret", [None, {}])
def test_no_secret_where_none_is_needed(project: Project, secret: object) -> None:
    body = configured(auth={"type": "none"}, secret=secret)
    made = created(post(project, project.token(project.database.member()), body))
    assert row(project.database, made["id"])["secret"] == {}
    del body["configuration"]["secret"]
    created(post(project, project.token(project.database.member()), body))


def test_nulls_and_big_numbers_in_a_configuration_stay(project: Project) -> None:
    params = {"n": 10**4000, "text": "\\u0000 🚀"}
    body = with_resource(params=params, date_filter=None)
    made = created(post(project, project.token(project.database.member()), body))
    flights = made["configuration"]["resources"]["flights"]
    assert flights["params"] == params
    assert flights["date_filter"] is None
    assert flights["pagination"]["size_param"] is None


# What is not


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "x"}, "type"),
        ({"type": "http", "configuration": {}}, "name"),
    ],
    ids=["nothing", "no type", "no name"],
)
def test_what_must_be_said(project: Project, body: dict[str, Any], field: str) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        assert refusal(post(project, token, body), 400, "missing_field") == {"field": field}


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


@through_both_doors
@pytest.mark.parametrize("field", WRONG_TYPES)
def test_members_of_another_type(project: Project, field: str) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        for value in WRONG_TYPES[field]:
            response = post(project, token, GOOD | {field: value})
            where = refusal(response, 400, "invalid_field")["field"]
            assert where.partition(".")[0] == field, value
            assert len(response.content) < 1000


BAD_BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "missing_field"),
    "not JSON": (b"name=x", 400, "invalid_json"),
    "cut off": (json.dumps(GOOD).encode()[:-1], 400, "invalid_json"),
    "an array": (json.dumps([GOOD]).encode(), 400, "invalid_request"),
    "null": (b"null", 400, "invalid_request"),
    "half a surrogate pair": (b'{"name": "\\ud800", "type": "records"}', 400, "invalid_json"),
    "half of one in a configuration": (
        b'{"name": "x", "type": "http", "configuration": {"a": "\\udfff"}}',
        400,
        "invalid_json",
    ),
    "half of one as a name in it": (
        b'{"name": "x", "type": "http", "configuration": {"\\udfff": 1}}',
        400,
        "invalid_json",
    ),
    "not UTF-8": (b'{"name": "\xff"}', 400, "invalid_json"),
    "deeply nested": (b'{"name": "x", "type": "records", "configuration": ' + b'{"a":' * 50_000, 400, "invalid_json"),
    "a number of 10,000 digits": (
        b'{"name": "x", "type": "records", "configuration": {"a": ' + b"9" * 10_000 + b"}}",
        400,
        "invalid_json",
    ),
    "too large": (b'{"name": "' + b"x" * 1024 * 1024 + b'"}', 413, "body_too_large"),
}


@through_both_doors
@pytest.mark.parametrize("name", BAD_BODIES)
def test_bodies_that_are_none(project: Project, name: str) -> None:
    body, status, code = BAD_BODIES[name]
    token = project.token(project.database.member())
    with project.unchanged():
        response = post(project, token, body)
    assert refusal(response, status, code) == ({"field": "name"} if code == "missing_field" else {})


WITHOUT = {name: value for name, value in GOOD["configuration"].items() if name != "base_url"}
INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": (GOOD | {"configuration": {}}, "at base_url"),
    "null": (GOOD | {"configuration": None}, "at base_url"),
    "no base_url": (GOOD | {"configuration": WITHOUT}, "at base_url"),
    "no URL": (configured(base_url="api.example.com"), "at base_url"),
    "not https": (configured(base_url="http://api.example.com"), "at base_url"),
    "another scheme": (configured(base_url="file:///etc/passwd"), "at base_url"),
    "a password in the URL": (configured(base_url="https://me:t0p-secret@example.com"), "at base_url"),
    "a key in the URL": (configured(base_url="https://example.com/?key=t0p-secret"), "at base_url"),
    "a number as URL": (configured(base_url=1), "at base_url"),
    "no auth": (configured(auth=None), "at auth"),
    "unknown auth": (configured(auth={"type": "oauth2"}), "at auth"),
    "a secret in auth": (configured(auth={"type": "bearer", "token": "t0p-secret"}), "at auth.bearer.token"),
    "credentials in headers": (configured(headers={"Authorization": "Bearer t0p-secret"}), "at headers"),
    "a header with a line break": (configured(headers={"X": "a\r\nHost: t0p-secret"}), "at headers.X"),
    "no time": (configured(timeout_seconds=0), "at timeout_seconds"),
    "an unknown member": (configured(proxy="http://t0p-secret"), "at proxy"),
    "no resources": (configured(resources={}), "at resources"),
    "a list of resources": (configured(resources=[]), "at resources"),
    "a resource without key": (with_resource(primary_key=[]), "at resources.flights.primary_key"),
    "a path to elsewhere": (with_resource(path="//t0p-secret/x"), "at resources.flights.path"),
    "an unknown pagination": (with_resource(pagination={"type": "magic"}), "at resources.flights.pagination"),
    "no secret": (GOOD | {"configuration": CONFIG}, "The secret for auth type bearer must hold token"),
    "secret null": (configured(secret=None), "The secret for auth type bearer must hold token"),
    "secret empty": (configured(secret={}), "The secret for auth type bearer must hold token"),
    "another secret": (configured(secret={"api_key": "t0p-secret"}), "The secret for auth type bearer must hold token"),
    "more secrets": (
        configured(secret=SECRET | {"t0p-secret": "x"}),
        "The secret for auth type bearer must hold token",
    ),
    "an empty secret": (configured(secret={"token": ""}), "The secret for auth type bearer must hold token"),
    "a secret with a line break": (configured(secret={"token": "t0p\nsecret"}), "The secret for auth type"),
    "a secret that is a text": (configured(secret="t0p-secret"), "configuration.secret is an object."),
    "a secret that is a list": (configured(secret=["t0p-secret"]), "configuration.secret is an object."),
    "a secret that is no object": (configured(secret=False), "secret"),
    "records with a configuration": (
        {"name": "x", "type": "records", "configuration": {"a": "t0p-secret"}},
        "A connection of type records has no configuration.",
    ),
    "records with a secret": (
        {"name": "x", "type": "records", "configuration": {"secret": {"token": "t0p-secret"}}},
        "A connection of type records has no configuration.",
    ),
}


@through_both_doors
@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_configuration_says_where(project: Project, name: str) -> None:
    body, where = INVALID[name]
    token = project.token(project.database.member())
    with project.unchanged():
        response = post(project, token, body)
    assert refusal(response, 400, "invalid_configuration") == {}
    assert where in response.json()["message"]
    assert "t0p" not in response.text


@through_both_doors
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
    ids=lambda text: text[:60],
)
@pytest.mark.parametrize("type_", ["http", "records"])
def test_what_a_database_cannot_hold_or_nobody_would_read(project: Project, configuration: str, type_: str) -> None:
    token = project.token(project.database.member())
    base = json.dumps(GOOD["configuration"])
    body = f'{{"name": "x", "type": "{type_}", "configuration": {base[:-1]}, {configuration[1:]}}}'
    with project.unchanged():
        response = post(project, token, body.encode())
    assert response.status_code == 400, response.text
    assert response.json()["key"] in {"invalid_configuration", "invalid_field", "invalid_json"}
    assert len(response.content) < 2000
    assert refusal(response, 400, response.json()["key"]) in ({}, {"field": "configuration"})


def test_a_configuration_as_deep_as_may_be(project: Project) -> None:
    """Deeper than any real one: refused for what it is, not for how deep."""
    token = project.token(project.database.member())
    for depth in (10, 100, 150, 190, 197, 198, 199, 200, 250, 1000):
        nested = '{"a":' * depth + "1" + "}" * depth
        deep = f'{{"name": "x", "type": "records", "configuration": {nested}}}'
        with project.unchanged():
            response = post(project, token, deep.encode())
        assert response.status_code == 400, (depth, response.text)
        assert response.json()["key"] in {"invalid_configuration", "invalid_json"}


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
    ids=["unknown", "nearly known", "not yet", "several"],
)
def test_members_that_do_not_work_are_all_named(project: Project, members: dict[str, Any], fields: list[str]) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        response = post(project, token, GOOD | members)
    named = refusal(response, 422, "unsupported_field")
    assert sorted(named.pop("fields")) == sorted(fields)
    assert named == {}


@through_both_doors
def test_very_many_and_very_long_unknown_members(project: Project) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        many = post(project, token, GOOD | {f"unknown {n}": n for n in range(1000)})
        long = post(project, token, GOOD | {"x" * 500_000: 1})
    assert len(refusal(many, 422, "unsupported_field")["fields"]) == 100
    assert refusal(long, 422, "unsupported_field")["fields"] == ["x" * 200]
    assert max(len(many.content), len(long.content)) < 10_000


@through_both_doors
def test_what_is_wrong_comes_before_what_does_not_work_yet(project: Project) -> None:
    token = project.token(project.database.member())
    response = post(project, token, GOOD | {"name": 1, "nope": 2})
    assert refusal(response, 400, "invalid_field") == {"field": "name"}


# Who may


def test_a_user_without_agency(project: Project) -> None:
    token = project.token(project.database.user(None))
    with project.unchanged():
        refusal(post(project, token, GOOD), 403, "no_agency")
        refusal(post(project, None, GOOD), 401, "missing_token")
        refusal(post(project, project.auth.service_role_key(), GOOD), 401, "invalid_token")


def test_a_trusted_server_belongs_to_no_agency(project: Project) -> None:
    """Whose the connection would be, nobody has said."""
    arguments = {"name": "x", "type": "records"}
    with project.database.worker() as server:
        refused = server.refusal("create_connection", **arguments)
    assert (refused.sqlstate, refused.code) == ("PT403", "no_agency")


# Where the secret is


def test_the_secret_is_where_the_worker_finds_it_and_nowhere_else(
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


def test_no_example_of_the_document_answers_a_secret() -> None:
    paths = [path for name, path in DOCUMENT["paths"].items() if name.startswith(PATH)]
    operations = [operation for path in paths for operation in path.values()]
    assert len(operations) >= 5
    answers = json.dumps([operation["responses"] for operation in operations])
    assert '"secret"' not in answers
    assert '"token"' not in answers


# Idempotency-Key


def test_the_same_request_creates_once(project: Project) -> None:
    user = project.database.member()
    token, headers = project.token(user), {"idempotency-key": "k"}
    first = post(project, token, GOOD, headers=headers)
    with project.unchanged():
        assert post(project, token, GOOD, headers=headers).content == first.content
        for other in (GOOD | {"name": "x"}, configured(secret={"token": "another"}), configured(timeout_seconds=3)):
            refusal(post(project, token, other, headers=headers), 422, "idempotency_key_reused")
        refusal(post(project, token, GOOD, headers={"idempotency-key": "x" * 256}), 400, "invalid_idempotency_key")
    assert ids(project, token) == [created(first)["id"]]


def test_of_many_at_once_with_one_key_one_creates(project: Project) -> None:
    user = project.database.member()
    token, headers = project.token(user), {"idempotency-key": "k"}
    responses = project.at_once(lambda: post(project, token, GOOD, headers=headers))
    [connection_id] = ids(project, token)
    for response in responses:
        if response.status_code == 200:
            assert created(response)["id"] == connection_id
        else:
            refusal(response, 409, "idempotency_key_in_use")


# What comes first


@through_both_doors
def test_the_order_of_the_checks(project: Project) -> None:
    nobody, user = (project.token(one) for one in (project.database.user(None), project.database.member()))

    def of(token: str | None, body: object) -> tuple[int, str]:
        response = post(project, token, body)
        return response.status_code, response.json()["key"]

    with project.unchanged():
        assert project.request("PUT", PATH).status_code == 405
        assert project.request("PUT", PATH).headers["allow"] == "GET, POST, OPTIONS"
        assert of(None, b"{") == (401, "missing_token")
        assert of(nobody, b"{") == (400, "invalid_json")
        assert of(nobody, GOOD | {"configuration": {}}) == (400, "invalid_configuration")
        assert of(nobody, GOOD) == (403, "no_agency")
        assert of(user, GOOD | {"organization_id": UNKNOWN}) == (403, "other_organization")


@through_both_doors
@pytest.mark.parametrize("version", [None, "2025-09-18", "2024-02-08", "2021-05-23", "1999-01-01", "", "x" * 5000])
def test_every_version_is_answered_in_its_own_name(project: Project, version: str | None) -> None:
    token = project.token(project.database.member())
    headers = {} if version is None else {"x-polytomic-version": version}
    for response in (post(project, token, GOOD, headers=headers), post(project, None, GOOD, headers=headers)):
        known = version if version in {"2025-09-18", "2024-02-08", "2021-05-23"} else "2025-09-18"
        assert response.headers["x-polytomic-version"] == known
