"""Every endpoint calls the database once per request, and the Auth server never."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from functions._shared import registry
from functions._shared.validation import MAX_BODY_BYTES
from tests.support import documented
from tests.support.project import BOTH_TRANSPORTS, Project, Setup
from tests.support.proxy import Proxy
from tests.support.requests import ALWAYS_CHECK, CHECKS, ENDPOINTS, GOOD, Arguments, call, completing_checks, send

if TYPE_CHECKING:
    from collections.abc import Iterator

    from functions._shared.endpoint import Endpoint
    from tests.support.database import User
    from tests.support.project import Projects


Expected: TypeAlias = "int | tuple[int, str]"


class Traffic:
    """Records the requests that a project sends to other servers, in order."""

    def __init__(self, project: Project, proxy: Proxy) -> None:
        self.project = project
        self.proxy = proxy

    def send(
        self, endpoint: Endpoint, token: str | None, arguments: Arguments, expected: Expected, **options: Any
    ) -> tuple[bytes, list[str]]:
        """The response body, and the requests to Auth, PostgREST and Postgres that the request to the function causes.

        `expected` is the status, or status and code of an error.
        """
        before, messages = len(self.project.backend.requests), self.proxy.seen
        response = send(self.project, endpoint, arguments, token, **options)
        status, code = expected if isinstance(expected, tuple) else (expected, None)
        assert response.status_code == status, response.text
        assert code is None or documented.code(response.json()) == code
        return response.content, self.project.backend.requests[before:] + ["postgres"] * (self.proxy.seen - messages)

    def requests(self, *request: Any, **options: Any) -> list[str]:
        return self.send(*request, **options)[1]

    def once(self, endpoint: Endpoint) -> list[str]:
        return self.calls(endpoint.rpc)

    def calls(self, *names: str) -> list[str]:
        """The requests that calls of these SQL functions cause."""
        return [
            f"POST /rest/v1/rpc/{name}" if self.project.setup.transport == "postgrest" else "postgres" for name in names
        ]


@pytest.fixture(scope="module", params=BOTH_TRANSPORTS, ids=str)
def traffic(request: pytest.FixtureRequest, projects: Projects) -> Iterator[Traffic]:
    setup: Setup = request.param
    backend = projects.backend(setup.signing)
    server = backend.database.server
    with Proxy(server.port) as proxy:
        direct = backend.database.login("authenticator").replace(f":{server.port}/", f":{proxy.port}/")
        with Project(setup, backend, database_url=direct if setup.transport == "postgres" else None) as project:
            token = project.token(backend.database.member())
            assert project.get(token, JOB).status_code == 404  # fetches the signing keys and connects
            yield Traffic(project, proxy)


JOB = "00000000-0000-4000-8000-000000000000"
every_endpoint = pytest.mark.parametrize("endpoint", registry.endpoints(), ids=lambda endpoint: endpoint.name)
# All but those that always check a source first.
every_endpoint_without_check = pytest.mark.parametrize(
    "endpoint",
    [one for one in registry.endpoints() if one.name not in ALWAYS_CHECK],
    ids=lambda endpoint: endpoint.name,
)


@every_endpoint_without_check
def test_round_trips__one_per_request(traffic: Traffic, endpoint: Endpoint) -> None:
    project, user = traffic.project, traffic.project.database.member()
    arguments = GOOD[endpoint.name](project, user)
    body, requests = traffic.send(endpoint, project.token(user), arguments, endpoint.status)
    assert requests == traffic.once(endpoint)
    if endpoint.method == "GET":
        assert json.loads(body) == call(project, user, endpoint.rpc, **sql_arguments(endpoint, arguments))


@every_endpoint_without_check
def test_round_trips__one_with_an_api_key(traffic: Traffic, endpoint: Endpoint) -> None:
    """Where keys are not accepted, no request is sent."""
    project, user = traffic.project, traffic.project.database.member()
    arguments = GOOD[endpoint.name](project, user)
    header = {"authorization": f"Bearer {project.database.api_key(user)}"}
    accepted = endpoint.error_format.api_keys
    expected = endpoint.status if accepted else (401, "invalid_token")
    body, requests = traffic.send(endpoint, None, arguments, expected, headers=header)
    assert requests == (traffic.once(endpoint) if accepted else [])
    if accepted and endpoint.method == "GET":
        assert json.loads(body) == call(project, user, endpoint.rpc, **sql_arguments(endpoint, arguments))


@every_endpoint_without_check
def test_round_trips__one_with_an_idempotency_key_and_repeated(traffic: Traffic, endpoint: Endpoint) -> None:
    """The repeated request gets the same bytes, if it may."""
    project, user = traffic.project, traffic.project.database.member()
    arguments = GOOD[endpoint.name](project, user)
    token, headers = project.token(user), {"idempotency-key": user.id}
    deletes = endpoint.method == "DELETE" and not endpoint.accepts_idempotency_key
    first, requests = traffic.send(endpoint, token, arguments, endpoint.status, headers=headers)
    again, more = traffic.send(endpoint, token, arguments, 404 if deletes else endpoint.status, headers=headers)
    assert requests == more == traffic.once(endpoint)
    if endpoint.accepts_idempotency_key or endpoint.method == "GET":
        assert again == first


@every_endpoint_without_check
def test_round_trips__one_when_the_database_rejects(traffic: Traffic, endpoint: Endpoint) -> None:
    """Only the database can see that a session was signed out or a key revoked."""
    project, user = traffic.project, traffic.project.database.member()
    arguments = GOOD[endpoint.name](project, user)
    header = {"authorization": f"Bearer {project.database.api_key(user)}"}
    sign_out(project, user)
    revoked = (401, "revoked_token")
    assert traffic.requests(endpoint, project.token(user), arguments, revoked) == traffic.once(endpoint)
    if endpoint.error_format.api_keys:
        rejected = (401, "invalid_api_key")
        assert traffic.requests(endpoint, None, arguments, rejected, headers=header) == traffic.once(endpoint)


@every_endpoint
def test_round_trips__none_when_the_function_rejects(traffic: Traffic, endpoint: Endpoint) -> None:
    token = traffic.project.token(traffic.project.database.member())
    arguments = dict.fromkeys(endpoint.path_parameters(endpoint.path) or (), JOB)
    too_large = b"x" * (MAX_BODY_BYTES + 1)
    assert traffic.requests(endpoint, token, arguments, (413, "body_too_large"), content=too_large) == []
    assert traffic.requests(endpoint, token[:-8] + "AAAAAAAA", arguments, (401, "invalid_token")) == []
    if arguments:
        assert traffic.requests(endpoint, token, dict.fromkeys(arguments, "nope"), (404, "not_found")) == []
    if endpoint.has_body:
        assert traffic.requests(endpoint, token, arguments, (400, "invalid_json"), content=b"{") == []


@pytest.mark.parametrize("by_key", [False, True], ids=["user", "key"])
@pytest.mark.parametrize("name", CHECKS)
def test_round_trips__source_check_is_polled_until_complete(traffic: Traffic, name: str, by_key: bool) -> None:
    """The exception: a first call begins the check, which is polled, and a last call uses its result."""
    project, user = traffic.project, traffic.project.database.member()
    endpoint = ENDPOINTS[name]
    last = [endpoint.rpc] if endpoint.accepts_idempotency_key else []
    bearer = project.database.api_key(user) if by_key else project.token(user)
    headers = {"idempotency-key": user.id, "authorization": f"Bearer {bearer}"}
    arguments = CHECKS[name](project, user)
    with completing_checks(project):
        first, requests = traffic.send(endpoint, None, arguments, endpoint.status, headers=headers)
    checks = len(requests) - 1 - len(last)
    assert checks >= 1
    assert requests == traffic.calls(endpoint.rpc, *["get_source_check"] * checks, *last)
    if endpoint.accepts_idempotency_key:  # a repeated request needs no source
        again, requests = traffic.send(endpoint, None, arguments, endpoint.status, headers=headers)
        assert (again, requests) == (first, traffic.once(endpoint))
    sign_out(project, user)
    rejected = (401, "invalid_api_key" if by_key else "revoked_token")
    assert traffic.requests(endpoint, None, arguments, rejected, headers=headers) == traffic.once(endpoint)


def sql_arguments(endpoint: Endpoint, arguments: Arguments) -> Arguments:
    """The arguments that the endpoint sends to its SQL function."""
    query = {name: str(value) for name, value in arguments.items()}
    parsed = endpoint.request.model_validate_strings(query, strict=True)
    return parsed.model_dump(mode="json", by_alias=True, exclude_none=True)


def sign_out(project: Project, user: User) -> None:
    """Ends the user's session and revokes the agency's keys."""
    project.database.admin.execute("delete from auth.sessions where id = %s", (user.session_id,))
    project.database.admin.execute("update app.api_keys set revoked_at = now() where agency_id = %s", (user.agency_id,))


@pytest.mark.conventions
def test_round_trips__every_respond_endpoint_is_listed() -> None:
    with_respond = {endpoint.name for endpoint in registry.endpoints() if endpoint.respond}
    assert with_respond == set(CHECKS), (
        f"Add lines for {with_respond - set(CHECKS)} to CHECKS in tests/support/requests.py, with requests that check"
        f" a source, and remove those for {set(CHECKS) - with_respond}. An endpoint with `respond=` may call the"
        " database more than once only to check a source."
    )


def test_round_trips__none_for_a_preflight(traffic: Traffic) -> None:
    before, messages = len(traffic.project.backend.requests), traffic.proxy.seen
    for endpoint in registry.endpoints():
        assert traffic.project.request("OPTIONS", endpoint.path).status_code == 204
    assert (len(traffic.project.backend.requests), traffic.proxy.seen) == (before, messages)
