"""Runs a handler as Lambda does: one process of the bundle's Python, with the unpacked zip alone on its path."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import platform
import select
import shutil
import signal
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from functions._build import bundle
from functions._local.orphans import dies_with_parent
from functions._local.schema import ROOT
from tests.support import installed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ARCH: bundle.Arch = "arm64" if platform.machine() == "aarch64" else "x86_64"
CACHE = ROOT / ".cache" / "bundles"
KEPT = 3  # versions of each bundle, 60 MB each
INIT_SECONDS = 60

# Responses have a file descriptor of their own, because a handler may print.
DRIVER = """
import sys
folder, module, name = sys.argv[1:]
sys.path.insert(0, folder)
import importlib, json, os, time, traceback
responses = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
sys.stdout.reconfigure(line_buffering=True)

class Context:
    function_name = "function"
    function_version = "1"
    memory_limit_in_mb = "512"

    def __init__(self, number, end):
        self.aws_request_id = f"00000000-0000-4000-8000-{number:012}"
        self._end = end

    def get_remaining_time_in_millis(self):
        return max(int((self._end - time.monotonic()) * 1000), 0)

def send(**message):
    print(json.dumps(message), file=responses, flush=True)

handler = getattr(importlib.import_module(module), name)
send(ready=True)
for number, line in enumerate(sys.stdin):
    request = json.loads(line)
    if "event" not in request:
        send(result=sorted(sys.modules))
        continue
    try:
        send(result=handler(request["event"], Context(number, time.monotonic() + request["seconds"])))
    except Exception as error:
        traceback.print_exc()
        send(error=type(error).__name__, message=str(error))
"""


class HandlerFailed(Exception):
    """The handler raised an exception: the name of its type, and its message."""


class TimedOut(Exception):
    """There was no response in time. The process was killed, as Lambda does."""


class Function:
    """`function(event, seconds)` returns the response. To freeze it, stop `function.process` by a signal."""

    def __init__(self, folder: Path, handler: str, environment: Mapping[str, str]) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        module, _, name = handler.rpartition(".")
        self.process = subprocess.Popen(
            [installed.bundle_python(), "-I", "-S", "-B", "-c", DRIVER, folder, module, name],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 (one system call, no lock is taken)
        )

    def ready(self) -> None:
        """Waits until the handler is imported. Raises HandlerFailed or TimedOut."""
        self._read(INIT_SECONDS)

    def __call__(self, event: object, seconds: float = 30) -> Any:
        """Raises HandlerFailed or TimedOut."""
        return self._ask({"event": event, "seconds": seconds}, seconds)

    def modules(self) -> set[str]:
        """The names of the modules that are imported by now."""
        return set(self._ask({}, INIT_SECONDS))

    def logged(self) -> str:
        """Everything that the process has written to stderr and stdout."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _ask(self, line: dict[str, Any], seconds: float) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line).encode() + b"\n")
        self.process.stdin.flush()
        return self._read(seconds)

    def _read(self, seconds: float) -> Any:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            self.process.kill()
            raise TimedOut(self.logged())
        line = self.process.stdout.readline()
        if not line:
            raise HandlerFailed(f"The process ended.\n{self.logged()}")
        message = json.loads(line)
        if "error" in message:
            raise HandlerFailed(message["error"], message["message"])
        return message.get("result")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._log.close()


@contextlib.contextmanager
def function(archive: Path, handler: str, environment: Mapping[str, str]) -> Iterator[Function]:
    """A process that has imported the handler `module.name`, with this environment alone."""
    with contextlib.closing(Function(unpacked(archive), handler, environment)) as started:
        started.ready()
        yield started


def unpacked(archive: Path) -> Path:
    folder = archive.with_suffix("")
    with _alone(folder):
        if not folder.exists():
            unfinished = folder.with_suffix(".part")
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(unfinished)
            unfinished.rename(folder)
    return folder


def built(made: bundle.Bundle) -> Path:
    """The bundle's zip for this machine. It is built again when one of its inputs has changed."""
    folder = CACHE / made.name / _digest(made)
    archive = folder / bundle.file_name(made, ARCH)
    with _alone(CACHE / made.name / "build"):
        if not archive.exists():
            for old in sorted(folder.parent.glob("*/"), key=lambda path: path.stat().st_mtime)[: -KEPT + 1]:
                shutil.rmtree(old)
            bundle.build(made, ARCH, folder=folder)
    return archive


def _digest(made: bundle.Bundle) -> str:
    content = hashlib.sha256(str(installed.bundle_python()).encode())
    for file in sorted({*bundle.inputs(made), Path(bundle.__file__)}):
        content.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return content.hexdigest()[:16]


@contextlib.contextmanager
def _alone(what: Path) -> Iterator[None]:
    """Lets one process of the test run in at a time."""
    what.parent.mkdir(parents=True, exist_ok=True)
    with what.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
