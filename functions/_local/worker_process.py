"""The real worker in a process of its own, and its log."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from functions._local.orphans import dies_with_parent
from functions._local.schema import ROOT

if TYPE_CHECKING:
    from types import TracebackType


class WorkerProcess:
    """`options` are environment variables. With `log=True`, its log is not shown but kept for `lines`."""

    def __init__(self, *, log: bool = False, **options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "functions.worker"],
            cwd=ROOT,
            env={**os.environ, **options},
            stderr=subprocess.PIPE if log else None,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the parent, which stops it in order
            preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509 (one system call, no lock is taken)
        )
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="worker-log", daemon=True) if log else None
        if self._reader:
            self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(json.loads(line) if line.startswith("{") else {"message": line})

    def wait_for(self, message: str, execution_id: str | None = None, seconds: float = 30) -> dict[str, Any]:
        """The next log line with `message`, of this execution or of any. Raises queue.Empty after `seconds`."""
        while True:
            line = self._lines.get(timeout=seconds)
            if line["message"] == message and execution_id in (None, line.get("execution_id")):
                return line

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged since the last call."""
        found = []
        while not self._lines.empty():
            found.append(self._lines.get())
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._reader and self.process.stderr:
            self._reader.join(5)
            self.process.stderr.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
