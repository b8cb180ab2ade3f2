"""API keys: creation, listing, revocation, authentication with a key, and secrecy of the key."""

from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from functions._shared import registry
from functions._shared.caller import Caller
from functions._shared.endpoint import RpcContext
from functions._shared.logs import JsonFormatter
from functions.api_key.list_api_keys import ApiKey, ApiKeys
from tests.support import documented
from tests.support.connections import GOOD, PATH, UNKNOWN, created, everything_stored, ids, make_key, revoke_key, row
from tests.support.database import HTTP_CONFIG, SqlError, User, rpc
from tests.support.project import BOTH_TRANSPORTS, JANUARY, Project, both_transports, expect_error, one_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from functions._shared.endpoint import Endpoint
    from tests.support.database import Database

BY_KEY = [endpoint for endpoint in registry.endpoints() if endpoint.error_format.api_keys]
BY_USER = [endpoint for endpoint in registry.endpoints() if not endpoint.error_format.api_keys]
# The first of each error format. tests/api/test_round_trips.py sends a key to every endpoint.
ONE_BY_KEY = list({endpoint.error_format.name: endpoint for endpoint in reversed(BY_KEY)}.values())
each_user_endpoint = pytest.mark.parametrize("endpoint", BY_USER, ids=lambda endpoint: endpoint.name)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def call(project: Project, endpoint: Endpoint, **headers: str) -> httpx.Response:
    """Call the endpoint with its documented example, whose ids exist in no agency."""
    path, members = endpoint.path, dict(endpoint.example_request)
    for name in list(members):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", str(members.pop(name)))
    has_body = endpoint.method not in ("GET", "DELETE")
    options: dict[str, Any] = {"json": members} if has_body else {"params": members}
    return project.request(endpoint.method, path, headers=headers, **options)


def list_keys(project: Project, user: User) -> list[dict[str, Any]]:
    response = project.request("GET", "/list-api-keys", project.token(user))
    assert response.status_code == 200, response.text
    ApiKeys.model_validate_json(response.content, strict=True, extra="forbid")
    listed: list[dict[str, Any]] = response.json()["api_keys"]
    return listed


def set_last_use_to_two_minutes_ago(database: Database, key_id: str) -> None:
    database.admin.execute(
        "update app.api_keys set last_used_at = now() - interval '2 minutes' where id = %s", (key_id,)
    )


# Create, list, revoke


@both_transports
def test_create_api_key__returns_the_key_once(project: Project) -> None:
    user = project.database.member()
    assert list_keys(project, user) == []
    key, key_id = make_key(project, user, "nightly jobs 🌙")
    [listed] = list_keys(project, user)
    assert listed == {
        "id": key_id,
        "name": "nightly jobs 🌙",
        "hint": key[-4:],
        "created_at": listed["created_at"],
        "created_by": f"user:{user.id}",
        "last_used_at": None,
        "revoked_at": None,
        "revoked_by": None,
    }
    assert len(key) == len("sync_") + 64


@both_transports
def test_list_api_keys__newest_first_own_agency_only(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    colleague = project.database.user(user.agency_id)
    made = [make_key(project, member)[1] for member in (user, colleague, user)]
    theirs = make_key(project, stranger)[1]
    assert [key["id"] for key in list_keys(project, user)] == made[::-1]
    assert [key["id"] for key in list_keys(project, colleague)] == made[::-1]
    assert [key["id"] for key in list_keys(project, stranger)] == [theirs]


@one_transport
def test_create_api_key__keys_are_unique(project: Project) -> None:
    user = project.database.member()
    assert len({make_key(project, user)[0] for _ in range(10)}) == 10


@both_transports
def test_create_api_key__idempotency_key_is_ignored(project: Project) -> None:
    user = project.database.member()
    headers = {"idempotency-key": "once"}
    made = [
        project.request("POST", "/create-api-key", project.token(user), json={"name": "x"}, headers=headers).json()
        for _ in range(2)
    ]
    assert made[0]["key"] != made[1]["key"]
    assert made[0]["key"] not in everything_stored(project.database)


@one_transport
@pytest.mark.parametrize(
    ("name", "code"),
    [
        (None, "missing_field"),
        (b'{"name": null}', "invalid_field"),
        (b'{"name": ""}', "invalid_field"),
        (b'{"name": 1}', "invalid_field"),
        (b'{"name": ["x"]}', "invalid_field"),
        (b'{"name": "a\\u0000b"}', "invalid_field"),
        (b'{"name": "' + b"x" * 201 + b'"}', "invalid_field"),
        (b'{"name": "\\ud800"}', "invalid_json"),
        (b'"name"', "invalid_request"),
    ],
    ids=["missing", "null", "empty", "number", "list", "NUL", "too long", "lone surrogate", "body is a string"],
)
def test_create_api_key__invalid_name(project: Project, name: bytes | None, code: str) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        response = project.request("POST", "/create-api-key", token, content=name)
    assert expect_error(response, 400, code) == ({"field": "name"} if code.endswith("_field") else {})


@both_transports
def test_api_key_endpoints__user_without_agency(project: Project) -> None:
    token = project.token(project.database.user(None))
    with project.unchanged():
        expect_error(project.request("POST", "/create-api-key", token, json={"name": "x"}), 403, "no_agency")
        expect_error(project.request("GET", "/list-api-keys", token), 403, "no_agency")
        expect_error(project.request("POST", "/revoke-api-key", token, json={"api_key_id": UNKNOWN}), 403, "no_agency")


@both_transports
def test_revoke_api_key__immediate_and_idempotent(project: Project) -> None:
    user, colleague = (owner := project.database.member()), project.database.user(owner.agency_id)
    key, key_id = make_key(project, user)
    other, _ = make_key(project, user)
    assert ids(project, key) == []
    response = revoke_key(project, colleague, key_id)
    assert response.status_code == 200, response.text
    ApiKey.model_validate_json(response.content, strict=True, extra="forbid")
    assert response.json()["revoked_by"] == f"user:{colleague.id}"
    for _ in range(2):
        expect_error(project.request("GET", PATH, key), 401, "invalid_api_key")
        with project.unchanged():
            assert revoke_key(project, user, key_id).json() == response.json()
    assert {key["id"]: key["revoked_at"] is not None for key in list_keys(project, user)}[key_id]
    assert ids(project, other) == []


@both_transports
def test_revoke_api_key__other_agency(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    key, key_id = make_key(project, owner)
    with project.unchanged():
        for api_key_id in (key_id, UNKNOWN):
            assert expect_error(revoke_key(project, stranger, api_key_id), 404, "api_key_not_found") == {}
    assert ids(project, key) == []


# Formats of the header


@both_transports
@pytest.mark.parametrize(
    "header",
    [
        lambda key: f"Bearer {key}",
        lambda key: f"bearer   {key}",
        lambda key: f"Bearer {b64(key)}",
        lambda key: f"Basic {b64(key + ':')}",
        lambda key: f"BASIC {b64(key + ':any:password 🗝')}",
        lambda key: f"Basic {b64(key)}",
    ],
    ids=["Bearer", "lower case with spaces", "base64", "Basic", "Basic with password", "Basic without colon"],
)
def test_api_key_authentication__accepted_formats(project: Project, header: Callable[[str], str]) -> None:
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id)
    key, _ = make_key(project, user)
    response = project.request("GET", PATH, headers={"authorization": header(key)})
    assert response.status_code == 200, response.text
    assert [connection["id"] for connection in response.json()["data"]] == [connection_id]
    assert key not in response.text


WRONG: dict[str, tuple[Callable[[str], str], str]] = {
    "unknown": (lambda _: "Bearer sync_" + "0" * 64, "invalid_api_key"),
    "another last character": (lambda key: "Bearer " + key[:-1] + ("1" if key[-1] == "0" else "0"), "invalid_api_key"),
    "truncated": (lambda key: f"Bearer {key[:-1]}", "invalid_token"),
    "one character too many": (lambda key: f"Bearer {key}0", "invalid_token"),
    "upper case": (lambda key: f"Bearer {key.upper()}", "invalid_token"),
    "upper-case digits": (lambda key: "Bearer sync_" + key[5:].upper().replace("0", "A"), "invalid_token"),
    "without sync_": (lambda key: f"Bearer {key[5:]}", "invalid_token"),
    "only sync_": (lambda _: "Bearer sync_", "invalid_token"),
    "inner spaces": (lambda key: f"Bearer {key[:20]} {key[20:]}", "invalid_token"),
    "tab": (lambda key: f"Bearer\t{key}", "missing_token"),
    "no scheme": (lambda key: key, "missing_token"),
    "another scheme": (lambda key: f"Token {key}", "missing_token"),
    "two keys": (lambda key: f"Bearer {key}, Bearer {key}", "invalid_token"),
    "base64 twice": (lambda key: f"Bearer {b64(b64(key))}", "invalid_token"),
    "truncated base64": (lambda key: f"Bearer {b64(key)[:-1]}", "invalid_token"),
    "base64 of a line with its end": (lambda key: f"Bearer {b64(key + chr(10))}", "invalid_token"),
    "base64 of bytes that are not UTF-8": (
        lambda _: "Bearer " + base64.b64encode(b"\xff\xfe" * 30).decode(),
        "invalid_token",
    ),
    "Basic, not base64": (lambda key: f"Basic {key}:", "missing_token"),
    "Basic, key as password": (lambda key: f"Basic {b64(':' + key)}", "missing_token"),
    "Basic, leading space": (lambda key: f"Basic {b64(' ' + key + ':')}", "missing_token"),
    "Basic, empty": (lambda _: "Basic", "missing_token"),
    "10 kB": (lambda key: f"Bearer {key}{'0' * 10_000}", "invalid_token"),
    "10 kB of base64": (lambda key: f"Basic {b64(key + ':' + 'x' * 10_000)}", "missing_token"),
    "quoted": (lambda key: f'Bearer "{key}"', "invalid_token"),
    "superscript digit": (lambda key: f"Bearer {key[:-1]}\xb2", "invalid_token"),
    "SQL": (lambda _: "Bearer sync_' or true --", "invalid_token"),
}


@one_transport
@pytest.mark.parametrize("name", WRONG)
def test_api_key_authentication__rejected_formats(project: Project, name: str) -> None:
    header, code = WRONG[name]
    key, _ = make_key(project, project.database.member())
    with project.unchanged():
        response = project.request("GET", PATH, headers={"authorization": header(key)})
    assert expect_error(response, 401, code) == {}
    assert "status" not in response.json()


@one_transport
def test_api_key_authentication__duplicate_header(project: Project) -> None:
    key, _ = make_key(project, project.database.member())
    twice = [("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}")]
    with project.unchanged():
        response = httpx.get(f"{project.url}{PATH}", headers=twice)
    expect_error(response, 401, "invalid_token")


# Endpoints and agencies


def outcome(response: httpx.Response) -> tuple[int, str | None]:
    return response.status_code, None if response.is_success else documented.code(response.json())


@one_transport
@pytest.mark.parametrize("endpoint", ONE_BY_KEY, ids=lambda endpoint: endpoint.name)
def test_api_key_authentication__accepted_by_endpoint(project: Project, endpoint: Endpoint) -> None:
    """An endpoint responds to a key as to a user's token; without credentials or with a revoked key it is 401."""
    user = project.database.member()
    key, key_id = make_key(project, user)
    token = project.token(user)
    of_user, of_key = (call(project, endpoint, authorization=f"Bearer {credential}") for credential in (token, key))
    assert outcome(of_user) == outcome(of_key)
    assert of_key.status_code != 401
    revoke_key(project, user, key_id)
    with project.unchanged():
        assert outcome(call(project, endpoint)) == (401, "missing_token")
        assert outcome(call(project, endpoint, authorization=f"Bearer {key}")) == (401, "invalid_api_key")
        anon = f"Bearer {project.auth.anon_key()}"
        assert outcome(call(project, endpoint, authorization=anon)) == (401, "invalid_token")


@one_transport
@each_user_endpoint
def test_api_key_authentication__rejected_by_endpoint(project: Project, endpoint: Endpoint) -> None:
    """The endpoints of API keys and of historical syncs do not accept keys."""
    key, _ = make_key(project, project.database.member())
    with project.unchanged():
        expect_error(call(project, endpoint, authorization=f"Bearer {key}"), 401, "invalid_token")
        expect_error(call(project, endpoint, authorization=f"Basic {b64(key + ':')}"), 401, "missing_token")
        expect_error(call(project, endpoint, **{"x-agency-key": key}), 401, "missing_token")


@both_transports
def test_api_key__limited_to_its_agency(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    key, key_id = make_key(project, stranger)
    theirs = project.database.connection(owner.agency_id)
    with project.unchanged():
        assert row_of_key(project.database, key_id)["last_used_at"] is None
    assert ids(project, key) == []
    with project.unchanged():
        for method in ("GET", "DELETE"):
            expect_error(project.request(method, f"{PATH}/{theirs}", key), 404, "connection_not_found")
        tested = {"type": "http", "configuration": {}, "connection_id": theirs}
        expect_error(project.request("POST", f"{PATH}/test", key, json=tested), 404, "connection_not_found")
        mine = GOOD | {"organization_id": owner.agency_id}
        expect_error(project.request("POST", PATH, key, json=mine), 403, "other_organization")
    made = created(project.request("POST", PATH, key, json=GOOD | {"organization_id": stranger.agency_id}))
    assert made["organization_id"] == stranger.agency_id
    assert made["created_by"] == {"id": key_id, "type": "api_key", "name": f"api_key:{key_id}"}
    assert ids(project, key) == ids(project, project.token(stranger)) == [made["id"]]
    assert ids(project, project.token(owner)) == [theirs]


def create_sync(project: Project, token: str, agency_id: str | None) -> str:
    """Create a bulk sync between two new connections."""
    source = project.database.connection(agency_id)
    destination = project.database.connection(agency_id, "records", {})
    body = {"name": "x", "source_connection_id": source, "destination_connection_id": destination}
    response = project.request("POST", "/api/bulk/syncs", token, json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["data"]["id"])


@one_transport
def test_api_key__named_as_actor_in_audit(project: Project) -> None:
    user = project.database.member()
    key, key_id = make_key(project, user)
    sync_id = create_sync(project, key, user.agency_id)
    started = project.request("POST", f"/api/bulk/syncs/{sync_id}/executions", key, json={})
    execution_id = started.json()["data"]["id"]
    cancelled = project.request("POST", f"/api/bulk/syncs/{sync_id}/cancel", key)
    assert cancelled.status_code == 200, cancelled.text
    events = project.database.events(execution_id)
    assert [(event["event"], event["actor"]) for event in events] == [
        ("start", f"api_key:{key_id}"),
        ("request_cancel", f"api_key:{key_id}"),
    ]
    assert [event["request_id"] for event in events] == [
        started.headers["x-request-id"],
        cancelled.headers["x-request-id"],
    ]
    assert project.database.execution(execution_id)["cancelled_by"] == f"api_key:{key_id}"


# Last use


@both_transports
def test_api_key__last_used_at_updated_once_a_minute(project: Project) -> None:
    user = project.database.member()
    key, key_id = make_key(project, user)
    other, other_id = make_key(project, user)
    ids(project, key)
    first = last_uses(project, user)
    assert first[key_id] is not None
    assert first[other_id] is None
    with project.unchanged():
        ids(project, key)
    set_last_use_to_two_minutes_ago(project.database, key_id)
    ids(project, key)
    second = last_uses(project, user)
    assert second[key_id] >= first[key_id]
    assert second[other_id] is None
    revoke_key(project, user, other_id)
    with project.unchanged():
        expect_error(project.request("GET", PATH, other), 401, "invalid_api_key")


def last_uses(project: Project, user: User) -> dict[str, Any]:
    """`last_used_at` by key id."""
    return {key["id"]: key["last_used_at"] for key in list_keys(project, user)}


@both_transports
def test_api_key__concurrent_use_does_not_wait_for_the_row_lock(project: Project) -> None:
    """Another transaction holds a lock on the key's row."""
    user = project.database.member()
    key, key_id = make_key(project, user)
    set_last_use_to_two_minutes_ago(project.database, key_id)
    before = row_of_key(project.database, key_id)
    with project.database.connect() as holder, holder.transaction():
        holder.execute("select from app.api_keys where id = %s for update", (key_id,))
        assert ids(project, key) == []
        created(project.request("POST", PATH, key, json=GOOD))
    assert row_of_key(project.database, key_id) == before
    ids(project, key)
    assert row_of_key(project.database, key_id) != before


def row_of_key(database: Database, key_id: str) -> dict[str, Any]:
    return database.one("select * from app.api_keys where id = %s", (key_id,))


@both_transports
def test_revoke_api_key__does_not_wait_for_a_reader(project: Project) -> None:
    user = project.database.member()
    key, key_id = make_key(project, user)
    ids(project, key)
    with project.database.session({"role": "anon"}) as reader, reader.connection.transaction():
        reader.execute("select set_config('request.headers', %s, false)", (json.dumps({"x-agency-key": key}),))
        reader.call("list_connections")
        assert revoke_key(project, user, key_id).status_code == 200


# Secrecy


class Log(logging.Handler):
    """Collects everything that is logged, as formatted text."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record)


@pytest.fixture
def log() -> Iterator[Log]:
    handler = Log()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.setLevel(level)
    root.removeHandler(handler)


@both_transports
def test_api_key__stored_only_as_a_hash(project: Project, log: Log) -> None:
    user = project.database.member()
    key, key_id = make_key(project, user)
    made = created(project.request("POST", PATH, key, json=GOOD, headers={"idempotency-key": "k"}))
    with project.without("app.connection_object"):
        expect_error(project.request("GET", f"{PATH}/{made['id']}", key), 500, "internal_error")
    assert log.text
    project.request("DELETE", f"{PATH}/{UNKNOWN}", key)
    revoke_key(project, user, key_id)
    response = project.request("GET", PATH, key)
    everywhere = everything_stored(project.database) + log.text + response.text + json.dumps(list_keys(project, user))
    if project.setup.transport == "postgrest":
        everywhere += project.backend.postgrest.logged()
    assert key_id in everywhere
    for part in (key, key[5:], key[:40], b64(key)):
        assert part not in everywhere
    stored = row_of_key(project.database, key_id)
    digest = project.database.one("select sha256(convert_to(%s, 'UTF8')) as hash", (key,))
    assert stored["hash"] == digest["hash"]


@one_transport
def test_api_key__absent_from_repr(project: Project) -> None:
    key, _ = make_key(project, project.database.member())
    caller = Caller(token=None, claims={"role": "anon"}, agency_key=key)
    assert key[5:] not in f"{caller!r} {RpcContext(project.services, caller, 'r', {})!r} {project.services!r}"


def test_api_key__hash_unreadable_for_members(database: Database) -> None:
    user = database.member()
    with database.session(user.claims) as session:
        session.call("create_api_key", name="x")
        for query in ("select hash from app.api_keys", "select * from app.api_keys", "table app.api_keys"):
            error = session.attempt(query)
            assert isinstance(error, SqlError), query
            assert error.sqlstate == "42501"
        assert isinstance(session.attempt("update app.api_keys set hash = sha256('x')"), SqlError)


# The header x-agency-key, which only the functions may set


@both_transports
def test_api_key_header__ignored_with_a_user_token(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    key, key_id = make_key(project, stranger)
    theirs = project.database.connection(stranger.agency_id)
    token, headers = project.token(user), {"x-agency-key": key}
    assert ids_with(project, token, headers) == []
    expect_error(project.request("GET", f"{PATH}/{theirs}", token, headers=headers), 404, "connection_not_found")
    made = created(project.request("POST", PATH, token, json=GOOD, headers=headers))
    assert (made["organization_id"], made["created_by"]["id"]) == (user.agency_id, user.id)
    assert row_of_key(project.database, key_id)["last_used_at"] is None


def ids_with(project: Project, token: str, headers: Mapping[str, str]) -> list[str]:
    response = project.request("GET", PATH, token, headers=headers)
    assert response.status_code == 200, response.text
    return [connection["id"] for connection in response.json()["data"]]


@both_transports
def test_api_key_header__not_forwarded_from_clients(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    key, _ = make_key(project, user)
    theirs, _ = make_key(project, stranger)
    mine = project.database.connection(user.agency_id)
    with project.unchanged():
        for name in ("x-agency-key", "X-Agency-Key", "x_agency_key"):
            expect_error(project.request("GET", PATH, headers={name: key}), 401, "missing_token")
    assert ids_with(project, key, {"x-agency-key": theirs}) == [mine]


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[1:], indirect=True, ids=str)
def test_api_key_header__accepted_by_postgrest_for_anon_only(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    key, key_id = make_key(project, stranger)
    theirs, mine = (project.database.connection(member.agency_id) for member in (stranger, user))

    def call_rpc(name: str, /, token: str | None, agency_key: str | None, **arguments: Any) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        headers |= {} if agency_key is None else {"x-agency-key": agency_key}
        return httpx.post(f"{project.backend.postgrest.url}/rpc/{name}", json=arguments, headers=headers)

    def listed(token: str | None, agency_key: str | None) -> list[str]:
        response = call_rpc("list_connections", token, agency_key)
        assert response.status_code == 200, response.text
        return [connection["id"] for connection in response.json()["data"]]

    token = project.token(user)
    assert listed(token, None) == listed(token, key) == [mine]
    assert row_of_key(project.database, key_id)["last_used_at"] is None
    assert listed(None, key) == listed(project.auth.anon_key(), key) == [theirs]
    with project.unchanged():
        for agency_key in (None, "", "sync_", b64(key), key.upper(), f"{key},{key}", "null"):
            response = call_rpc("list_connections", None, agency_key)
            assert (response.status_code, response.json()["message"]) == (401, "invalid_api_key"), agency_key
        rejected: dict[str, dict[str, Any]] = {
            "create_api_key": {"name": "x"},
            "list_api_keys": {},
            "revoke_api_key": {"api_key_id": key_id},
            "start_historical_sync": {"connection_id": theirs, **JANUARY},
            "cancel_sync_job": {"job_id": UNKNOWN},
            "list_historical_syncs": {},
            "worker_claim": {"worker": "w", "families": ["historical_sync"]},
        }
        for name, arguments in rejected.items():
            response = call_rpc(name, None, key, **arguments)
            assert (response.status_code, response.json()["code"]) == (401, "42501"), name
        for relation in ("historical_sync_jobs", "users", "agencies"):
            response = httpx.get(f"{project.backend.postgrest.url}/{relation}", headers={"x-agency-key": key})
            assert response.status_code == 401, relation


def test_api_key_header__missing_or_unknown_key_is_401_for_every_function(database: Database) -> None:
    """Call every function that the catalog grants to `anon`."""
    functions = database.all(
        "select proname as name, coalesce(proargnames[1:pronargs], '{}') as names from pg_proc"
        " where pronamespace = 'public'::regnamespace and has_function_privilege('anon', oid, 'EXECUTE') order by 1"
    )
    assert {endpoint.rpc for endpoint in BY_KEY} <= {function["name"] for function in functions}
    before = database.fingerprint()
    with database.session({"role": "anon"}) as session:
        for headers in ({}, {"x-agency-key": ""}, {"x-agency-key": "sync_" + "0" * 64}, {"x-agency-key": None}):
            session.execute("select set_config('request.headers', %s, false)", (json.dumps(headers),))
            for function in functions:
                error = session.attempt(*rpc(function["name"], **dict.fromkeys(function["names"])))
                assert isinstance(error, SqlError), function["name"]
                assert (error.sqlstate, error.code) == ("PT401", "invalid_api_key"), function["name"]
        for table in database.all(
            "select oid::regclass::text as name from pg_class where relkind in ('r', 'v')"
            " and relnamespace in ('app'::regnamespace, 'public'::regnamespace)"
        ):
            assert isinstance(session.attempt(f"select from {table['name']}"), SqlError), table["name"]
    assert database.fingerprint() == before


# Idempotency-Key


@both_transports
def test_idempotency_key__scoped_to_the_api_key(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    first, first_id = make_key(project, user)
    second, _ = make_key(project, user)
    theirs, _ = make_key(project, stranger)
    headers = {"idempotency-key": "same"}
    callers = [first, second, theirs, project.token(user), project.token(stranger)]
    made = [created(project.request("POST", PATH, caller, json=GOOD, headers=headers)) for caller in callers]
    assert len({connection["id"] for connection in made}) == len(callers)
    with project.unchanged():
        again = [created(project.request("POST", PATH, caller, json=GOOD, headers=headers)) for caller in callers]
        assert again == made
        other = project.request("POST", PATH, first, json=GOOD | {"name": "other"}, headers=headers)
        expect_error(other, 422, "idempotency_key_reused")
    revoke_key(project, user, first_id)
    with project.unchanged():
        expect_error(project.request("POST", PATH, first, json=GOOD, headers=headers), 401, "invalid_api_key")


def test_api_key__row_policies_limit_rows_to_its_agency(database: Database) -> None:
    """Even if a function omits its own check, the policies show only rows of the key's agency."""
    owner, stranger = database.member(), database.member()
    with database.session(stranger.claims) as session:
        key = session.call("create_api_key", name="x")["key"]
    connection_id = database.connection(owner.agency_id, config=HTTP_CONFIG)
    with database.session({"role": "anon"}) as session:
        session.execute("select set_config('request.headers', %s, false)", (json.dumps({"x-agency-key": key}),))
        with session.connection.transaction():
            session.call("list_connections")
            [role] = session.execute("select current_user as name, app.agency_id()::text as agency")
            assert role == {"name": "authenticated", "agency": stranger.agency_id}
            assert session.execute("select id from app.connections") == []
            assert session.execute("select id from app.api_keys where agency_id <> %s", (stranger.agency_id,)) == []
        [after] = session.execute("select current_user as name")
        assert after == {"name": "anon"}
    assert row(database, connection_id)["deleted_at"] is None
