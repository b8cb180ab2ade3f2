"""The calls that every client must make, and every kind of error that it must be able to read."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from functions._local.postgres import free_port
from functions._shared.validation import MAX_BODY_BYTES
from tests.support.clients import call, error_fields, succeeded
from tests.support.project import JANUARY, Project

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.clients import Call, Client
    from tests.support.database import User

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
CANCEL, GET, LIST = "cancel-historical-sync", "get-historical-sync", "list-historical-syncs"
RETRY, START = "retry-historical-sync", "start-historical-sync"

ClientError = tuple["Call", dict[str, Any]]


def from_start_to_retry(client: Client, project: Project) -> None:
    """All functions in the order in which a front end uses them."""
    user = project.database.member()
    token, connection_id = project.token(user), project.database.connection(user.agency_id)

    started = succeeded(client(call(project, token, START, {"connection_id": connection_id, **JANUARY})), 201)
    assert started["status"] == "pending"
    job_id = started["job_id"]
    one = f"{GET}?job_id={job_id}"
    assert succeeded(client(call(project, token, one, method="GET")), 200)["status"] == "pending"

    cancelled = client(call(project, token, CANCEL, {"job_id": job_id, "reason": "the wrong dates – ¡ñ!"}))
    assert succeeded(cancelled, 200) == {"job_id": job_id, "status": "cancelled"}
    job = succeeded(client(call(project, token, one, method="GET")), 200)
    assert (job["status"], job["cancel_reason"]) == ("cancelled", "the wrong dates – ¡ñ!")

    retried = succeeded(client(call(project, token, RETRY, {"job_id": job_id})), 201)
    assert (retried["status"], retried["retry_of"]) == ("pending", job_id)
    page = succeeded(client(call(project, token, f"{LIST}?limit=1", method="GET")), 200)
    assert [row["job_id"] for row in page["jobs"]] == [retried["job_id"]]
    rest = succeeded(client(call(project, token, f"{LIST}?cursor={page['next_cursor']}", method="GET")), 200)
    assert ([row["job_id"] for row in rest["jobs"]], rest["next_cursor"]) == ([job_id], None)


def _not_cancellable(project: Project, user: User) -> ClientError:
    job = {"job_id": project.job(user, "completed")}
    return call(project, project.token(user), CANCEL, job), {"current_status": "completed"}


def _not_retryable(project: Project, user: User) -> ClientError:
    job = {"job_id": project.job(user)}
    return call(project, project.token(user), RETRY, job), {"current_status": "pending"}


def _missing_field(project: Project, user: User) -> ClientError:
    return call(project, project.token(user), CANCEL, {}), {"field": "job_id"}


def _invalid_field(project: Project, user: User) -> ClientError:
    return call(project, project.token(user), f"{GET}?job_id=1", method="GET"), {"field": "job_id"}


def _invalid_json(project: Project, user: User) -> ClientError:
    return call(project, project.token(user), CANCEL, "{", body_as="string"), {}


def _invalid_token(project: Project, user: User) -> ClientError:
    """No user has signed in, so the clients send the anon key, which is not the token of a user."""
    return call(project, None, CANCEL, {"job_id": project.job(user)}), {}


def _expired_token(project: Project, user: User) -> ClientError:
    return call(project, project.token(user, lifetime=-60), CANCEL, {"job_id": project.job(user)}), {}


def _revoked_token(project: Project, user: User) -> ClientError:
    token, job_id = project.token(user), project.job(user)
    project.auth.sign_out(token)
    return call(project, token, CANCEL, {"job_id": job_id}), {}


def _no_agency(project: Project, _: User) -> ClientError:
    return call(project, project.token(project.database.user(None)), LIST, method="GET"), {}


def _job_of_another_agency(project: Project, user: User) -> ClientError:
    stranger = project.database.member()
    return call(project, project.token(stranger), CANCEL, {"job_id": project.job(user)}), {}


def _job_not_found(project: Project, user: User) -> ClientError:
    return call(project, project.token(user), f"{GET}?job_id={UNKNOWN_ID}", method="GET"), {}


def _no_such_function(project: Project, user: User) -> ClientError:
    return call(project, project.token(user), "cancel-everything", {}), {}


def _method_not_allowed(project: Project, user: User) -> ClientError:
    return call(project, project.token(user), CANCEL, method="GET"), {}


def _already_active(project: Project, user: User) -> ClientError:
    connection_id = project.database.connection(user.agency_id)
    job_id = project.database.start(user, connection_id)
    body = {"connection_id": connection_id, **JANUARY}
    return call(project, project.token(user), START, body), {"job_id": job_id}


def _body_too_large(project: Project, user: User) -> ClientError:
    body = {"job_id": project.job(user), "reason": "x" * MAX_BODY_BYTES}
    return call(project, project.token(user), CANCEL, body), {}


def _idempotency_key_reused(project: Project, user: User) -> ClientError:
    token, headers = project.token(user), {"idempotency-key": str(uuid.uuid4())}
    assert project.cancel(token, {"job_id": project.job(user)}, headers=headers).is_success
    return call(project, token, CANCEL, {"job_id": project.job(user)}, headers=headers), {}


# Error codes with their status, and the function that makes the call and returns the expected fields.
ERRORS: dict[str, tuple[int, Callable[[Project, User], ClientError]]] = {
    "not_cancellable": (400, _not_cancellable),
    "not_retryable": (400, _not_retryable),
    "missing_field": (400, _missing_field),
    "invalid_field": (400, _invalid_field),
    "invalid_json": (400, _invalid_json),
    "invalid_token": (401, _invalid_token),
    "expired_token": (401, _expired_token),
    "revoked_token": (401, _revoked_token),
    "no_agency": (403, _no_agency),
    "job_of_another_agency": (403, _job_of_another_agency),
    "job_not_found": (404, _job_not_found),
    "no_such_function": (404, _no_such_function),
    "method_not_allowed": (405, _method_not_allowed),
    "already_active": (409, _already_active),
    "body_too_large": (413, _body_too_large),
    "idempotency_key_reused": (422, _idempotency_key_reused),
}


def returns_error(client: Client, project: Project, code: str) -> None:
    status, make = ERRORS[code]
    made, members = make(project, project.database.member())
    with project.unchanged():
        assert error_fields(client(made), status, code) == members


def fails(client: Client, project: Project) -> None:
    """A 500 and a 503."""
    user = project.database.member()
    token, body = project.token(user), {"job_id": project.job(user)}
    with project.without("app.next_status"):
        assert error_fields(client(call(project, token, CANCEL, body)), 500, "internal_error") == {}
    nowhere = f"http://127.0.0.1:{free_port()}"
    with Project(project.setup, project.backend, supabase_url=nowhere) as cut_off:
        response = client(call(cut_off, token, CANCEL, body))
    assert error_fields(response, 503, "auth_unavailable") == {}
    assert int(response.headers["retry-after"]) > 0
    assert succeeded(client(call(project, token, CANCEL, body)), 200)["status"] == "cancelled"
