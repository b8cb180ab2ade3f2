"""What the tests of the worker share: flights of two days from the local source, and worker processes that log."""

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
FOR_EVER = 3600.0


class Logged:
    """A worker process of the code in this folder; `lines` is what it has logged so far."""

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

    def said(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == message]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Scenario:
    """One database, one source, any number of workers. Pages are small and slow enough to be hit."""

    def __init__(self, database: Database, source: Source, folder: Path, code: Path = ROOT) -> None:
        self.database = database
        self.source = source
        self.user: User = database.member()
        self._folder = folder
        self._code = code
        self._workers: list[Logged] = []

    def start(
        self, *resources: str, auth: str = "api_key_query", secret: dict[str, str] | None = None, **members: str
    ) -> str:
        """`members` replace those of the connection's config."""
        config, right = self.source.connection(resources or ["flights", "weather"], auth=auth, page_size=120)
        config |= members
        connection_id = self.database.connection(self.user.agency_id, config=config, secret=secret or right)
        with self.database.session(self.user.claims) as session:
            job = session.call("start_historical_sync", connection_id=connection_id, date_from=DAYS[0], date_to=DAYS[1])
        return str(job["job_id"])

    def work(self, **options: str) -> Logged:
        values = {"WORKER_LEASE_SECONDS": "1", "WORKER_HEARTBEAT_SECONDS": "0.1", "WORKER_TICK_SECONDS": "0.05"}
        values |= {"DATABASE_URL": self.database.login("authenticator"), "WORKER_ALLOW_PRIVATE_ADDRESSES": "true"}
        log = self._folder / f"worker-{len(self._workers)}.log"
        worker = Logged(log, values | options, self._code)
        self._workers.append(worker)
        return worker

    def row(self, job_id: str) -> dict[str, Any]:
        return self.database.execution(job_id)

    def committed(self, job_id: str, seq: int) -> None:
        until(lambda: self.row(job_id)["seq"] >= seq)

    def cancel(self, job_id: str) -> dict[str, Any]:
        with self.database.session(self.user.claims) as session:
            return dict(session.call("cancel_sync_job", job_id=job_id))

    def fetches_for_ever(self) -> None:
        """From here on no page arrives; returns when one is asked for."""
        self.source.faults.delay_seconds = FOR_EVER
        before = len(self.source.requests)
        until(lambda: len(self.source.requests) > before)

    def completes(self, job_id: str) -> None:
        """The job ends, and its records are the source's rows exactly: none missing, none twice, none else."""
        row = until(lambda: (row := self.row(job_id)) and row["finished_at"] and row)
        assert (row["status"], row["error"]) == ("completed", None)
        total = 0
        for resource in row["spec"]["resources"]:
            held = table(resource)
            start, stop = held.between(*DAYS)
            expected = json.loads(b"[" + held.rows(start, stop) + b"]")
            members = RESOURCES[resource].primary_key
            stored = self.database.all("select key, data from app.records where resource = %s", (resource,))
            assert {one["key"]: one["data"] for one in stored} == {
                json.dumps([one[member] for member in members], separators=(",", ":")): one for one in expected
            }
            total += len(expected)
        assert self.database.one("select count(*) from app.records")["count"] == total
        assert row["records"] == total

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
