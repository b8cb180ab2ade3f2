"""Logs are one JSON object per line. No token, key or password is in a log or a response."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from functions._local.postgres import free_port
from functions._local.schema import ROOT
from functions._shared.logs import JsonFormatter
from tests.support.project import JANUARY, SETUPS, Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.support.project import Projects, Setup


def formatted(message: str, *arguments: Any, **parts: Any) -> dict[str, Any]:
    record = logging.getLogger("a").makeRecord("a", logging.WARNING, "f", 1, message, arguments, None, **parts)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line)
    assert isinstance(parsed.pop("time"), float)
    return parsed


def test_json_formatter__one_object_per_line() -> None:
    assert formatted("a %s\nb", "日本") == {"level": "warning", "message": "a 日本\nb"}


def test_json_formatter__extra_members() -> None:
    line = formatted("m", extra={"request_id": "r", "n": 1, "thing": {1, 2}.__class__})
    assert line == {"level": "warning", "message": "m", "request_id": "r", "n": 1, "thing": "<class 'set'>"}


def test_json_formatter__exception() -> None:
    try:
        raise RuntimeError("why")
    except RuntimeError:
        record = logging.getLogger("a").makeRecord("a", logging.ERROR, "f", 1, "m", (), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("RuntimeError: why")


def test_logs__stderr_without_urls() -> None:
    program = (
        "import logging; from functions._shared import logs; logs.to_stderr();"
        "logging.getLogger('x').info('a\\nb', extra={'request_id': 'r'});"
        "logging.getLogger('httpx').info('HTTP Request: GET http://p/?apikey=t0p');"
        "logging.getLogger('x').debug('not shown')"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert json.loads(line)["request_id"] == "r"


@pytest.fixture
def logged_text() -> Iterator[io.StringIO]:
    """Collects log lines as a deployment writes them."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root, client = logging.getLogger(), logging.getLogger("httpx")
    levels = root.level, client.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    client.setLevel(logging.WARNING)  # for the test's own requests
    yield stream
    root.setLevel(levels[0])
    client.setLevel(levels[1])
    root.removeHandler(handler)


def provoke_errors(project: Project, tokens: list[str], job_id: str) -> list[httpx.Response]:
    """Provokes every error that a caller can cause, with every token, and some internal ones."""
    responses = []
    for token in tokens:
        headers = {"apikey": project.auth.anon_key(), "cookie": f"sb={token}", "x-request-id": "r"}
        bodies: tuple[object, ...] = (
            b"{",
            b"[]",
            {},
            {"job_id": token},
            {"job_id": job_id, "reason": [token]},
            {"job_id": job_id},
        )
        responses += [project.cancel(token, body, headers=headers) for body in bodies]
        responses += [
            project.start(token, {"connection_id": token, **JANUARY}, headers=headers),
            project.get(token, token, headers=headers),
            project.get(token, "00000000-0000-4000-8000-000000000000", headers=headers),
            project.request("DELETE", "/get-historical-sync", token, headers=headers),
            project.request("GET", "/nope", token, headers=headers),
        ]
        for function in ("app.next_status", "app.identify", "public.cancel_sync_job"):
            with project.without(function):
                responses.append(project.cancel(token, {"job_id": job_id}, headers=headers))
    return responses


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_logs__no_secret_in_logs_or_responses(projects: Projects, setup: Setup, logged_text: io.StringIO) -> None:
    project = projects(setup)
    user, stranger = project.database.member(), project.database.member()
    job_id = project.job(user)
    good = project.token(user)
    tokens = [
        project.token(stranger),
        project.token(project.database.user(None)),
        project.token(user, lifetime=-1),
        project.token(user, session_id="00000000-0000-4000-8000-000000000000"),
        good[:-6] + "AAAAAA",
        jwt.encode({"sub": user.id}, "x" * 48),
        "not.a.token",
        good,
    ]
    nowhere = f"postgresql://authenticator:pass-t0p@127.0.0.1:{free_port()}/x"

    responses = provoke_errors(project, tokens, job_id)
    with Project(
        setup, project.backend, supabase_url=f"http://127.0.0.1:{free_port()}", database_url=nowhere
    ) as broken:
        responses += provoke_errors(broken, [good], job_id)

    assert {response.status_code for response in responses} >= {200, 400, 401, 403, 404, 405, 500, 503}
    secrets = {
        *(token.rpartition(".")[2] for token in tokens if token != "not.a.token"),
        project.auth.anon_key().rpartition(".")[2],
        project.auth.service_role_key().rpartition(".")[2],
        project.backend.jwt_secret,
        project.database.server.password,
        "pass-t0p",
    }
    logged = logged_text.getvalue()
    assert "unexpected error" in logged
    assert "not available" in logged
    everything = [logged, project.database.server.log.read_text(errors="replace")]
    everything += [f"{response.headers} {response.text}" for response in responses]
    if setup.transport == "postgrest":
        everything.append(project.backend.postgrest.logged())
    for text in everything:
        assert not [secret for secret in secrets if secret in text]


def test_logs__unexpected_error_names_path_and_request(projects: Projects, logged_text: io.StringIO) -> None:
    project = projects(SETUPS[0])
    job_id = project.job(user := project.database.member())
    with project.without("app.next_status"):
        project.cancel(project.token(user), {"job_id": job_id}, headers={"x-request-id": "request-7"})
    [line] = [json.loads(line) for line in logged_text.getvalue().splitlines() if "unexpected" in line]
    assert (line["level"], line["request_id"], line["path"]) == ("error", "request-7", "/cancel-historical-sync")
    assert "42883" in line["exception"]
