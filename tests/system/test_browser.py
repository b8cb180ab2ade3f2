"""A page of another origin calls the functions with supabase-js in a real browser, which enforces CORS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from functions._local.postgres import free_port
from tests.support.clients import Call, call, cases, error_fields, succeeded
from tests.support.clients.cases import CANCEL, ERRORS, GET, START
from tests.support.clients.javascript import Browser
from tests.support.project import JANUARY, SETUPS, Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.project import Projects

# One error for each status, because their contents are the same for every client.
STATUSES = {status: code for code, (status, _) in reversed(ERRORS.items())}
READABLE = {"cache-control", "content-length", "content-type", "x-request-id"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture
def project(projects: Projects) -> Iterator[Project]:
    """A project with a new origin, because the browser caches preflights."""
    with Project(SETUPS[0], projects.backend(SETUPS[0].signing)) as made:
        yield made
        made.database.check_invariants()


def methods_asked(project: Project) -> list[str]:
    return [request.method for request in project.requests]


def test_browser__start_to_retry(browser: Browser, project: Project) -> None:
    cases.from_start_to_retry(browser, project)
    assert {request.headers["origin"] for request in project.requests} == {browser.origin}


@pytest.mark.parametrize("code", STATUSES.values())
def test_browser__error_is_readable(browser: Browser, project: Project, code: str) -> None:
    cases.returns_error(browser, project, code)


def test_browser__server_error_is_readable(browser: Browser, project: Project) -> None:
    """Also the Retry-After of a 503."""
    cases.fails(browser, project)


def test_preflight__all_headers(browser: Browser, project: Project) -> None:
    user = project.database.member()
    body = {"connection_id": project.database.connection(user.agency_id), **JANUARY}
    headers = {"idempotency-key": "start", "x-request-id": "of-the-page"}
    response = browser(call(project, project.token(user), START, body, headers=headers, region="us-east-1"))
    assert succeeded(response, 201)["status"] == "pending"
    assert response.headers["x-request-id"] == "of-the-page"
    assert set(response.headers) >= READABLE

    preflight, request = project.requests
    assert (preflight.method, request.method) == ("OPTIONS", "POST")
    assert (preflight.headers["origin"], preflight.headers["access-control-request-method"]) == (browser.origin, "POST")
    assert "authorization" not in preflight.headers
    asked = set(preflight.headers["access-control-request-headers"].split(","))
    assert asked == {
        "apikey", "authorization", "content-type", "idempotency-key", "x-client-info", "x-region", "x-request-id",
    }  # fmt: skip
    assert asked - {"content-type"} <= set(request.headers)
    assert request.query == {"forceFunctionRegion": "us-east-1"}


def test_preflight__header_not_allowed(browser: Browser, project: Project) -> None:
    user = project.database.member()
    job = {"job_id": project.job(user)}
    with project.unchanged():
        response = browser(call(project, project.token(user), CANCEL, job, headers={"x-of-the-page": "1"}))
    assert (response.error, response.cause) == ("FunctionsFetchError", "TypeError")
    assert methods_asked(project) == ["OPTIONS"]


def test_preflight__method_not_allowed(browser: Browser, project: Project) -> None:
    response = browser(call(project, project.token(project.database.member()), CANCEL, {}, method="PUT"))
    assert (response.error, response.cause) == ("FunctionsFetchError", "TypeError")
    assert methods_asked(project) == ["OPTIONS"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_preflight__origin_not_allowed(browser: Browser, projects: Projects, method: str) -> None:
    backend = projects.backend(SETUPS[0].signing)
    with Project(SETUPS[0], backend, cors_allowed_origins=("https://app.example",)) as project:
        user = project.database.member()
        token, job_id = project.token(user), project.job(user)
        with project.unchanged():
            if method == "GET":
                response = browser(call(project, token, f"{GET}?job_id={job_id}", method="GET"))
            else:
                response = browser(call(project, token, CANCEL, {"job_id": job_id}))
        assert (response.error, response.cause, response.data) == ("FunctionsFetchError", "TypeError", None)
        assert methods_asked(project) == ["OPTIONS"]


def test_preflight__origin_allowed(browser: Browser, projects: Projects) -> None:
    origins = ("https://app.example", browser.origin)
    with Project(SETUPS[0], projects.backend(SETUPS[0].signing), cors_allowed_origins=origins) as project:
        user = project.database.member()
        token, job_id = project.token(user), project.job(user)
        response = browser(call(project, token, CANCEL, {"job_id": job_id}))
        assert succeeded(response, 200) == {"job_id": job_id, "status": "cancelled"}
        assert set(response.headers) >= READABLE
        again = browser(call(project, token, CANCEL, {"job_id": job_id}))
        assert error_fields(again, 400, "not_cancellable") == {"current_status": "cancelled"}


def test_browser__no_server(browser: Browser, project: Project) -> None:
    response = browser(Call(f"http://127.0.0.1:{free_port()}", project.auth.anon_key(), CANCEL, {}))
    assert (response.error, response.cause) == ("FunctionsFetchError", "TypeError")
