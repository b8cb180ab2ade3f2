"""API keys: whose they are, what they open and what they do not, and that nobody but their maker ever sees one."""

from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from functions._shared import registry
from functions._shared.auth import Caller
from functions._shared.endpoint import RpcContext
from functions._shared.logs import JsonFormatter
from functions.api_key.list_api_keys import ApiKey, ApiKeys
from tests.support import documented
from tests.support.connections import GOOD, PATH, UNKNOWN, created, everything_stored, ids, make_key, revoke_key, row
from tests.support.database import HTTP_CONFIG, ErrorSpec, User, rpc
from tests.support.project import BOTH_TRANSPORTS, JANUARY, Project, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from functions._shared.endpoint import Endpoint
    from tests.support.database import Database

through_both_doors = pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
BY_KEY = [endpoint for endpoint in registry.endpoints() if endpoint.error_format.api_keys]
BY_USER = [endpoint for endpoint in registry.endpoints() if not endpoint.error_format.api_keys]
every_endpoint_for_keys = pytest.mark.parametrize("endpoint", BY_KEY, ids=lambda endpoint: endpoint.name)
every_endpoint_for_users = pytest.mark.parametrize("endpoint", BY_USER, ids=lambda endpoint: endpoint.name)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def call(project: Project, endpoint: Endpoint, **headers: str) -> httpx.Response:
    """The endpoint with its documented example: what it is about exists in no agency."""
    path, members = endpoint.path, dict(endpoint.example_request)
    for name in list(members):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", str(members.pop(name)))
    has_body = endpoint.method not in ("GET", "DELETE")
    options: dict[str, Any] = {"json": members} if has_body else {"params": members}
    return project.request(endpoint.method, path, headers=headers, **options)


def keys(project: Project, user: User) -> list[dict[str, Any]]:
    response = project.request("GET", "/list-api-keys", project.token(user))
    assert response.status_code == 200, response.text
    ApiKeys.model_validate_json(response.content, strict=True, extra="forbid")
    listed: list[dict[str, Any]] = response.json()["api_keys"]
    return listed


def fresh(database: Database, key_id: str) -> None:
    """As if the key had not been used for a while."""
    database.admin.execute(
        "update app.api_keys set last_used_at = now() - interval '2 minutes' where id = %s", (key_id,)
    )


# Making, listing and revoking


def test_a_key_is_made_and_listed_without_the_key(project: Project) -> None:
    user = project.database.member()
    assert keys(project, user) == []
    key, key_id = make_key(project, user, "nightly jobs 🌙")
    [listed] = keys(project, user)
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


def test_keys_are_listed_newest_first_and_to_the_agency_only(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    colleague = project.database.user(user.agency_id)
    made = [make_key(project, one)[1] for one in (user, colleague, user)]
    theirs = make_key(project, stranger)[1]
    assert [key["id"] for key in keys(project, user)] == made[::-1]
    assert [key["id"] for key in keys(project, colleague)] == made[::-1]
    assert [key["id"] for key in keys(project, stranger)] == [theirs]


def test_no_two_keys_are_alike(project: Project) -> None:
    user = project.database.member()
    assert len({make_key(project, user)[0] for _ in range(10)}) == 10


@through_both_doors
def test_an_idempotency_key_does_not_bring_a_key_back(project: Project) -> None:
    user = project.database.member()
    headers = {"idempotency-key": "once"}
    made = [
        project.request("POST", "/create-api-key", project.token(user), json={"name": "x"}, headers=headers).json()
        for _ in range(2)
    ]
    assert made[0]["key"] != made[1]["key"]
    assert made[0]["key"] not in everything_stored(project.database)


@through_both_doors
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
    ids=["none", "null", "empty", "a number", "a list", "a NUL", "long", "half a surrogate pair", "no object"],
)
def test_a_name_that_is_none(project: Project, name: bytes | None, code: str) -> None:
    token = project.token(project.database.member())
    with project.unchanged():
        response = project.request("POST", "/create-api-key", token, content=name)
    assert refusal(response, 400, code) == ({"field": "name"} if code.endswith("_field") else {})


def test_a_user_without_agency(project: Project) -> None:
    token = project.token(project.database.user(None))
    with project.unchanged():
        refusal(project.request("POST", "/create-api-key", token, json={"name": "x"}), 403, "no_agency")
        refusal(project.request("GET", "/list-api-keys", token), 403, "no_agency")
        refusal(project.request("POST", "/revoke-api-key", token, json={"api_key_id": UNKNOWN}), 403, "no_agency")


def test_revoking_takes_effect_at_once_and_twice_is_harmless(project: Project) -> None:
    user, colleague = (owner := project.database.member()), project.database.user(owner.agency_id)
    key, key_id = make_key(project, user)
    other, _ = make_key(project, user)
    assert ids(project, key) == []
    response = revoke_key(project, colleague, key_id)
    assert response.status_code == 200, response.text
    ApiKey.model_validate_json(response.content, strict=True, extra="forbid")
    assert response.json()["revoked_by"] == f"user:{colleague.id}"
    for _ in range(2):
        refusal(project.request("GET", PATH, key), 401, "invalid_api_key")
        with project.unchanged():
            assert revoke_key(project, user, key_id).json() == response.json()
    assert {key["id"]: key["revoked_at"] is not None for key in keys(project, user)}[key_id]
    assert ids(project, other) == []


def test_another_agencys_key_cannot_be_revoked(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    key, key_id = make_key(project, owner)
    with project.unchanged():
        for one in (key_id, UNKNOWN):
            assert refusal(revoke_key(project, stranger, one), 404, "api_key_not_found") == {}
    assert ids(project, key) == []


# What is sent


@pytest.mark.parametrize(
    "spelled",
    [
        lambda key: f"Bearer {key}",
        lambda key: f"bearer   {key}",
        lambda key: f"Bearer {b64(key)}",
        lambda key: f"Basic {b64(key + ':')}",
        lambda key: f"BASIC {b64(key + ':any:password 🗝')}",
        lambda key: f"Basic {b64(key)}",
    ],
    ids=["Bearer", "lower case, spaces", "base64", "Basic", "Basic with a password", "Basic without a colon"],
)
def test_ways_to_send_a_key(project: Project, spelled: Callable[[str], str]) -> None:
    user = project.database.member()
    connection_id = project.database.connection(user.agency_id)
    key, _ = make_key(project, user)
    response = project.request("GET", PATH, headers={"authorization": spelled(key)})
    assert response.status_code == 200, response.text
    assert [connection["id"] for connection in response.json()["data"]] == [connection_id]
    assert key not in response.text


WRONG: dict[str, tuple[Callable[[str], str], str]] = {
    "unknown": (lambda _: "Bearer sync_" + "0" * 64, "invalid_api_key"),
    "another last character": (lambda key: "Bearer " + key[:-1] + ("1" if key[-1] == "0" else "0"), "invalid_api_key"),
    "truncated": (lambda key: f"Bearer {key[:-1]}", "invalid_token"),
    "a character more": (lambda key: f"Bearer {key}0", "invalid_token"),
    "upper case": (lambda key: f"Bearer {key.upper()}", "invalid_token"),
    "upper-case digits": (lambda key: "Bearer sync_" + key[5:].upper().replace("0", "A"), "invalid_token"),
    "without sync_": (lambda key: f"Bearer {key[5:]}", "invalid_token"),
    "only sync_": (lambda _: "Bearer sync_", "invalid_token"),
    "spaces within": (lambda key: f"Bearer {key[:20]} {key[20:]}", "invalid_token"),
    "a tab": (lambda key: f"Bearer\t{key}", "missing_token"),
    "no scheme": (lambda key: key, "missing_token"),
    "another scheme": (lambda key: f"Token {key}", "missing_token"),
    "two keys": (lambda key: f"Bearer {key}, Bearer {key}", "invalid_token"),
    "base64 twice": (lambda key: f"Bearer {b64(b64(key))}", "invalid_token"),
    "base64 without its end": (lambda key: f"Bearer {b64(key)[:-1]}", "invalid_token"),
    "base64 of a line": (lambda key: f"Bearer {b64(key + chr(10))}", "invalid_token"),
    "base64 that is no text": (lambda _: "Bearer " + base64.b64encode(b"\xff\xfe" * 30).decode(), "invalid_token"),
    "Basic, not base64": (lambda key: f"Basic {key}:", "missing_token"),
    "Basic, the key as password": (lambda key: f"Basic {b64(':' + key)}", "missing_token"),
    "Basic, a space before it": (lambda key: f"Basic {b64(' ' + key + ':')}", "missing_token"),
    "Basic, nothing": (lambda _: "Basic", "missing_token"),
    "10 kB": (lambda key: f"Bearer {key}{'0' * 10_000}", "invalid_token"),
    "10 kB of base64": (lambda key: f"Basic {b64(key + ':' + 'x' * 10_000)}", "missing_token"),
    "quoted": (lambda key: f'Bearer "{key}"', "invalid_token"),
    "other digits": (lambda key: f"Bearer {key[:-1]}\xb2", "invalid_token"),
    "SQL": (lambda _: "Bearer sync_' or true --", "invalid_token"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_key(project: Project, name: str) -> None:
    spelled, code = WRONG[name]
    key, _ = make_key(project, project.database.member())
    with project.unchanged():
        response = project.request("GET", PATH, headers={"authorization": spelled(key)})
    assert refusal(response, 401, code) == {}
    assert "status" not in response.json()


def test_two_headers_are_no_key(project: Project) -> None:
    key, _ = make_key(project, project.database.member())
    twice = [("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}")]
    with project.unchanged():
        response = httpx.get(f"{project.url}{PATH}", headers=twice)
    refusal(response, 401, "invalid_token")


# What it opens, and whose


def outcome(response: httpx.Response) -> tuple[int, str | None]:
    return response.status_code, None if response.is_success else documented.code(response.json())


@through_both_doors
@every_endpoint_for_keys
def test_where_keys_are_taken(project: Project, endpoint: Endpoint) -> None:
    """A key passes as a user's token does; without either, or with a revoked one, it is 401."""
    user = project.database.member()
    key, key_id = make_key(project, user)
    token = project.token(user)
    of_user, of_key = (call(project, endpoint, authorization=f"Bearer {one}") for one in (token, key))
    assert outcome(of_user) == outcome(of_key)
    assert of_key.status_code != 401
    revoke_key(project, user, key_id)
    with project.unchanged():
        assert outcome(call(project, endpoint)) == (401, "missing_token")
        assert outcome(call(project, endpoint, authorization=f"Bearer {key}")) == (401, "invalid_api_key")
        anon = f"Bearer {project.auth.anon_key()}"
        assert outcome(call(project, endpoint, authorization=anon)) == (401, "invalid_token")


@through_both_doors
@every_endpoint_for_users
def test_where_they_are_not(project: Project, endpoint: Endpoint) -> None:
    """Neither the keys themselves nor the historical syncs are for keys."""
    key, _ = make_key(project, project.database.member())
    with project.unchanged():
        refusal(call(project, endpoint, authorization=f"Bearer {key}"), 401, "invalid_token")
        refusal(call(project, endpoint, authorization=f"Basic {b64(key + ':')}"), 401, "missing_token")
        refusal(call(project, endpoint, **{"x-agency-key": key}), 401, "missing_token")


def test_a_key_acts_in_its_own_agency_and_nothing_of_another_is_there(project: Project) -> None:
    owner, stranger = project.database.member(), project.database.member()
    key, key_id = make_key(project, stranger)
    theirs = project.database.connection(owner.agency_id)
    with project.unchanged():
        fresh_use = project.database.one("select last_used_at from app.api_keys where id = %s", (key_id,))
        assert fresh_use == {"last_used_at": None}
    assert ids(project, key) == []
    with project.unchanged():
        for method in ("GET", "DELETE"):
            refusal(project.request(method, f"{PATH}/{theirs}", key), 404, "connection_not_found")
        tested = {"type": "http", "configuration": {}, "connection_id": theirs}
        refusal(project.request("POST", f"{PATH}/test", key, json=tested), 404, "connection_not_found")
        mine = GOOD | {"organization_id": owner.agency_id}
        refusal(project.request("POST", PATH, key, json=mine), 403, "other_organization")
    made = created(project.request("POST", PATH, key, json=GOOD | {"organization_id": stranger.agency_id}))
    assert made["organization_id"] == stranger.agency_id
    assert made["created_by"] == {"id": key_id, "type": "api_key", "name": f"api_key:{key_id}"}
    assert ids(project, key) == ids(project, project.token(stranger)) == [made["id"]]
    assert ids(project, project.token(owner)) == [theirs]


def sync(project: Project, token: str, agency_id: str | None) -> str:
    """A bulk sync between two new connections."""
    source = project.database.connection(agency_id)
    destination = project.database.connection(agency_id, "records", {})
    body = {"name": "x", "source_connection_id": source, "destination_connection_id": destination}
    response = project.request("POST", "/api/bulk/syncs", token, json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["data"]["id"])


def test_the_audit_names_the_key(project: Project) -> None:
    user = project.database.member()
    key, key_id = make_key(project, user)
    sync_id = sync(project, key, user.agency_id)
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


# When it was used


def test_its_use_is_noted_to_the_minute(project: Project) -> None:
    user = project.database.member()
    key, key_id = make_key(project, user)
    other, other_id = make_key(project, user)
    ids(project, key)
    first = {one["id"]: one["last_used_at"] for one in keys(project, user)}
    assert first[key_id] is not None
    assert first[other_id] is None
    with project.unchanged():
        ids(project, key)
    fresh(project.database, key_id)
    ids(project, key)
    then = {one["id"]: one["last_used_at"] for one in keys(project, user)}
    assert then[key_id] >= first[key_id]
    assert then[other_id] is None
    revoke_key(project, user, other_id)
    with project.unchanged():
        refusal(project.request("GET", PATH, other), 401, "invalid_api_key")


def test_nobody_waits_for_another_that_uses_the_same_key(project: Project) -> None:
    """Its row is held by somebody who never lets go."""
    user = project.database.member()
    key, key_id = make_key(project, user)
    fresh(project.database, key_id)
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


def test_a_revocation_does_not_wait_for_who_only_reads_with_it(project: Project) -> None:
    user = project.database.member()
    key, key_id = make_key(project, user)
    ids(project, key)
    with project.database.session({"role": "anon"}) as reader, reader.connection.transaction():
        reader.execute("select set_config('request.headers', %s, false)", (json.dumps({"x-agency-key": key}),))
        reader.call("list_connections")
        assert revoke_key(project, user, key_id).status_code == 200


# That nobody sees it


class Log(logging.Handler):
    """Everything that is logged, as it is written."""

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


def test_it_is_kept_nowhere_but_as_a_hash(project: Project, log: Log) -> None:
    user = project.database.member()
    key, key_id = make_key(project, user)
    made = created(project.request("POST", PATH, key, json=GOOD, headers={"idempotency-key": "k"}))
    with project.without("app.connection_object"):
        refusal(project.request("GET", f"{PATH}/{made['id']}", key), 500, "internal_error")
    assert log.text
    project.request("DELETE", f"{PATH}/{UNKNOWN}", key)
    revoke_key(project, user, key_id)
    response = project.request("GET", PATH, key)
    everywhere = everything_stored(project.database) + log.text + response.text + json.dumps(keys(project, user))
    if project.setup.transport == "postgrest":
        everywhere += project.backend.postgrest.logged()
    assert key_id in everywhere
    for part in (key, key[5:], key[:40], b64(key)):
        assert part not in everywhere
    stored = row_of_key(project.database, key_id)
    digest = project.database.one("select sha256(convert_to(%s, 'UTF8')) as hash", (key,))
    assert stored["hash"] == digest["hash"]


@through_both_doors
def test_no_repr_shows_it(project: Project) -> None:
    key, _ = make_key(project, project.database.member())
    caller = Caller(token=None, claims={"role": "anon"}, agency_key=key)
    assert key[5:] not in f"{caller!r} {RpcContext(project.services, caller, 'r', {})!r} {project.services!r}"


def test_members_cannot_read_hashes(database: Database) -> None:
    user = database.member()
    with database.session(user.claims) as session:
        session.call("create_api_key", name="x")
        for query in ("select hash from app.api_keys", "select * from app.api_keys", "table app.api_keys"):
            answer = session.attempt(query)
            assert isinstance(answer, ErrorSpec), query
            assert answer.sqlstate == "42501"
        refused = session.attempt("update app.api_keys set hash = sha256('x')")
        assert isinstance(refused, ErrorSpec)


# Headers that only the door may set


def test_a_users_token_is_the_users_whatever_key_comes_with_it(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    key, key_id = make_key(project, stranger)
    theirs = project.database.connection(stranger.agency_id)
    token, headers = project.token(user), {"x-agency-key": key}
    assert ids_with(project, token, headers) == []
    refusal(project.request("GET", f"{PATH}/{theirs}", token, headers=headers), 404, "connection_not_found")
    made = created(project.request("POST", PATH, token, json=GOOD, headers=headers))
    assert (made["organization_id"], made["created_by"]["id"]) == (user.agency_id, user.id)
    assert row_of_key(project.database, key_id)["last_used_at"] is None


def ids_with(project: Project, token: str, headers: Mapping[str, str]) -> list[str]:
    response = project.request("GET", PATH, token, headers=headers)
    assert response.status_code == 200, response.text
    return [connection["id"] for connection in response.json()["data"]]


def test_the_functions_do_not_pass_a_clients_header_on(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    key, _ = make_key(project, user)
    theirs, _ = make_key(project, stranger)
    mine = project.database.connection(user.agency_id)
    with project.unchanged():
        for name in ("x-agency-key", "X-Agency-Key", "x_agency_key"):
            refusal(project.request("GET", PATH, headers={name: key}), 401, "missing_token")
    assert ids_with(project, key, {"x-agency-key": theirs}) == [mine]


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[1:], indirect=True, ids=str)
def test_postgrest_itself_takes_a_key_from_who_is_nobody_else(project: Project) -> None:
    user, stranger = project.database.member(), project.database.member()
    key, key_id = make_key(project, stranger)
    theirs, mine = (project.database.connection(one.agency_id) for one in (stranger, user))

    def ask(rpc_: str, token: str | None, agency_key: str | None, **arguments: Any) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        headers |= {} if agency_key is None else {"x-agency-key": agency_key}
        return httpx.post(f"{project.backend.postgrest.url}/rpc/{rpc_}", json=arguments, headers=headers)

    def listed(token: str | None, agency_key: str | None) -> list[str]:
        response = ask("list_connections", token, agency_key)
        assert response.status_code == 200, response.text
        return [connection["id"] for connection in response.json()["data"]]

    token = project.token(user)
    assert listed(token, None) == listed(token, key) == [mine]
    assert row_of_key(project.database, key_id)["last_used_at"] is None
    assert listed(None, key) == listed(project.auth.anon_key(), key) == [theirs]
    with project.unchanged():
        for agency_key in (None, "", "sync_", b64(key), key.upper(), f"{key},{key}", "null"):
            response = ask("list_connections", None, agency_key)
            assert (response.status_code, response.json()["message"]) == (401, "invalid_api_key"), agency_key
        refused: dict[str, dict[str, Any]] = {
            "create_api_key": {"name": "x"},
            "list_api_keys": {},
            "revoke_api_key": {"api_key_id": key_id},
            "start_historical_sync": {"connection_id": theirs, **JANUARY},
            "cancel_sync_job": {"job_id": UNKNOWN},
            "list_historical_syncs": {},
            "worker_claim": {"worker": "w", "families": ["historical_sync"]},
        }
        for name, arguments in refused.items():
            response = ask(name, None, key, **arguments)
            assert (response.status_code, response.json()["code"]) == (401, "42501"), name
        for relation in ("historical_sync_jobs", "users", "agencies"):
            response = httpx.get(f"{project.backend.postgrest.url}/{relation}", headers={"x-agency-key": key})
            assert response.status_code == 401, relation


def test_without_a_key_nobody_is_401_everywhere(database: Database) -> None:
    """Everything that an anonymous request may call, from the catalog."""
    functions = database.all(
        "select proname as name, coalesce(proargnames[1:pronargs], '{}') as names from pg_proc"
        " where pronamespace = 'public'::regnamespace and has_function_privilege('anon', oid, 'EXECUTE') order by 1"
    )
    assert {endpoint.rpc for endpoint in BY_KEY} <= {function["name"] for function in functions}
    before = database.fingerprint()
    with database.session({"role": "anon"}) as nobody:
        for headers in ({}, {"x-agency-key": ""}, {"x-agency-key": "sync_" + "0" * 64}, {"x-agency-key": None}):
            nobody.execute("select set_config('request.headers', %s, false)", (json.dumps(headers),))
            for function in functions:
                refused = nobody.attempt(*rpc(function["name"], **dict.fromkeys(function["names"])))
                assert isinstance(refused, ErrorSpec), function["name"]
                assert (refused.sqlstate, refused.code) == ("PT401", "invalid_api_key"), function["name"]
        for table in database.all(
            "select oid::regclass::text as name from pg_class where relkind in ('r', 'v')"
            " and relnamespace in ('app'::regnamespace, 'public'::regnamespace)"
        ):
            refused = nobody.attempt(f"select from {table['name']}")
            assert isinstance(refused, ErrorSpec), table["name"]
    assert database.fingerprint() == before


# Idempotency-Key


def test_two_keys_of_an_agency_are_two_callers(project: Project) -> None:
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
        refusal(other, 422, "idempotency_key_reused")
    revoke_key(project, user, first_id)
    with project.unchanged():
        refusal(project.request("POST", PATH, first, json=GOOD, headers=headers), 401, "invalid_api_key")


def test_a_key_of_another_agency_is_refused_by_the_policies_too(database: Database) -> None:
    """Whatever a function forgets: rows are the agency's of the key."""
    owner, stranger = database.member(), database.member()
    with database.session(stranger.claims) as session:
        key = session.call("create_api_key", name="x")["key"]
    connection_id = database.connection(owner.agency_id, config=HTTP_CONFIG)
    with database.session({"role": "anon"}) as server:
        server.execute("select set_config('request.headers', %s, false)", (json.dumps({"x-agency-key": key}),))
        with server.connection.transaction():
            server.call("list_connections")
            [role] = server.execute("select current_user as name, app.agency_id()::text as agency")
            assert role == {"name": "authenticated", "agency": stranger.agency_id}
            assert server.execute("select id from app.connections") == []
            assert server.execute("select id from app.api_keys where agency_id <> %s", (stranger.agency_id,)) == []
        [after] = server.execute("select current_user as name")
        assert after == {"name": "anon"}
    assert row(database, connection_id)["deleted_at"] is None
