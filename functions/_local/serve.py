"""`make serve`: the functions and a worker until Ctrl-C, over the embedded stack or the project in the environment.

When ready it prints one line to stdout, `ready {json}`. PORT is the port (54321), SOURCE_DELAY_MS holds back each page
of the local data API. With SUPABASE_URL, SUPABASE_ANON_KEY and SUPABASE_SERVICE_ROLE_KEY set it serves that project.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from functions._local.gateway import gateway
from functions._local.stack import Stack
from functions._local.web_server import WebServer
from functions._local.worker_process import WorkerProcess
from functions._shared import logs, registry, runtime, services

LOOK_SECONDS = 0.5  # how often it looks whether its worker is there


def main() -> None:
    logs.to_stderr()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    port = int(os.environ.get("PORT", "54321"))
    try:
        if os.environ.get("SUPABASE_URL"):
            _serve_project(port, stop)
        else:
            _serve_embedded(port, stop)
    except OSError as error:
        sys.exit(f"Port {port} cannot be used ({error.strerror}). Set PORT to another one.")


def _serve_embedded(port: int, stop: threading.Event) -> None:
    delay = float(os.environ.get("SOURCE_DELAY_MS", "0")) / 1000
    with Stack(port=port, source_delay_seconds=delay) as stack, stack.worker() as worker:
        _ready(stack.ready())
        _until(stop, worker)


def _serve_project(port: int, stop: threading.Event) -> None:
    project = services.services()
    server = WebServer(gateway({runtime.PREFIX: runtime.wsgi(lambda request: registry.handle(request, project))}), port)
    try:
        with WorkerProcess() as worker:
            _ready({"url": project.settings.supabase_url, "functions_url": f"{server.url}{runtime.PREFIX}"})
            _until(stop, worker)
    finally:
        server.close()


def _until(stop: threading.Event, worker: WorkerProcess) -> None:
    """Without its worker nothing that was started would ever run, so it ends with it."""
    while not stop.wait(LOOK_SECONDS):
        if worker.process.poll() is not None:
            sys.exit("The worker has ended; what it logged last says why.")


def _ready(members: dict[str, object]) -> None:
    print("ready", json.dumps(members), flush=True)


if __name__ == "__main__":
    main()
