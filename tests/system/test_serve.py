"""`make serve`: it prints one line when ready, serves everything, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import httpx
import psycopg
import pytest

from functions._local import serve
from functions._local.postgres import free_port
from functions._local.schema import ROOT
from functions._local.source import Source
from tests.support.project import Setup
from tests.support.serve import Serve, bearer, is_alive, serving
from tests.support.wait import until

if TYPE_CHECKING:
    from functions._local.worker_process import WorkerProcess
    from tests.support.project import Project, Projects

STOP_SECONDS = 30


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_serve__until_a_signal(how: signal.Signals) -> None:
    with serving({}, how) as served:
        ready = served.ready
        assert set(ready) == {
            "url", "functions_url", "database_url", "jwt_secret", "anon_key", "service_role_key",
            "source_url", "source_dates", "resources", "users",
        }  # fmt: skip
        assert ready["functions_url"] == f"{ready['url']}/functions/v1"
        assert ready["resources"] == ["flights", "weather", "planes", "airports", "airlines"]
        assert ready["source_dates"] == ["2013-01-01", "2014-01-01"]
        north, south, nobody = ready["users"]
        assert north["agency_id"] != south["agency_id"]
        assert (nobody["agency_id"], nobody["connection_id"]) == (None, None)
        assert httpx.get(ready["source_url"]).status_code == 200
        for user in ready["users"]:
            assert httpx.get(f"{ready['url']}/auth/v1/user", headers=bearer(user)).json()["email"] == user["email"]
        sync_a_day(ready, north)


@pytest.mark.parametrize("seed", range(2))
def test_serve__many_sigterms_at_random_moments(seed: int) -> None:
    """They arrive before, while and after it waits for the first one. None of them makes it hang or leaves anything."""
    chance = random.Random(seed)
    served = Serve(PORT=str(free_port()))
    time.sleep(chance.uniform(0, 1.2))
    deadline = time.monotonic() + STOP_SECONDS
    while served.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(served.process.pid, signal.SIGTERM)
        time.sleep(chance.uniform(0, 0.001))
        if time.monotonic() > deadline:
            served.process.kill()
            pytest.fail("It has not stopped.")
    served.process.communicate()
    until(lambda: not any(is_alive(child) for child in served.children))
    assert not is_listening(served.ready["url"])
    assert not is_listening(served.ready["source_url"])


def test_wait__sigterms_at_random_moments() -> None:
    """A threading.Event that the handler sets hangs in one of twenty such processes."""
    chance = random.Random(20261201)
    worker = cast("WorkerProcess", SimpleNamespace(process=SimpleNamespace(poll=lambda: None)))

    def wait(ready: Any) -> None:
        stop = serve._stop_pipe()
        ready.set()
        serve._wait(stop, worker)

    context = multiprocessing.get_context("fork")
    for _ in range(100):
        ready = context.Event()
        process = context.Process(target=wait, args=(ready,))
        process.start()
        assert ready.wait(30)
        time.sleep(chance.uniform(0, 0.01))
        for _ in range(5):
            with contextlib.suppress(ProcessLookupError):
                os.kill(cast("int", process.pid), signal.SIGTERM)
            end = time.perf_counter() + chance.uniform(0, 0.0001)
            while time.perf_counter() < end:
                pass
        process.join(30)
        if process.exitcode is None:
            process.kill()
            pytest.fail("It has not stopped.")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a process when its parent ends")
def test_serve__killed_leaves_no_process() -> None:
    served = Serve(PORT=str(free_port()))
    commands = {Path(child.cmdline()[0]).name.rstrip("0123456789.") for child in served.children if child.cmdline()}
    assert {"postgres", "python"} <= commands
    served.process.kill()
    served.process.communicate(timeout=30)
    until(lambda: not any(is_alive(child) for child in served.children))


def test_serve__ends_with_its_worker(capfd: pytest.CaptureFixture[str]) -> None:
    served = Serve(PORT=str(free_port()))
    [worker] = [child for child in served.children if "functions.worker" in child.cmdline()]
    worker.kill()
    served.process.communicate(timeout=30)
    assert served.process.returncode == 1
    assert "The worker has ended" in capfd.readouterr().err
    until(lambda: not any(is_alive(child) for child in served.children))


def sync_a_day(ready: dict[str, Any], user: dict[str, Any]) -> None:
    day = {"connection_id": user["connection_id"], "date_from": "2013-02-01", "date_to": "2013-02-01"}
    with httpx.Client(base_url=ready["functions_url"], headers=bearer(user)) as client:
        job_id = client.post("/start-historical-sync", json=day).json()["job_id"]
        job = until(lambda: ended(client.get("/get-historical-sync", params={"job_id": job_id}).json())) or {}
    assert (job["status"], job["error"]) == ("completed", None)
    with psycopg.connect(ready["database_url"]) as database:
        counts = database.execute("select resource, count(*) from app.records group by resource").fetchall()
    assert dict(counts) == {"flights": 926, "weather": 72, "planes": 3322, "airports": 1458, "airlines": 16}


def is_listening(url: str) -> bool:
    parts = httpx.URL(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.host, parts.port or 0)) == 0


def ended(job: dict[str, Any]) -> dict[str, Any] | None:
    return job if job["status"] not in {"pending", "in_progress"} else None


def test_serve__port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = subprocess.run(
            [sys.executable, "-m", "functions._local.serve"],
            cwd=ROOT,
            env={**os.environ, "PORT": str(port)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert run.returncode == 1
    assert f"Port {port} cannot be used" in run.stderr
    assert run.stdout == ""


def variables(project: Project) -> dict[str, str]:
    """The environment that makes `make serve` use the project."""
    backend = project.backend
    return {
        "SUPABASE_URL": backend.url,
        "SUPABASE_ANON_KEY": backend.auth.anon_key(),
        "SUPABASE_SERVICE_ROLE_KEY": backend.auth.service_role_key(),
    }


@pytest.mark.parametrize("direct", [False, True], ids=["worker through PostgREST", "worker on Postgres"])
def test_serve__supabase_project(projects: Projects, direct: bool) -> None:
    project = projects(Setup("postgrest", "ES256", "claims"))
    backend = project.backend
    environment = variables(project)
    if direct:
        environment["DATABASE_URL"] = backend.database.login("authenticator")
    user = backend.database.member()
    job_id = project.job(user)
    with serving(environment) as served:
        # The connection has no source. It is enough that the worker claims the job.
        until(lambda: "claim" in [event["event"] for event in backend.database.events(job_id)])
        with httpx.Client(base_url=served.ready["functions_url"]) as client:
            client.headers["authorization"] = f"Bearer {project.token(user)}"
            response = client.get("/get-historical-sync", params={"job_id": job_id})
            assert (response.status_code, response.json()["job_id"]) == (200, job_id)
        assert "users" not in served.ready


@pytest.mark.parametrize(
    ("allowed", "outcome"),
    [({}, ("failed", "source_config_invalid")), ({"WORKER_ALLOW_PRIVATE_ADDRESSES": "true"}, ("completed", None))],
    ids=["not allowed", "allowed"],
)
def test_serve__supabase_project_private_addresses(
    projects: Projects, allowed: dict[str, str], outcome: tuple[str, str | None]
) -> None:
    project = projects(Setup("postgrest", "ES256", "claims"))
    database = project.database
    user = database.member()
    with Source() as source, serving(variables(project) | allowed):
        config, secret = source.connection(["airlines"])
        with database.session(user.claims) as session:
            connection_id = database.connection(user.agency_id, config=config, secret=secret)
            day = {"date_from": "2013-02-01", "date_to": "2013-02-01"}
            job = session.call("start_historical_sync", connection_id=connection_id, **day)
        row = until(lambda: (row := database.execution(job["job_id"])) and row["finished_at"] and row)
    assert (row["status"], (row["error"] or {}).get("code")) == outcome
