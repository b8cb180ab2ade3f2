"""For each endpoint a request that succeeds, and how a request is sent: in path, query and body."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from functions._shared import registry
from functions.connection import create_connection
from tests.support import bulk_actions
from tests.support.project import JANUARY
from tests.support.syncs import MODEL, MODEL_SYNC, Client, make_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import httpx

    from functions._shared.endpoint import Endpoint
    from tests.support.database import User
    from tests.support.project import Project

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


def call(project: Project, user: User, rpc: str, /, **arguments: Any) -> dict[str, Any]:
    """Calls the database directly as this user, independently of the transport."""
    with project.database.session(user.claims) as session:
        return dict(session.call(rpc, **arguments))


def a_query(project: Project, user: User) -> Arguments:
    return {"name": "M", "configuration": {"resource": "flights"}, **a_connection(project, user)}


def a_model(project: Project, user: User) -> Arguments:
    client = Client(project, MODEL, user)
    return {"model_id": make_model(client, client.http_connection("airlines"), "airlines", ["code", "name"])}


def a_mapping(project: Project, user: User) -> Arguments:
    """Without the schedule, which is manual by default and is not sent to SQL."""
    body = Client(project, MODEL_SYNC, user).body()
    return {name: value for name, value in body.items() if name != "schedule"}


def a_model_sync(project: Project, user: User) -> Arguments:
    made = call(project, user, "create_model_sync", **a_mapping(project, user))
    return {"sync_id": made["data"]["id"]}


def an_execution_of_a_model_sync(project: Project, user: User) -> Arguments:
    sync = a_model_sync(project, user)
    return {**sync, "execution_id": call(project, user, "start_model_sync", **sync)["data"]["id"]}


def an_active_model_sync(project: Project, user: User) -> Arguments:
    return {"sync_id": an_execution_of_a_model_sync(project, user)["sync_id"]}


def a_sync_job(project: Project, user: User, **settings: Any) -> Arguments:
    settings = {"resources": [{"resource": "flights", "method": "list"}], **settings}
    return {"job_id": call(project, user, "create_sync_job", **settings)["id"]}


def of_a_sync_job(project: Project, user: User, **settings: Any) -> Arguments:
    return {
        "sync_job_id": a_sync_job(project, user, **settings)["job_id"],
        "integrated_account_id": project.database.connection(user.agency_id),
        "daemon_group_key": "main",
    }


def a_run(project: Project, user: User) -> Arguments:
    return {"run_id": call(project, user, "create_sync_job_run", **of_a_sync_job(project, user))["id"]}


def a_webhook(project: Project, user: User) -> Arguments:
    return {"webhook_id": call(project, user, "create_webhook", target_url="https://example.com/events")["id"]}


def a_bulk_action(status: str = "queued") -> Make:
    def make(project: Project, user: User) -> Arguments:
        return {"job_id": bulk_actions.put(project.database, user, "bulk_action", status, spec=bulk_actions.spec())}

    return make


def as_in_its_example(name: str) -> Make:
    return lambda *_: dict(ENDPOINTS[name].example_request)


def nothing(_: Project, __: User) -> Arguments:
    return {}


# By the endpoint's name. A line here runs all tests that hold for every endpoint.
GOOD: Mapping[str, Make] = {
    "cancel_bulk_action": a_bulk_action(),
    "cancel_bulk_sync": an_active_sync,
    "cancel_historical_sync": a_job(),
    "cancel_model_sync": an_active_model_sync,
    "create_api_key": lambda *_: {"name": "K"},
    "create_bulk_action": as_in_its_example("create_bulk_action"),
    "create_bulk_sync": two_connections,
    "create_connection": lambda *_: {"name": "C", "type": "records"},
    "create_model": a_query,
    "create_model_sync": a_mapping,
    "create_sync_job": as_in_its_example("create_sync_job"),
    "create_sync_job_run": of_a_sync_job,
    "create_webhook": as_in_its_example("create_webhook"),
    "delete_bulk_action": a_bulk_action("completed"),
    "delete_bulk_sync": a_sync,
    "delete_connection": a_connection,
    "delete_model": a_model,
    "delete_model_sync": a_model_sync,
    "delete_sync_job": a_sync_job,
    "delete_webhook": a_webhook,
    "get_bulk_action": a_bulk_action(),
    "get_bulk_sync": a_sync,
    "get_bulk_sync_execution": an_execution,
    "get_bulk_sync_status": an_active_sync,
    "get_connection": a_connection,
    "get_historical_sync": a_job(),
    "get_model": a_model,
    "get_model_sync": a_model_sync,
    "get_model_sync_execution": an_execution_of_a_model_sync,
    "get_model_sync_status": an_active_model_sync,
    "get_sync_job": a_sync_job,
    "get_sync_job_run": a_run,
    "get_webhook": a_webhook,
    "list_api_keys": nothing,
    "list_bulk_actions": as_in_its_example("list_bulk_actions"),
    "list_bulk_sync_executions": an_active_sync,
    "list_bulk_syncs": nothing,
    "list_connections": nothing,
    "list_historical_syncs": lambda *_: {"status": "pending"},
    "list_model_sync_executions": an_active_model_sync,
    "list_model_syncs": nothing,
    "list_models": nothing,
    "list_sync_job_runs": as_in_its_example("list_sync_job_runs"),
    "list_sync_jobs": as_in_its_example("list_sync_jobs"),
    "list_webhooks": as_in_its_example("list_webhooks"),
    "preview_bulk_action": as_in_its_example("preview_bulk_action"),
    "retry_historical_sync": a_job("cancelled"),
    "revoke_api_key": an_api_key,
    "start_bulk_sync": a_sync,
    "start_historical_sync": lambda project, user: a_connection(project, user) | JANUARY,
    "start_model_sync": a_model_sync,
    "stop_sync_job_run": a_run,
    "test_connection": lambda *_: {"type": "records"},  # a type without a source check
    "update_sync_job": lambda project, user: a_sync_job(project, user) | {"label": "L"},
    "update_webhook": lambda project, user: a_webhook(project, user) | {"is_active": False},
}


def path_of(endpoint: Endpoint, arguments: Mapping[str, Any]) -> str:
    """The published path, filled with these values."""
    path = endpoint.path
    for name, value in arguments.items():
        path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
    return path


def send(
    project: Project, endpoint: Endpoint, arguments: Mapping[str, Any], token: str | None = None, **options: Any
) -> httpx.Response:
    """`options` are those of Project.request. `content` replaces the fields that are not in the path."""
    method = options.pop("method", endpoint.method)
    rest = {name: value for name, value in arguments.items() if f"{{{name}}}" not in endpoint.path}
    if "content" not in options:
        place = "params" if endpoint.method in {"GET", "DELETE"} else "json"
        options[place] = rest
    return project.request(method, path_of(endpoint, arguments), token, **options)


# Requests for which an endpoint checks the source before it responds. Some endpoints do so for every request.
CHECKED: Arguments = {
    "type": "http",
    "configuration": create_connection.endpoint.example_request["configuration"],
}
CHECKS: Mapping[str, Make] = {
    "create_connection": lambda *_: {"name": "C", "validate": True, **CHECKED},
    "create_model": a_query,
    "test_connection": lambda *_: CHECKED,
}
ALWAYS_CHECK = {name for name, make in CHECKS.items() if make is GOOD[name]}


@contextlib.contextmanager
def completing_checks(project: Project, error: Mapping[str, str] | None = None) -> Iterator[None]:
    """A worker that completes every source check, with records of one field, or fails it with this error."""
    stop = threading.Event()

    def work() -> None:
        with project.database.worker() as worker:
            while not stop.wait(0.01):
                for source_check in worker.call(
                    "worker_claim", worker="w", families=["source_check"], max_executions=100
                ):
                    lease_token = {"execution_id": source_check["id"], "lease_token": source_check["lease_token"]}
                    if error:
                        worker.call("worker_fail", **lease_token, error=error, retry=False)
                    else:
                        worker.call(
                            "worker_complete", **lease_token, progress={"fields": [{"name": "id", "type": "string"}]}
                        )

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
