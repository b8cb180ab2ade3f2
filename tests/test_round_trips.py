"""How much is asked to answer one request: the database once, the Auth server never, at every endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from functions._shared import registry
from tests.project import BOTH_DOORS, JANUARY, Project, Setup
from tests.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from functions._shared.endpoint import Endpoint
    from tests.house import User
    from tests.project import Projects

Arguments = dict[str, Any]

# By path: what it is asked and answers with success, of a user's agency.
REQUESTS: Mapping[str, Callable[[Project, User], Arguments]] = {
    "/cancel-historical-sync": lambda project, user: {"job_id": project.job(user)},
    "/get-historical-sync": lambda project, user: {"job_id": project.job(user)},
    "/list-historical-syncs": lambda _, __: {"status": "pending"},
    "/retry-historical-sync": lambda project, user: {"job_id": project.job(user, "cancelled")},
    "/start-historical-sync": lambda project, user: {
        "connection_id": project.database.connection(user.agency_id),
        **JANUARY,
    },
}


class Counted:
    """A project and all that it asks of others, in the order of the requests."""

    def __init__(self, project: Project, proxy: Proxy) -> None:
        self.project = project
        self.proxy = proxy

    def asked(self, endpoint: Endpoint, token: str, arguments: Arguments, status: int, **headers: str) -> list[str]:
        """What one request makes the function ask: of the Auth server and PostgREST, and of Postgres itself."""
        before, messages = len(self.project.backend.asked), self.proxy.seen
        sent = {"params": arguments} if endpoint.method == "GET" else {"json": arguments}
        response = self.project.request(endpoint.method, endpoint.path, token, headers=headers, **sent)
        assert response.status_code == status, response.text
        return self.project.backend.asked[before:] + ["postgres"] * (self.proxy.seen - messages)

    def once(self, endpoint: Endpoint) -> list[str]:
        return [f"POST /rest/v1/rpc/{endpoint.rpc}"] if self.project.setup.door == "postgrest" else ["postgres"]


@pytest.fixture(scope="module", params=BOTH_DOORS, ids=str)
def counted(request: pytest.FixtureRequest, projects: Projects) -> Iterator[Counted]:
    setup: Setup = request.param
    backend = projects.backend(setup.signing)
    server = backend.database.server
    with Proxy(server.port) as proxy:
        direct = backend.database.login("authenticator").replace(f":{server.port}/", f":{proxy.port}/")
        with Project(setup, backend, database_url=direct if setup.door == "postgres" else None) as project:
            token = project.token(backend.database.member())
            assert project.get(token, JOB).status_code == 404  # the keys are fetched, the connection is made
            yield Counted(project, proxy)


JOB = "00000000-0000-4000-8000-000000000000"
every_endpoint = pytest.mark.parametrize("endpoint", registry.endpoints(), ids=lambda endpoint: endpoint.name)


@every_endpoint
def test_an_answer_takes_one_round_trip(counted: Counted, endpoint: Endpoint) -> None:
    project, user = counted.project, counted.project.database.member()
    arguments = REQUESTS[endpoint.path](project, user)
    token = project.token(user)
    assert counted.asked(endpoint, token, arguments, endpoint.status) == counted.once(endpoint)


@every_endpoint
def test_so_does_one_with_an_idempotency_key_and_the_same_again(counted: Counted, endpoint: Endpoint) -> None:
    project, user = counted.project, counted.project.database.member()
    arguments = REQUESTS[endpoint.path](project, user)
    token, key = project.token(user), {"idempotency-key": user.id}
    for _ in range(2):
        assert counted.asked(endpoint, token, arguments, endpoint.status, **key) == counted.once(endpoint)


@every_endpoint
def test_so_does_a_refusal_by_the_database(counted: Counted, endpoint: Endpoint) -> None:
    """A session that was signed out: nobody but the database knows."""
    project, user = counted.project, counted.project.database.member()
    arguments = REQUESTS[endpoint.path](project, user)
    project.database.admin.execute("delete from auth.sessions where id = %s", (user.session_id,))
    assert counted.asked(endpoint, project.token(user), arguments, 401) == counted.once(endpoint)


@every_endpoint
def test_what_the_door_refuses_is_asked_of_nobody(counted: Counted, endpoint: Endpoint) -> None:
    token = counted.project.token(counted.project.database.member())
    assert counted.asked(endpoint, token, {"job_id": 1, "connection_id": 1}, 400) == []
    assert counted.asked(endpoint, token[:-8] + "AAAAAAAA", {}, 401) == []


def test_a_preflight_is_asked_of_nobody(counted: Counted) -> None:
    before, messages = len(counted.project.backend.asked), counted.proxy.seen
    for endpoint in registry.endpoints():
        assert counted.project.request("OPTIONS", endpoint.path).status_code == 204
    assert (len(counted.project.backend.asked), counted.proxy.seen) == (before, messages)
