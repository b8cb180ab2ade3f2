"""Servers in processes of their own, and the costs of processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from functions._local.orphans import dies_with_parent
from functions._local.schema import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

START_SECONDS = 30
INHERITED = ("PATH", "HOME", "LANG")


class Server:
    """Returns when its port accepts connections. Raises RuntimeError with its log if it does not."""

    def __init__(
        self, command: Sequence[str | Path], port: int, environment: Mapping[str, str], cwd: Path = ROOT
    ) -> None:
        self.port = port
        self._log = tempfile.NamedTemporaryFile(prefix="bench-", suffix=".log")  # noqa: SIM115 (closed by `close`)
        self.process = start(command, {**environment, "PORT": str(port)}, self._log.fileno(), cwd)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not accepts_connections(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.process.args!r} did not start:\n{self.logged()[-2000:]}")
            time.sleep(0.01)

    def logged(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def close(self) -> None:
        stop(self.process)
        self._log.close()


def start(
    command: Sequence[str | Path], environment: Mapping[str, str], log: int, cwd: Path = ROOT, *, piped: bool = False
) -> subprocess.Popen[bytes]:
    """Starts a program with little of our environment. `piped`: its stdin and stdout are pipes."""
    return subprocess.Popen(
        [*command],
        env={**inherited(), **environment},
        cwd=cwd,
        stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
        stdout=subprocess.PIPE if piped else log,
        stderr=log,
        start_new_session=True,  # Ctrl-C reaches the parent, which stops it in order
        preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 (one system call, no lock is taken)
    )


def inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def accepts_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def log_of(pid: int) -> str:
    """What a process that was started here has logged so far."""
    return Path(f"/proc/{pid}/fd/2").resolve().read_text(errors="replace")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its children, including those that have ended."""
    process = psutil.Process(pid)
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:4])
    return total


def memory_bytes(pid: int) -> int:
    """Resident."""
    return int(psutil.Process(pid).memory_info().rss)
