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
# Short leases, so that a round is short.
QUICK = {"WORKER_LEASE_SECONDS": "1", "WORKER_HEARTBEAT_SECONDS": "0.1", "WORKER_TICK_SECONDS": "0.1"}


class Team:
    """One worker uses PostgREST if it is installed, and one uses `network`, a proxy that fails on request."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.network = Proxy(target.postgres.port)
        self._workers = [self._start(nth) for nth in range(SIZE)]
        self._timers: list[threading.Timer] = []
        self._kept_lines: list[dict[str, Any]] = []

    def _start(self, nth: int) -> WorkerProcess:
        url = self._target.authenticator_url
        environment = {
            "DATABASE_URL": url.replace(f":{self._target.postgres.port}/", f":{self.network.port}/")
            if nth == 1
            else url
        }
        if nth == 0 and self._target.postgrest:
            key = self._target.auth.service_role_key()
            environment = {
                "DATABASE_URL": "",
                "SUPABASE_URL": self._target.project_url,
                "SUPABASE_SERVICE_ROLE_KEY": key,
            }
        return WorkerProcess(log=True, WORKER_ALLOW_PRIVATE_ADDRESSES="true", **QUICK, **environment)

    def kill(self, nth: int) -> None:
        """Kills a worker and replaces it."""
        self._workers[nth].process.kill()
        self.end(nth)

    def stop(self, nth: int, seconds: float) -> None:
        """Freezes a worker for some seconds."""
        process = self._workers[nth].process
        process.send_signal(signal.SIGSTOP)
        timer = threading.Timer(seconds, process.send_signal, [signal.SIGCONT])
        timer.start()
        self._timers.append(timer)

    def end(self, nth: int) -> None:
        """Stops a worker with SIGTERM and replaces it."""
        self._workers[nth].close()
        self._kept_lines += self._workers[nth].lines()
        self._workers[nth] = self._start(nth)

    def log_lines(self) -> list[dict[str, Any]]:
        """The lines that the workers have logged since the last call."""
        lines = [*self._kept_lines, *(line for worker in self._workers for line in worker.lines())]
        self._kept_lines.clear()
        return lines

    def recover(self) -> None:
        """Resumes all workers and replaces those that have ended."""
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
