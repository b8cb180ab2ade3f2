"""To each endpoint a request that it answers with success; and how a request travels, in path, query and body."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from functions._shared import registry
from functions.connection import create_connection
from tests import bulk
from tests.project import JANUARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import httpx

    from functions._shared.endpoint import Endpoint
    from tests.house import User
    from tests.project import Project

Arguments = dict[str, Any]
Make: TypeAlias = "Callable[[Project, User], Arguments]"

ENDPOINTS = {endpoint.name: endpoint for endpoint in registry.endpoints()}


def a_job(status: Any = "pending") -> Make:
    return lambda project, user: {"job_id": project.job(user, status)}


def a_connection(project: Project, user: User) -> Arguments:
    return {"connection_id": project.database.connection(user.agency_id)}


def a_sync(project: Project, user: User) -> Arguments:
    return {"sync_id": project.database.bulk_sync(user)}


def an_execution(project: Project, user: User) -> Arguments:
    sync_id = project.database.bulk_sync(user)
    return {"sync_id": sync_id, "execution_id": project.database.execute(user, sync_id)}


def an_active_sync(project: Project, user: User) -> Arguments:
    return {"sync_id": an_execution(project, user)["sync_id"]}


def two_connections(project: Project, user: User) -> Arguments:
    source, destination = (
        project.database.connection(user.agency_id),
        project.database.connection(user.agency_id, "records", {}),
    )
    return {"name": "B", "source_connection_id": source, "destination_connection_id": destination}


def an_api_key(project: Project, user: User) -> Arguments:
    project.database.api_key(user)
    key = project.database.one("select id::text from app.api_keys where agency_id = %s", (user.agency_id,))
    return {"api_key_id": key["id"]}


def a_bulk_action(status: str = "queued") -> Make:
    def make(project: Project, user: User) -> Arguments:
        return {"job_id": bulk.put(project.database, user, "bulk_action", status, spec=bulk.spec())}

    return make


def a_criterion(_: Project, __: User) -> Arguments:
    return {"criteria": {"family": "historical_sync"}}


def nothing(_: Project, __: User) -> Arguments:
    return {}


# By the endpoint's name. Who adds an endpoint adds a line here, and with it every test that is made for all.
GOOD: Mapping[str, Make] = {
    "cancel_bulk_action": a_bulk_action(),
    "cancel_bulk_sync": an_active_sync,
    "cancel_historical_sync": a_job(),
    "create_api_key": lambda *_: {"name": "K"},
    "create_bulk_action": lambda project, user: {"action_type": "cancel"} | a_criterion(project, user),
    "create_bulk_sync": two_connections,
    "create_connection": lambda *_: {"name": "C", "type": "records"},
    "delete_bulk_action": a_bulk_action("completed"),
    "delete_bulk_sync": a_sync,
    "delete_connection": a_connection,
    "get_bulk_action": a_bulk_action(),
    "get_bulk_sync": a_sync,
    "get_bulk_sync_execution": an_execution,
    "get_bulk_sync_status": an_active_sync,
    "get_connection": a_connection,
    "get_historical_sync": a_job(),
    "list_api_keys": nothing,
    "list_bulk_actions": nothing,
    "list_bulk_sync_executions": an_active_sync,
    "list_bulk_syncs": nothing,
    "list_connections": nothing,
    "list_historical_syncs": lambda *_: {"status": "pending"},
    "preview_bulk_action": a_criterion,
    "retry_historical_sync": a_job("cancelled"),
    "revoke_api_key": an_api_key,
    "start_bulk_sync": a_sync,
    "start_historical_sync": lambda project, user: a_connection(project, user) | JANUARY,
    "test_connection": lambda *_: {"type": "records"},  # where there is nothing to look at
}


def path_of(endpoint: Endpoint, arguments: Mapping[str, Any]) -> str:
    """The published path with these members in it."""
    path = endpoint.path
    for name, value in arguments.items():
        path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
    return path


def send(
    project: Project, endpoint: Endpoint, arguments: Mapping[str, Any], token: str | None = None, **options: Any
) -> httpx.Response:
    """`options` are Project.request's; with `content` it is sent instead of the members that the path has not."""
    method = options.pop("method", endpoint.method)
    rest = {name: value for name, value in arguments.items() if f"{{{name}}}" not in endpoint.path}
    if "content" not in options:
        place = "params" if endpoint.method in {"GET", "DELETE"} else "json"
        options[place] = rest
    return project.request(method, path_of(endpoint, arguments), token, **options)


# What has to be looked at before it is answered, and by which members.
LOOKED_AT: Arguments = {
    "type": "http",
    "configuration": create_connection.endpoint.example_request["configuration"],
}
LOOKS: Mapping[str, Arguments] = {
    "create_connection": {"name": "C", "validate": True, **LOOKED_AT},
    "test_connection": LOOKED_AT,
}


@contextlib.contextmanager
def looking(project: Project, error: Mapping[str, str] | None = None) -> Iterator[None]:
    """A worker that looks at every source: they answer, or refuse with this error."""
    stop = threading.Event()

    def work() -> None:
        with project.database.worker() as worker:
            while not stop.wait(0.01):
                for look in worker.call("claim", worker="w", families=["source_look"], limit=100):
                    lease = {"execution_id": look["id"], "lease": look["lease"]}
                    if error:
                        worker.call("fail", **lease, error=error, retry=False)
                    else:
                        worker.call("finish", **lease, progress={"fields": []})

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
