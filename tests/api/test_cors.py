"""cors.py: browsers may call every function and read every response, from the allowed origins."""

from __future__ import annotations

import pytest

from functions._shared.auth import Unauthorized
from functions._shared.errors import ApiError
from functions._shared.http import Request
from functions._shared.settings import from_environment
from tests.support.project import SETUPS, Project, Projects
from tests.support.stub import POST, Stub

APP = "https://app.example"

STUBS = {
    "a response": Stub(),
    "a rejected token": Stub(caller=Unauthorized("invalid_token")),
    "a rejected call": Stub(response=ApiError(409, "c", "S.")),
    "a failure": Stub(response=RuntimeError()),
}


def header_list(value: str) -> set[str]:
    return {item.strip().lower() for item in value.split(",")}


@pytest.mark.parametrize("path", ["/cancel-historical-sync", "/start-historical-sync", "/get-historical-sync"])
def test_preflight__over_http(projects: Projects, path: str) -> None:
    project: Project = projects(SETUPS[0])
    header_names = "authorization, x-client-info, apikey, content-type, x-region, x-request-id, idempotency-key"
    response = project.request(
        "OPTIONS",
        path,
        headers={
            "origin": APP,
            "access-control-request-method": "POST",
            "access-control-request-headers": header_names,
        },
    )
    assert (response.status_code, response.content) == (204, b"")
    assert header_list(header_names) <= header_list(response.headers["access-control-allow-headers"])
    method = "GET" if path.startswith("/get") else "POST"
    assert header_list(response.headers["access-control-allow-methods"]) == {method.lower(), "options"}
    assert int(response.headers["access-control-max-age"]) > 0
    assert "content-type" not in response.headers


def test_preflight__unknown_path(projects: Projects) -> None:
    assert projects(SETUPS[0]).request("OPTIONS", "/nope", headers={"origin": APP}).status_code == 204


@pytest.mark.parametrize("name", STUBS)
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "PUT"])
def test_cors__every_origin_by_default(name: str, method: str) -> None:
    response = POST.handle(
        Request(method, POST.path, headers={"origin": APP}, body=b'{"name": "x"}'), STUBS[name].services
    )
    assert response.headers["access-control-allow-origin"] == "*"
    assert "vary" not in response.headers
    assert {"x-request-id", "retry-after"} <= header_list(response.headers["access-control-expose-headers"])
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("name", STUBS)
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "PUT"])
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (APP, APP),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://evil.example", None),
        ("https://app.example.evil.example", None),
        ("https://APP.example", None),
        ("http://app.example", None),
        ("https://app.example:443", None),
        ("null", None),
        ("*", None),
        ("", None),
        (None, None),
    ],
)
def test_cors__allow_list_names_the_requests_origin(
    name: str, method: str, origin: str | None, allowed: str | None
) -> None:
    stub = Stub(STUBS[name].caller, STUBS[name].response, (APP, "http://localhost:3000"))
    headers = {} if origin is None else {"origin": origin}
    response = POST.handle(Request(method, POST.path, headers=headers, body=b'{"name": "x"}'), stub.services)
    assert response.headers.get("access-control-allow-origin") == allowed
    assert response.headers["vary"] == "Origin"


def test_cors__allow_list_is_a_setting() -> None:
    environment = {"SUPABASE_URL": "http://p", "SUPABASE_ANON_KEY": "k"}
    assert from_environment(environment).cors_allowed_origins == ("*",)
    environment["CORS_ALLOWED_ORIGINS"] = f"{APP}, http://localhost:3000 "
    assert from_environment(environment).cors_allowed_origins == (APP, "http://localhost:3000")
