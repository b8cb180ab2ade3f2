"""The real worker, `python -m functions.worker`, over a real Postgres and the local source: it is killed, stopped,
fenced off and cut from everything it needs, and what it leaves behind is what the source holds, once.
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
from tests.support.flights import Scenario
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


def test_undisturbed(scene: Scenario) -> None:
    job_id = scene.start()
    worker = scene.work()
    scene.completes(job_id)
    assert scene.events(job_id) == ["start", "claim", "complete"]
    [ended] = until(lambda: worker.said("ended"))
    assert (ended["outcome"], ended["execution_id"]) == ("completed", job_id)
    pages = len(scene.source.requests)
    assert scene.row(job_id)["seq"] == pages  # no page was asked for twice


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again(scene: Scenario, seed: int) -> None:
    chance = random.Random(seed)
    job_id = scene.start()
    heir = scene.work()
    kills = 0
    while kills < 3 and not scene.row(job_id)["finished_at"]:
        worker, heir = heir, scene.work()  # it starts while the other works, and takes over when the lease is out
        seq = scene.row(job_id)["seq"] + chance.randint(1, 3)
        until(lambda: (row := scene.row(job_id))["seq"] >= seq or row["finished_at"])  # noqa: B023 (called here)
        time.sleep(chance.uniform(0, 0.03))  # anywhere between two commits
        for one in (worker, heir):
            if one.said("begun") and not one.said("ended"):
                one.send(signal.SIGKILL)
                one.process.wait()
                kills += 1
        if heir.process.poll() is not None:
            heir = scene.work()
    assert kills
    scene.completes(job_id)
    assert scene.events(job_id)[-1] == "complete"
    assert scene.events(job_id).count("release") == scene.events(job_id).count("claim") - 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_postgres_restarts_in_the_middle(scene: Scenario, how: signal.Signals) -> None:
    job_id = scene.start()
    worker = scene.work(WORKER_LEASE_SECONDS="30")
    for seq in (3, 8):
        scene.committed(job_id, seq)
        waits = len(worker.said("waiting for the database"))
        scene.database.server.stop(how)
        until(lambda: len(worker.said("waiting for the database")) > waits)  # noqa: B023 (called here)
        scene.database.server.start()
        scene.database.reconnect()
    scene.completes(job_id)
    assert scene.events(job_id) == ["start", "claim", "complete"]  # the lease survived


def test_a_stopped_process_is_overtaken_and_told_so(scene: Scenario) -> None:
    job_id = scene.start()
    first = scene.work()
    scene.committed(job_id, 3)
    first.send(signal.SIGSTOP)
    second = scene.work()
    until(lambda: second.said("begun"))
    scene.committed(job_id, scene.row(job_id)["seq"] + 1)
    first.send(signal.SIGCONT)
    [ended] = until(lambda: first.said("ended"))
    assert ended["outcome"] == "lost"
    scene.completes(job_id)
    assert scene.events(job_id) == ["start", "claim", "release", "claim", "complete"]


def test_a_stopped_process_holds_up_no_cancel_and_stores_nothing_after_it(scene: Scenario) -> None:
    job_id = scene.start()
    worker = scene.work(WORKER_LEASE_SECONDS="30")
    chance = random.Random(0)
    for _ in range(10):  # wherever it is stopped, the database ends what it was told and holds no lock
        scene.committed(job_id, scene.row(job_id)["seq"] + 1)
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
    [ended] = until(lambda: worker.said("ended"))
    assert ended["outcome"] == "lost"
    assert scene.row(job_id) == row
    assert scene.database.all("select key, stored_at from app.records order by key") == stored
    assert scene.events(job_id) == ["start", "claim", "cancel"]


def test_a_cancel_ends_a_fetch_that_never_would(scene: Scenario) -> None:
    """By the hint alone: no heartbeat comes."""
    job_id = scene.start()
    worker = scene.work(WORKER_HEARTBEAT_SECONDS="3600", WORKER_LEASE_SECONDS="3600")
    scene.committed(job_id, 2)
    scene.fetches_for_ever()
    scene.cancel(job_id)
    row, asked = scene.row(job_id), len(scene.source.requests)
    [ended] = until(lambda: worker.said("ended"))
    assert ended["outcome"] == "lost"
    assert (scene.row(job_id), len(scene.source.requests)) == (row, asked)


def test_sigterm_releases_with_the_checkpoint(scene: Scenario) -> None:
    job_id = scene.start()
    worker = scene.work(WORKER_LEASE_SECONDS="3600")
    scene.committed(job_id, 2)
    scene.fetches_for_ever()
    worker.send(signal.SIGTERM)
    assert worker.process.wait(30) == 0
    row = scene.row(job_id)
    assert (row["status"], row["attempts"]) == ("queued", 0)
    assert row["checkpoint"]["resource"] == "flights"
    assert scene.database.events(job_id)[-1]["reason"] == "shutdown"

    scene.source.faults.clear()
    scene.work()
    scene.completes(job_id)


@pytest.mark.parametrize("away", ["stopped", "frozen"])
def test_sigterm_ends_the_process_without_a_database(scene: Scenario, away: str) -> None:
    job_id = scene.start()
    server = scene.database.server
    with Proxy(server.port) as proxy:
        url = scene.database.login("authenticator").replace(f":{server.port}/", f":{proxy.port}/")
        worker = scene.work(DATABASE_URL=url, WORKER_SHUTDOWN_SECONDS="0.1")
        scene.committed(job_id, 2)
        if away == "stopped":
            server.stop()
            until(lambda: worker.said("waiting for the database"))
        else:
            proxy.freeze()
        worker.send(signal.SIGTERM)
        assert worker.process.wait(30) == 0
    server.restart()
    scene.database.reconnect()
    scene.work()
    scene.completes(job_id)


def test_a_source_that_fails_now_and_then(scene: Scenario) -> None:
    job_id = scene.start()
    scene.work()
    faults = scene.source.faults
    asks: list[Callable[[], None]] = [
        lambda: faults.status(500),
        faults.truncate,
        lambda: faults.status(429, retry_after=0),
        lambda: faults.status(503),
    ]
    for nth, fail in enumerate(asks):
        scene.committed(job_id, 2 + 2 * nth)
        fail()
    scene.completes(job_id)
    assert len(scene.source.requests) == scene.row(job_id)["seq"] + len(asks)
    assert scene.events(job_id) == ["start", "claim", "complete"]


def test_a_source_that_refuses_its_credentials(scene: Scenario) -> None:
    job_id = scene.start(auth="bearer", secret={"token": "not-the-token"})
    worker = scene.work()
    row = until(lambda: (row := scene.row(job_id)) and row["finished_at"] and row)
    assert row["status"] == "failed"
    assert row["error"] == {
        "code": "source_unauthorized",
        "message": 'The source answered 401 for "flights". Check the secret and what it may read.',
    }
    assert "not-the-token" not in f"{worker.text} {scene.events(job_id)}"
    assert len(scene.source.requests) == 1


@pytest.mark.parametrize("allowed", ["", "false", "1", "TRUE"])
def test_nothing_but_true_lets_a_connection_reach_this_machine(scene: Scenario, allowed: str) -> None:
    """Nor does a connection of a user's making reach the database that the worker itself speaks to."""
    worker = scene.work(WORKER_ALLOW_PRIVATE_ADDRESSES=allowed)
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


def test_through_postgrest(scene: Scenario) -> None:
    """No session connection and so no hints: a start is found by the tick, a cancel by the heartbeat."""
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
        worker = scene.work(
            DATABASE_URL="",
            SUPABASE_URL=project.url,
            SUPABASE_SERVICE_ROLE_KEY=auth.service_role_key(),
            WORKER_LEASE_SECONDS="30",
        )
        scene.committed(job_id, 3)
        postgrest.stop()
        until(lambda: worker.said("waiting for the database"))
        postgrest.start()
        scene.completes(job_id)
        assert scene.events(job_id) == ["start", "claim", "complete"]

        second = scene.start()
        scene.committed(second, 2)
        scene.fetches_for_ever()
        scene.cancel(second)
        until(lambda: [line for line in worker.said("ended") if line["outcome"] == "lost"])
        assert auth.service_role_key() not in worker.text
