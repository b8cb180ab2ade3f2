"""Runs `make serve` as a process and checks that it stops everything that it started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from functions._local.postgres import free_port
from functions._local.schema import ROOT
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT_VARIABLES = (
    "SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY",
    "DATABASE_URL", "WORKER_ALLOW_PRIVATE_ADDRESSES",
)  # fmt: skip


class Serve:
    """The process, its `ready` line, and the processes that it started."""

    def __init__(self, **environment: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in PROJECT_VARIABLES}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "functions._local.serve"],
            cwd=ROOT,
            env=inherited | environment,
            stdout=subprocess.PIPE,  # stderr is pytest's, which shows it if a test fails
            text=True,
        )
        assert self.process.stdout is not None
        event, _, fields = self.process.stdout.readline().partition(" ")
        assert event == "ready", self.process.communicate(timeout=30)
        self.ready: dict[str, Any] = json.loads(fields)
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        rest, _ = self.process.communicate(timeout=60)
        assert (self.process.returncode, rest) == (0, "")
        until(lambda: not any(is_alive(child) for child in self.children))


@contextmanager
def serving(environment: dict[str, str], how: signal.Signals = signal.SIGTERM) -> Iterator[Serve]:
    served = Serve(PORT=str(free_port()), **environment)
    try:
        yield served
    finally:
        served.stop(how)
    url = httpx.URL(served.ready["functions_url"])
    with socket.socket() as probe:
        assert probe.connect_ex((url.host, url.port or 0)) != 0


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def bearer(user: dict[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {user['access_token']}"}
