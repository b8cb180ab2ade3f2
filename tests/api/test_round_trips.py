"""How much is asked to answer one request: the database once, the Auth server never, at every endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from functions._shared import registry
from functions._shared.validation import MAX_BODY_BYTES
from tests.support.project import BOTH_TRANSPORTS, Project, Setup
from tests.support.proxy import Proxy
from tests.support.requests import ALWAYS_LOOKS, CHECKS, ENDPOINTS, GOOD, Arguments, looking, send

if TYPE_CHECKING:
    from collections.abc import Iterator

    from functions._shared.endpoint import Endpoint
    from tests.support.project import Projects


class Counted:
    """A project and all that it asks of others, in the order of the requests."""

    def __init__(self, project: Project, proxy: Proxy) -> None:
        self.project = project
        self.proxy = proxy

    def asked(
        self, endpoint: Endpoint, token: str | None, arguments: Arguments, status: int, **options: Any
    ) -> list[str]:
        """What one request makes the function ask: of the Auth server and PostgREST, and of Postgres itself."""
        before, messages = len(self.project.backend.asked), self.proxy.seen
        response = send(self.project, endpoint, arguments, token, **options)
        assert response.status_code == status, response.text
        return self.project.backend.asked[before:] + ["postgres"] * (self.proxy.seen - messages)

    def once(self, endpoint: Endpoint) -> list[str]:
        return self.calls(endpoint.rpc)

    def calls(self, *names: str) -> list[str]:
        """What is asked when these functions are called."""
        return [
            f"POST /rest/v1/rpc/{name}" if self.project.setup.transport == "postgrest" else "postgres" for name in names
        ]


@pytest.fixture(scope="module", params=BOTH_TRANSPORTS, ids=str)
def counted(request: pytest.FixtureRequest, projects: Projects) -> Iterator[Counted]:
    setup: Setup = request.param
    backend = projects.backend(setup.signing)
    server = backend.database.server
    with Proxy(server.port) as proxy:
        direct = backend.database.login("authenticator").replace(f":{server.port}/", f":{proxy.port}/")
        with Project(setup, backend, database_url=direct if setup.transport == "postgres" else None) as project:
            token = project.token(backend.database.member())
            assert project.get(token, JOB).status_code == 404  # the keys are fetched, the connection is made
            yield Counted(project, proxy)


JOB = "00000000-0000-4000-8000-000000000000"
every_endpoint = pytest.mark.parametrize("endpoint", registry.endpoints(), ids=lambda endpoint: endpoint.name)
# All but those that always look at a source first.
every_plain_endpoint = pytest.mark.parametrize(
    "endpoint",
    [one for one in registry.endpoints() if one.name not in ALWAYS_LOOKS],
    ids=lambda endpoint: endpoint.name,
)


@every_plain_endpoint
def test_an_answer_takes_one_round_trip(counted: Counted, endpoint: Endpoint) -> None:
    project, user = counted.project, counted.project.database.member()
    arguments = GOOD[endpoint.name](project, user)
    assert counted.asked(endpoint, project.token(user), arguments, endpoint.status) == counted.once(endpoint)


@every_plain_endpoint
def test_so_does_one_to_an_agencys_server(counted: Counted, endpoint: Endpoint) -> None:
    """Where keys are taken; elsewhere nobody is asked about one."""
    project, user = counted.project, counted.project.database.member()
    arguments = GOOD[endpoint.name](project, user)
    header = {"authorization": f"Bearer {project.database.api_key(user)}"}
    taken = endpoint.error_format.api_keys
    asked = counted.asked(endpoint, None, arguments, endpoint.status if taken else 401, headers=header)
    assert asked == (counted.once(endpoint) if taken else [])


@every_plain_endpoint
def test_so_does_one_with_an_idempotency_key_and_the_same_again(counted: Counted, endpoint: Endpoint) -> None:
    project, user = counted.project, counted.project.database.member()
    arguments = GOOD[endpoint.name](project, user)
    token, headers = project.token(user), {"idempotency-key": user.id}
    again = 404 if endpoint.method == "DELETE" and not endpoint.accepts_idempotency_key else endpoint.status
    for status in (endpoint.status, again):
        assert counted.asked(endpoint, token, arguments, status, headers=headers) == counted.once(endpoint)


@every_plain_endpoint
def test_so_does_a_refusal_by_the_database(counted: Counted, endpoint: Endpoint) -> None:
    """A session that was signed out, a key that was revoked: nobody but the database knows."""
    project, user = counted.project, counted.project.database.member()
    arguments = GOOD[endpoint.name](project, user)
    header = {"authorization": f"Bearer {project.database.api_key(user)}"}
    project.database.admin.execute("delete from auth.sessions where id = %s", (user.session_id,))
    assert counted.asked(endpoint, project.token(user), arguments, 401) == counted.once(endpoint)
    if endpoint.error_format.api_keys:
        project.database.admin.execute(
            "update app.api_keys set revoked_at = now() where agency_id = %s", (user.agency_id,)
        )
        assert counted.asked(endpoint, None, arguments, 401, headers=header) == counted.once(endpoint)


@every_endpoint
def test_what_the_door_refuses_is_asked_of_nobody(counted: Counted, endpoint: Endpoint) -> None:
    token = counted.project.token(counted.project.database.member())
    arguments = dict.fromkeys(endpoint.path_parameters(endpoint.path) or (), JOB)
    assert counted.asked(endpoint, token, arguments, 413, content=b"x" * (MAX_BODY_BYTES + 1)) == []
    assert counted.asked(endpoint, token[:-8] + "AAAAAAAA", arguments, 401) == []
    if arguments:
        assert counted.asked(endpoint, token, dict.fromkeys(arguments, "nope"), 404) == []
    if endpoint.method not in {"GET", "DELETE"}:
        assert counted.asked(endpoint, token, arguments, 400, content=b"{") == []


@pytest.mark.parametrize("by_key", [False, True], ids=["user", "key"])
@pytest.mark.parametrize("name", CHECKS)
def test_what_is_looked_at_is_asked_about_until_it_is_known(counted: Counted, name: str, by_key: bool) -> None:
    """The exception: begin the look, ask for what was seen as long as it takes, and then what is to be kept."""
    project, user = counted.project, counted.project.database.member()
    endpoint = ENDPOINTS[name]
    last = [endpoint.rpc] if endpoint.accepts_idempotency_key else []
    bearer = project.database.api_key(user) if by_key else project.token(user)
    headers = {"idempotency-key": user.id, "authorization": f"Bearer {bearer}"}
    arguments = CHECKS[name](project, user)
    with looking(project):
        asked = counted.asked(endpoint, None, arguments, endpoint.status, headers=headers)
    checks = len(asked) - 1 - len(last)
    assert checks >= 1
    assert asked == counted.calls(endpoint.rpc, *["get_source_check"] * checks, *last)
    if (
        endpoint.accepts_idempotency_key
    ):  # who asks again, as after an answer that was lost, needs no source that answers
        assert counted.asked(endpoint, None, arguments, endpoint.status, headers=headers) == counted.once(endpoint)
    project.database.admin.execute("delete from auth.sessions where id = %s", (user.session_id,))
    project.database.admin.execute("update app.api_keys set revoked_at = now() where agency_id = %s", (user.agency_id,))
    assert counted.asked(endpoint, None, arguments, 401, headers=headers) == counted.once(endpoint)


def test_every_endpoint_that_looks_is_among_them() -> None:
    around = {endpoint.name for endpoint in registry.endpoints() if endpoint.respond}
    assert around == set(CHECKS)


def test_a_preflight_is_asked_of_nobody(counted: Counted) -> None:
    before, messages = len(counted.project.backend.asked), counted.proxy.seen
    for endpoint in registry.endpoints():
        assert counted.project.request("OPTIONS", endpoint.path).status_code == 204
    assert (len(counted.project.backend.asked), counted.proxy.seen) == (before, messages)
