"""Real workers, which are killed, stopped and replaced."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

from functions._local.worker_process import WorkerProcess
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from tests.chaos.target import Target

SIZE = 3
# A lease is given up after a second at the least, so that a round is short.
QUICK = {"WORKER_LEASE_SECONDS": "1", "WORKER_HEARTBEAT_SECONDS": "0.1", "WORKER_TICK_SECONDS": "0.1"}


class Team:
    """One of them speaks through PostgREST, where there is one, and one through `network`, which fails on request."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.network = Proxy(target.postgres.port)
        self._workers = [self._hire(nth) for nth in range(SIZE)]
        self._timers: list[threading.Timer] = []
        self._said: list[dict[str, Any]] = []

    def _hire(self, nth: int) -> WorkerProcess:
        url = self._target.authenticator_url
        way = {
            "DATABASE_URL": url.replace(f":{self._target.postgres.port}/", f":{self.network.port}/")
            if nth == 1
            else url
        }
        if nth == 0 and self._target.postgrest:
            key = self._target.auth.service_role_key()
            way = {"DATABASE_URL": "", "SUPABASE_URL": self._target.project_url, "SUPABASE_SERVICE_ROLE_KEY": key}
        return WorkerProcess(log=True, WORKER_ALLOW_PRIVATE_ADDRESSES="true", **QUICK, **way)

    def kill(self, nth: int) -> None:
        """Outright; another begins at once."""
        self._workers[nth].process.kill()
        self.end(nth)

    def stop(self, nth: int, seconds: float) -> None:
        """It stands still, and then goes on as if nothing had been."""
        process = self._workers[nth].process
        process.send_signal(signal.SIGSTOP)
        timer = threading.Timer(seconds, process.send_signal, [signal.SIGCONT])
        timer.start()
        self._timers.append(timer)

    def end(self, nth: int) -> None:
        """In order; another begins at once."""
        self._workers[nth].close()
        self._said += self._workers[nth].lines()
        self._workers[nth] = self._hire(nth)

    def said(self) -> list[dict[str, Any]]:
        """What they have logged since they were last asked."""
        said = [*self._said, *(line for worker in self._workers for line in worker.lines())]
        self._said.clear()
        return said

    def recover(self) -> None:
        """Everybody goes on; who has ended of its own accord is replaced."""
        self.network.thaw()
        for timer in self._timers:
            timer.join()
        self._timers.clear()
        for nth, worker in enumerate(self._workers):
            if worker.process.poll() is not None:
                self.end(nth)

    def close(self) -> None:
        self.recover()
        for worker in self._workers:
            worker.close()
        self.network.close()
