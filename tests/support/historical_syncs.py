"""Historical syncs of two days from the local source, run by worker processes whose logs are kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from functions._local.schema import ROOT
from functions._local.source import RESOURCES, Source, table
from tests.support.wait import until

if TYPE_CHECKING:
    import signal
    from pathlib import Path

    from tests.support.database import Database, User

DAYS = ("2013-03-02", "2013-03-03")
ENDLESS_SECONDS = 3600.0


class LoggedWorker:
    """A worker process of the code in a folder. `lines` is what it has logged so far."""

    def __init__(self, log: Path, options: dict[str, str], code: Path = ROOT) -> None:
        self._log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "functions.worker"], cwd=code, env={**os.environ, **options}, stderr=stderr
            )

    @property
    def text(self) -> str:
        return self._log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines(keepends=True) if line.endswith("\n")]

    def logged(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == message]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Scenario:
    """One database, one source, any number of workers. Pages are small and slow, so that a test can act between two."""

    def __init__(self, database: Database, source: Source, folder: Path, code: Path = ROOT) -> None:
        self.database = database
        self.source = source
        self.user: User = database.member()
        self._folder = folder
        self._code = code
        self._workers: list[LoggedWorker] = []

    def start(
        self, *resources: str, auth: str = "api_key_query", secret: dict[str, str] | None = None, **changes: str
    ) -> str:
        """Start a sync. `changes` replace fields of the connection's config."""
        config, valid = self.source.connection(resources or ["flights", "weather"], auth=auth, page_size=120)
        config |= changes
        connection_id = self.database.connection(self.user.agency_id, config=config, secret=secret or valid)
        with self.database.session(self.user.claims) as session:
            job = session.call("start_historical_sync", connection_id=connection_id, date_from=DAYS[0], date_to=DAYS[1])
        return str(job["job_id"])

    def start_worker(self, **options: str) -> LoggedWorker:
        values = {"WORKER_LEASE_SECONDS": "1", "WORKER_HEARTBEAT_SECONDS": "0.1", "WORKER_TICK_SECONDS": "0.05"}
        values |= {"DATABASE_URL": self.database.login("authenticator"), "WORKER_ALLOW_PRIVATE_ADDRESSES": "true"}
        log = self._folder / f"worker-{len(self._workers)}.log"
        worker = LoggedWorker(log, values | options, self._code)
        self._workers.append(worker)
        return worker

    def row(self, job_id: str) -> dict[str, Any]:
        return self.database.execution(job_id)

    def wait_for_seq(self, job_id: str, seq: int) -> None:
        until(lambda: self.row(job_id)["seq"] >= seq)

    def cancel(self, job_id: str) -> dict[str, Any]:
        with self.database.session(self.user.claims) as session:
            return dict(session.call("cancel_sync_job", job_id=job_id))

    def hang_source(self) -> None:
        """Deliver no further page. Returns when one is requested."""
        self.source.faults.delay_seconds = ENDLESS_SECONDS
        before = len(self.source.requests)
        until(lambda: len(self.source.requests) > before)

    def assert_completed(self, job_id: str) -> None:
        """Wait for the end. The records must be exactly the source's rows: none missing, none twice, no others."""
        ended = until(lambda: (row := self.row(job_id)) and row["finished_at"] and row)
        assert (ended["status"], ended["error"]) == ("completed", None)
        total = 0
        for resource in ended["spec"]["resources"]:
            held = table(resource)
            start, stop = held.between(*DAYS)
            expected = json.loads(b"[" + held.rows(start, stop) + b"]")
            primary_key = RESOURCES[resource].primary_key
            stored = self.database.all("select key, data from app.records where resource = %s", (resource,))
            assert {row["key"]: row["data"] for row in stored} == {
                json.dumps([row[field] for field in primary_key], separators=(",", ":")): row for row in expected
            }
            total += len(expected)
        assert self.database.one("select count(*) from app.records")["count"] == total
        assert ended["records"] == total

    def events(self, job_id: str) -> list[str]:
        return [event["event"] for event in self.database.events(job_id)]

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def check_logs(self) -> None:
        accepted = self.source.credentials
        secrets = [accepted.token, accepted.api_key, accepted.password, self.database.server.password]
        for worker in self._workers:
            assert not [secret for secret in secrets if secret in worker.text]
            assert "Traceback" not in worker.text
