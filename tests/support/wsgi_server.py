"""Serves a WSGI application on a loopback port."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.server import BaseWSGIServer, create_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.types import WSGIApplication


@contextlib.contextmanager
def serve(application: WSGIApplication) -> Iterator[str]:
    """Serves on a loopback port, and yields the URL."""
    sockets: dict[int, Any] = {}
    server = create_server(application, sockets, host="127.0.0.1", port=0, threads=8)
    assert isinstance(server, BaseWSGIServer)
    assert server.socket is not None
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            wasyncore.loop(timeout=1, map=sockets, count=1)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        stop.set()
        server.pull_trigger()
        thread.join()
        server.task_dispatcher.shutdown()
        wasyncore.close_all(sockets)
