"""The real worker, `python -m functions.worker`, with a real Postgres and the local source.

It is killed, stopped, fenced and disconnected. In the end each of the source's records is stored once.
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
def scenario(mortal_database: Database, tmp_path: Path) -> Iterator[Scenario]:
    table("flights")
    with Source(delay_seconds=0.02) as source:
        made = Scenario(mortal_database, source, tmp_path)
        try:
            yield made
            made.check_logs()
        finally:
            made.close()


def test_worker__no_faults__each_page_read_once(scenario: Scenario) -> None:
    job_id = scenario.start()
    worker = scenario.start_worker()
    scenario.assert_completed(job_id)
    assert scenario.events(job_id) == ["start", "claim", "complete"]
    [ended] = until(lambda: worker.logged("execution ended"))
    assert (ended["outcome"], ended["execution_id"]) == ("completed", job_id)
    pages = len(scenario.source.requests)
    assert scenario.row(job_id)["seq"] == pages  # no page was requested twice


@pytest.mark.parametrize("seed", [1, 2])
def test_worker__killed_repeatedly__another_completes(scenario: Scenario, seed: int) -> None:
    chance = random.Random(seed)
    job_id = scenario.start()
    second_worker = scenario.start_worker()
    kills = 0
    while kills < 3 and not scenario.row(job_id)["finished_at"]:
        # The new worker starts while the other runs, and claims the execution when the lease expires.
        worker, second_worker = second_worker, scenario.start_worker()
        seq = scenario.row(job_id)["seq"] + chance.randint(1, 3)
        until(lambda: (row := scenario.row(job_id))["seq"] >= seq or row["finished_at"])  # noqa: B023 (called here)
        time.sleep(chance.uniform(0, 0.03))  # at any moment between two commits
        for process in (worker, second_worker):
            if process.logged("execution started") and not process.logged("execution ended"):
                process.send(signal.SIGKILL)
                process.process.wait()
                kills += 1
        if second_worker.process.poll() is not None:
            second_worker = scenario.start_worker()
    assert kills
    scenario.assert_completed(job_id)
    assert scenario.events(job_id)[-1] == "complete"
    assert scenario.events(job_id).count("release") == scenario.events(job_id).count("claim") - 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_worker__postgres_restarts__continues_under_the_same_lease(scenario: Scenario, how: signal.Signals) -> None:
    job_id = scenario.start()
    worker = scenario.start_worker(WORKER_LEASE_SECONDS="30")
    for seq in (3, 8):
        scenario.wait_for_seq(job_id, seq)
        waits = len(worker.logged("waiting for the database"))
        scenario.database.server.stop(how)
        until(lambda: len(worker.logged("waiting for the database")) > waits)  # noqa: B023 (called here)
        scenario.database.server.start()
        scenario.database.reconnect()
    scenario.assert_completed(job_id)
    assert scenario.events(job_id) == ["start", "claim", "complete"]  # the lease survived


def test_worker__stopped_beyond_its_lease__lost_to_another(scenario: Scenario) -> None:
    job_id = scenario.start()
    first = scenario.start_worker()
    scenario.wait_for_seq(job_id, 3)
    first.send(signal.SIGSTOP)
    second = scenario.start_worker()
    until(lambda: second.logged("execution started"))
    scenario.wait_for_seq(job_id, scenario.row(job_id)["seq"] + 1)
    first.send(signal.SIGCONT)
    [ended] = until(lambda: first.logged("execution ended"))
    assert ended["outcome"] == "lost"
    scenario.assert_completed(job_id)
    assert scenario.events(job_id) == ["start", "claim", "release", "claim", "complete"]


def test_cancel__worker_stopped__not_delayed_and_nothing_stored_after(scenario: Scenario) -> None:
    job_id = scenario.start()
    worker = scenario.start_worker(WORKER_LEASE_SECONDS="30")
    chance = random.Random(0)
    for _ in range(10):  # wherever the worker is stopped, the database finishes its call and releases its locks
        scenario.wait_for_seq(job_id, scenario.row(job_id)["seq"] + 1)
        time.sleep(chance.uniform(0, 0.02))
        worker.send(signal.SIGSTOP)
        until(
            lambda: (
                not scenario.database.all(
                    "select from pg_stat_activity where state ~ 'active|transaction' and usename = 'authenticator'"
                )
            )
        )
        worker.send(signal.SIGCONT)
    worker.send(signal.SIGSTOP)
    assert scenario.cancel(job_id) == {"job_id": job_id, "status": "cancelled"}
    row, stored = scenario.row(job_id), scenario.database.all("select key, stored_at from app.records order by key")
    worker.send(signal.SIGCONT)
    [ended] = until(lambda: worker.logged("execution ended"))
    assert ended["outcome"] == "lost"
    assert scenario.row(job_id) == row
    assert scenario.database.all("select key, stored_at from app.records order by key") == stored
    assert scenario.events(job_id) == ["start", "claim", "cancel"]


def test_cancel__endless_fetch__ended_by_notification(scenario: Scenario) -> None:
    """The heartbeat is too rare to notice the cancel."""
    job_id = scenario.start()
    worker = scenario.start_worker(WORKER_HEARTBEAT_SECONDS="3600", WORKER_LEASE_SECONDS="3600")
    scenario.wait_for_seq(job_id, 2)
    scenario.hang_source()
    scenario.cancel(job_id)
    row, requests = scenario.row(job_id), len(scenario.source.requests)
    [ended] = until(lambda: worker.logged("execution ended"))
    assert ended["outcome"] == "lost"
    assert (scenario.row(job_id), len(scenario.source.requests)) == (row, requests)


def test_sigterm__releases_with_the_checkpoint(scenario: Scenario) -> None:
    job_id = scenario.start()
    worker = scenario.start_worker(WORKER_LEASE_SECONDS="3600")
    scenario.wait_for_seq(job_id, 2)
    scenario.hang_source()
    worker.send(signal.SIGTERM)
    assert worker.process.wait(30) == 0
    row = scenario.row(job_id)
    assert (row["status"], row["attempts"]) == ("queued", 0)
    assert row["checkpoint"]["resource"] == "flights"
    assert scenario.database.events(job_id)[-1]["reason"] == "shutdown"

    scenario.source.faults.clear()
    scenario.start_worker()
    scenario.assert_completed(job_id)


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
def test_sigterm__database_unavailable__process_ends(scenario: Scenario, fault: str) -> None:
    job_id = scenario.start()
    server = scenario.database.server
    with Proxy(server.port) as proxy:
        url = scenario.database.login("authenticator").replace(f":{server.port}/", f":{proxy.port}/")
        worker = scenario.start_worker(DATABASE_URL=url, WORKER_SHUTDOWN_SECONDS="0.1")
        scenario.wait_for_seq(job_id, 2)
        if fault == "stopped":
            server.stop()
            until(lambda: worker.logged("waiting for the database"))
        else:
            proxy.freeze()
        worker.send(signal.SIGTERM)
        assert worker.process.wait(30) == 0
    server.restart()
    scenario.database.reconnect()
    scenario.start_worker()
    scenario.assert_completed(job_id)


def test_source__passing_faults__completes(scenario: Scenario) -> None:
    job_id = scenario.start()
    scenario.start_worker()
    faults = scenario.source.faults
    faults_in_turn: list[Callable[[], None]] = [
        lambda: faults.status(500),
        faults.truncate,
        lambda: faults.status(429, retry_after=0),
        lambda: faults.status(503),
    ]
    for nth, fail in enumerate(faults_in_turn):
        scenario.wait_for_seq(job_id, 2 + 2 * nth)
        fail()
    scenario.assert_completed(job_id)
    assert len(scenario.source.requests) == scenario.row(job_id)["seq"] + len(faults_in_turn)
    assert scenario.events(job_id) == ["start", "claim", "complete"]


def test_source__wrong_credentials__fails_without_retry(scenario: Scenario) -> None:
    job_id = scenario.start(auth="bearer", secret={"token": "not-the-token"})
    worker = scenario.start_worker()
    row = until(lambda: (row := scenario.row(job_id)) and row["finished_at"] and row)
    assert row["status"] == "failed"
    assert row["error"] == {
        "code": "source_unauthorized",
        "message": 'The source returned 401 for "flights". Check the secret and what it may read.',
    }
    assert "not-the-token" not in f"{worker.text} {scenario.events(job_id)}"
    assert len(scenario.source.requests) == 1


@pytest.mark.parametrize("allowed", ["", "false", "1", "TRUE"])
def test_private_addresses__allowed_by_true_only(scenario: Scenario, allowed: str) -> None:
    """A user's connection must not reach the worker's database either."""
    worker = scenario.start_worker(WORKER_ALLOW_PRIVATE_ADDRESSES=allowed)
    places = {
        scenario.source.url: "source_config_invalid",
        scenario.source.url.replace("http:", "https:"): "source_address_not_allowed",
        f"https://localhost:{scenario.database.server.port}": "source_address_not_allowed",
    }
    for base_url, code in places.items():
        job_id = scenario.start(base_url=base_url)
        row = until(lambda: (row := scenario.row(job_id)) and row["finished_at"] and row)  # noqa: B023 (called here)
        assert (row["status"], row["error"]["code"]) == ("failed", code)
        assert "127.0.0.1" not in row["error"]["message"] + worker.text
        assert scenario.events(job_id) == ["start", "claim", "fail"]
    assert scenario.source.requests == []


def test_postgrest_transport__start_by_tick_and_cancel_by_heartbeat(scenario: Scenario) -> None:
    """There is no session connection, so there are no notifications."""
    with contextlib.ExitStack() as stack:
        auth = AuthServer(scenario.database.url, issuer_url="http://127.0.0.1/auth/v1", jwt_secret="s" * 40)
        stack.callback(auth.close)
        postgrest = rest.serve(scenario.database, auth.jwks_for_postgrest())
        stack.callback(postgrest.close)
        client = stack.enter_context(httpx.Client())
        project = WebServer(gateway({"/rest/v1": forward("/rest/v1", postgrest.url, client)}))
        stack.callback(project.close)
        stack.callback(scenario.close)

        job_id = scenario.start()
        worker = scenario.start_worker(
            DATABASE_URL="",
            SUPABASE_URL=project.url,
            SUPABASE_SERVICE_ROLE_KEY=auth.service_role_key(),
            WORKER_LEASE_SECONDS="30",
        )
        scenario.wait_for_seq(job_id, 3)
        postgrest.stop()
        until(lambda: worker.logged("waiting for the database"))
        postgrest.start()
        scenario.assert_completed(job_id)
        assert scenario.events(job_id) == ["start", "claim", "complete"]

        second = scenario.start()
        scenario.wait_for_seq(second, 2)
        scenario.hang_source()
        scenario.cancel(second)
        until(lambda: [line for line in worker.logged("execution ended") if line["outcome"] == "lost"])
        assert auth.service_role_key() not in worker.text
