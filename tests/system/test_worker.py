"""The real worker, `python -m functions.worker`, with a real Postgres and the local source.

It is killed, stopped, fenced off and cut from what it needs. In the end each of the source's records is stored once.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from functions._local.fake_auth import AuthServer
from functions._local.gateway import forward, gateway
from functions._local.source import Source, table
from functions._local.web_server import WebServer
from tests.support import postgrest as rest
from tests.support.historical_syncs import Scenario
from tests.support.proxy import Proxy
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.database import Database


@pytest.fixture
def scene(mortal_database: Database, tmp_path: Path) -> Iterator[Scenario]:
    table("flights")
    with Source(delay_seconds=0.02) as source:
        made = Scenario(mortal_database, source, tmp_path)
        try:
            yield made
            made.check_logs()
        finally:
            made.close()


def test_worker__no_faults__each_page_read_once(scene: Scenario) -> None:
    job_id = scene.start()
    worker = scene.start_worker()
    scene.assert_completed(job_id)
    assert scene.events(job_id) == ["start", "claim", "complete"]
    [ended] = until(lambda: worker.logged("execution ended"))
    assert (ended["outcome"], ended["execution_id"]) == ("completed", job_id)
    pages = len(scene.source.requests)
    assert scene.row(job_id)["seq"] == pages  # no page was requested twice


@pytest.mark.parametrize("seed", [1, 2])
def test_worker__killed_repeatedly__another_completes(scene: Scenario, seed: int) -> None:
    chance = random.Random(seed)
    job_id = scene.start()
    second_worker = scene.start_worker()
    kills = 0
    while kills < 3 and not scene.row(job_id)["finished_at"]:
        worker, second_worker = (
            second_worker,
            scene.start_worker(),
        )  # it starts while the other works and takes over when the lease expires
        seq = scene.row(job_id)["seq"] + chance.randint(1, 3)
        until(lambda: (row := scene.row(job_id))["seq"] >= seq or row["finished_at"])  # noqa: B023 (called here)
        time.sleep(chance.uniform(0, 0.03))  # anywhere between two commits
        for process in (worker, second_worker):
            if process.logged("execution started") and not process.logged("execution ended"):
                process.send(signal.SIGKILL)
                process.process.wait()
                kills += 1
        if second_worker.process.poll() is not None:
            second_worker = scene.start_worker()
    assert kills
    scene.assert_completed(job_id)
    assert scene.events(job_id)[-1] == "complete"
    assert scene.events(job_id).count("release") == scene.events(job_id).count("claim") - 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_worker__postgres_restarts__continues_under_the_same_lease(scene: Scenario, how: signal.Signals) -> None:
    job_id = scene.start()
    worker = scene.start_worker(WORKER_LEASE_SECONDS="30")
    for seq in (3, 8):
        scene.wait_for_seq(job_id, seq)
        waits = len(worker.logged("waiting for the database"))
        scene.database.server.stop(how)
        until(lambda: len(worker.logged("waiting for the database")) > waits)  # noqa: B023 (called here)
        scene.database.server.start()
        scene.database.reconnect()
    scene.assert_completed(job_id)
    assert scene.events(job_id) == ["start", "claim", "complete"]  # the lease survived


def test_worker__stopped_beyond_its_lease__lost_to_another(scene: Scenario) -> None:
    job_id = scene.start()
    first = scene.start_worker()
    scene.wait_for_seq(job_id, 3)
    first.send(signal.SIGSTOP)
    second = scene.start_worker()
    until(lambda: second.logged("execution started"))
    scene.wait_for_seq(job_id, scene.row(job_id)["seq"] + 1)
    first.send(signal.SIGCONT)
    [ended] = until(lambda: first.logged("execution ended"))
    assert ended["outcome"] == "lost"
    scene.assert_completed(job_id)
    assert scene.events(job_id) == ["start", "claim", "release", "claim", "complete"]


def test_cancel__worker_stopped__not_delayed_and_nothing_stored_after(scene: Scenario) -> None:
    job_id = scene.start()
    worker = scene.start_worker(WORKER_LEASE_SECONDS="30")
    chance = random.Random(0)
    for _ in range(10):  # wherever it is stopped, the database finishes its call and holds no lock
        scene.wait_for_seq(job_id, scene.row(job_id)["seq"] + 1)
        time.sleep(chance.uniform(0, 0.02))
        worker.send(signal.SIGSTOP)
        until(
            lambda: (
                not scene.database.all(
                    "select from pg_stat_activity where state ~ 'active|transaction' and usename = 'authenticator'"
                )
            )
        )
        worker.send(signal.SIGCONT)
    worker.send(signal.SIGSTOP)
    assert scene.cancel(job_id) == {"job_id": job_id, "status": "cancelled"}
    row, stored = scene.row(job_id), scene.database.all("select key, stored_at from app.records order by key")
    worker.send(signal.SIGCONT)
    [ended] = until(lambda: worker.logged("execution ended"))
    assert ended["outcome"] == "lost"
    assert scene.row(job_id) == row
    assert scene.database.all("select key, stored_at from app.records order by key") == stored
    assert scene.events(job_id) == ["start", "claim", "cancel"]


def test_cancel__endless_fetch__ended_by_notification(scene: Scenario) -> None:
    """By the notification alone: no heartbeat comes."""
    job_id = scene.start()
    worker = scene.start_worker(WORKER_HEARTBEAT_SECONDS="3600", WORKER_LEASE_SECONDS="3600")
    scene.wait_for_seq(job_id, 2)
    scene.hang_source()
    scene.cancel(job_id)
    row, asked = scene.row(job_id), len(scene.source.requests)
    [ended] = until(lambda: worker.logged("execution ended"))
    assert ended["outcome"] == "lost"
    assert (scene.row(job_id), len(scene.source.requests)) == (row, asked)


def test_sigterm__releases_with_the_checkpoint(scene: Scenario) -> None:
    job_id = scene.start()
    worker = scene.start_worker(WORKER_LEASE_SECONDS="3600")
    scene.wait_for_seq(job_id, 2)
    scene.hang_source()
    worker.send(signal.SIGTERM)
    assert worker.process.wait(30) == 0
    row = scene.row(job_id)
    assert (row["status"], row["attempts"]) == ("queued", 0)
    assert row["checkpoint"]["resource"] == "flights"
    assert scene.database.events(job_id)[-1]["reason"] == "shutdown"

    scene.source.faults.clear()
    scene.start_worker()
    scene.assert_completed(job_id)


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
def test_sigterm__database_unavailable__process_ends(scene: Scenario, fault: str) -> None:
    job_id = scene.start()
    server = scene.database.server
    with Proxy(server.port) as proxy:
        url = scene.database.login("authenticator").replace(f":{server.port}/", f":{proxy.port}/")
        worker = scene.start_worker(DATABASE_URL=url, WORKER_SHUTDOWN_SECONDS="0.1")
        scene.wait_for_seq(job_id, 2)
        if fault == "stopped":
            server.stop()
            until(lambda: worker.logged("waiting for the database"))
        else:
            proxy.freeze()
        worker.send(signal.SIGTERM)
        assert worker.process.wait(30) == 0
    server.restart()
    scene.database.reconnect()
    scene.start_worker()
    scene.assert_completed(job_id)


def test_source__passing_faults__completes(scene: Scenario) -> None:
    job_id = scene.start()
    scene.start_worker()
    faults = scene.source.faults
    faults_in_turn: list[Callable[[], None]] = [
        lambda: faults.status(500),
        faults.truncate,
        lambda: faults.status(429, retry_after=0),
        lambda: faults.status(503),
    ]
    for nth, fail in enumerate(faults_in_turn):
        scene.wait_for_seq(job_id, 2 + 2 * nth)
        fail()
    scene.assert_completed(job_id)
    assert len(scene.source.requests) == scene.row(job_id)["seq"] + len(faults_in_turn)
    assert scene.events(job_id) == ["start", "claim", "complete"]


def test_source__wrong_credentials__fails_without_retry(scene: Scenario) -> None:
    job_id = scene.start(auth="bearer", secret={"token": "not-the-token"})
    worker = scene.start_worker()
    row = until(lambda: (row := scene.row(job_id)) and row["finished_at"] and row)
    assert row["status"] == "failed"
    assert row["error"] == {
        "code": "source_unauthorized",
        "message": 'The source returned 401 for "flights". Check the secret and what it may read.',
    }
    assert "not-the-token" not in f"{worker.text} {scene.events(job_id)}"
    assert len(scene.source.requests) == 1


@pytest.mark.parametrize("allowed", ["", "false", "1", "TRUE"])
def test_private_addresses__allowed_by_true_only(scene: Scenario, allowed: str) -> None:
    """A connection that a user made must not reach the worker's database either."""
    worker = scene.start_worker(WORKER_ALLOW_PRIVATE_ADDRESSES=allowed)
    places = {
        scene.source.url: "source_config_invalid",
        scene.source.url.replace("http:", "https:"): "source_address_not_allowed",
        f"https://localhost:{scene.database.server.port}": "source_address_not_allowed",
    }
    for base_url, code in places.items():
        job_id = scene.start(base_url=base_url)
        row = until(lambda: (row := scene.row(job_id)) and row["finished_at"] and row)  # noqa: B023 (called here)
        assert (row["status"], row["error"]["code"]) == ("failed", code)
        assert "127.0.0.1" not in row["error"]["message"] + worker.text
        assert scene.events(job_id) == ["start", "claim", "fail"]
    assert scene.source.requests == []


def test_postgrest_transport__start_by_tick_and_cancel_by_heartbeat(scene: Scenario) -> None:
    """There is no session connection, so there are no notifications."""
    with contextlib.ExitStack() as stack:
        auth = AuthServer(scene.database.url, issuer_url="http://127.0.0.1/auth/v1", jwt_secret="s" * 40)
        stack.callback(auth.close)
        postgrest = rest.serve(scene.database, auth.jwks_for_postgrest())
        stack.callback(postgrest.close)
        client = stack.enter_context(httpx.Client())
        project = WebServer(gateway({"/rest/v1": forward("/rest/v1", postgrest.url, client)}))
        stack.callback(project.close)
        stack.callback(scene.close)

        job_id = scene.start()
        worker = scene.start_worker(
            DATABASE_URL="",
            SUPABASE_URL=project.url,
            SUPABASE_SERVICE_ROLE_KEY=auth.service_role_key(),
            WORKER_LEASE_SECONDS="30",
        )
        scene.wait_for_seq(job_id, 3)
        postgrest.stop()
        until(lambda: worker.logged("waiting for the database"))
        postgrest.start()
        scene.assert_completed(job_id)
        assert scene.events(job_id) == ["start", "claim", "complete"]

        second = scene.start()
        scene.wait_for_seq(second, 2)
        scene.hang_source()
        scene.cancel(second)
        until(lambda: [line for line in worker.logged("execution ended") if line["outcome"] == "lost"])
        assert auth.service_role_key() not in worker.text
