"""`make serve`: serves the functions and runs a worker until Ctrl-C, on the embedded stack or on a Supabase project.

When ready, it prints one line to stdout: `ready {json}`. PORT is the port (54321). SOURCE_DELAY_MS delays each page of
the local data API. With SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY and SUPABASE_SECRET_KEY set, it serves that project.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys

from functions._local.gateway import gateway
from functions._local.stack import Stack
from functions._local.web_server import WebServer
from functions._local.worker_process import WorkerProcess
from functions._shared import logs, registry, services
from functions._shared.http import PREFIX
from functions._shared.wsgi_adapter import wsgi

WORKER_CHECK_SECONDS = 0.5


def main() -> None:
    logs.to_stderr()
    stop = _stop_pipe()
    port = int(os.environ.get("PORT", "54321"))
    try:
        if os.environ.get("SUPABASE_URL"):
            _serve_project(port, stop)
        else:
            _serve_embedded(port, stop)
    except OSError as error:
        sys.exit(f"Port {port} cannot be used ({error.strerror}). Set PORT to another one.")


def _stop_pipe() -> int:
    """The end of a pipe that is readable after SIGINT or SIGTERM.

    The interpreter's C handler writes to the pipe. A handler in Python could not set a threading.Event safely: it runs
    in the main thread, so it would wait for the lock that the main thread holds in `Event.wait`.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return reader


def _serve_embedded(port: int, stop: int) -> None:
    delay = float(os.environ.get("SOURCE_DELAY_MS", "0")) / 1000
    with Stack(port=port, source_delay_seconds=delay) as stack, stack.worker() as worker:
        _ready(stack.ready())
        _wait(stop, worker)


def _serve_project(port: int, stop: int) -> None:
    project = services.from_deployment()
    server = WebServer(gateway({PREFIX: wsgi(lambda request: registry.handle(request, project))}), port)
    try:
        with WorkerProcess() as worker:
            _ready({"url": project.settings.supabase_url, "functions_url": f"{server.url}{PREFIX}"})
            _wait(stop, worker)
    finally:
        server.close()


def _wait(stop: int, worker: WorkerProcess) -> None:
    """Returns after a signal. Ends the process when the worker ends, because nothing would run without it."""
    while not select.select([stop], [], [], WORKER_CHECK_SECONDS)[0]:
        if worker.process.poll() is not None:
            sys.exit("The worker has ended. Its last log messages say why.")


def _ready(members: dict[str, object]) -> None:
    print("ready", json.dumps(members), flush=True)


if __name__ == "__main__":
    main()
