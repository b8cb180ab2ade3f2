"""A worker in a process of its own, which a test can suspend and resume."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Self

import psutil

from functions._local.worker_process import WorkerProcess
from tests.support.wait import until

if TYPE_CHECKING:
    from tests.support.database import Database

OPTIONS = {
    "WORKER_LEASE_SECONDS": "3600",
    "WORKER_HEARTBEAT_SECONDS": "0.1",
    "WORKER_TICK_SECONDS": "0.05",
    "WORKER_ALLOW_PRIVATE_ADDRESSES": "true",  # sources and receivers run on this machine
}


class SuspendableWorker(WorkerProcess):
    """The worker of this database. `options` are environment variables in addition to OPTIONS."""

    def __init__(self, database: Database, **options: str) -> None:
        self._database = database
        super().__init__(log=True, **{"DATABASE_URL": database.login("authenticator"), **OPTIONS, **options})

    def suspend(self) -> None:
        """Send SIGSTOP and wait until the statements that the worker has sent have ended."""
        self.process.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)
        busy = (
            "select from pg_stat_activity where state ~ 'active|transaction' and usename = 'authenticator'"
            " and datname = current_database()"
        )
        until(lambda: not self._database.all(busy))

    def resume(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.resume()
        super().close()

    def __enter__(self) -> Self:
        return self
