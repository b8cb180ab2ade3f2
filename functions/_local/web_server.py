"""A WSGI application on a loopback port: waitress on threads of its own, and stopping leaves none of them behind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import WSGIApplication


class _Parser(HTTPRequestParser):
    """Refuses what has two lengths: a server before this one may go by the other, and take the rest for a request."""

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # of urllib, for addresses that are none
            raise ParsingError("Bad URI") from error
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length and Transfer-Encoding exclude each other")


class _Channel(HTTPChannel):
    parser_class = _Parser


class _Server(TcpWSGIServer):
    channel_class = _Channel


class _Dispatcher(ThreadedTaskDispatcher):
    """Keeps its threads, so that shutting down can wait until each has ended."""

    def __init__(self) -> None:
        super().__init__()
        self._started: list[threading.Thread] = []

    def start_new_thread(self, target: Callable[[int], object], thread_no: int) -> None:
        thread = threading.Thread(target=target, args=(thread_no,), name=f"web-{thread_no}", daemon=True)
        self._started.append(thread)
        thread.start()

    def shutdown(self, cancel_pending: bool = True, timeout: int = 5) -> bool:
        cancelled = super().shutdown(cancel_pending, timeout)
        for thread in self._started:
            thread.join(timeout)
        return cancelled


class WebServer:
    """`port` 0 takes a free one. Raises OSError when the port is taken."""

    def __init__(self, application: WSGIApplication, port: int = 0, *, threads: int = 32) -> None:
        self._sockets: dict[int, Any] = {}
        self._dispatcher = _Dispatcher()
        settings = Adjustments(
            host="127.0.0.1",
            port=port,
            threads=threads,
            connection_limit=1000,
            ident=None,
            clear_untrusted_proxy_headers=True,
        )
        try:
            self._server = _Server(application, self._sockets, dispatcher=self._dispatcher, adj=settings)
        except OSError:
            wasyncore.close_all(self._sockets)
            raise
        self.port = int(self._server.getsockname()[1])
        self._dispatcher.set_thread_count(threads)
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="web", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _loop(self) -> None:
        while not self._stopping:
            wasyncore.loop(timeout=60, use_poll=True, map=self._sockets, count=1)

    def close(self) -> None:
        self._stopping = True
        self._server.pull_trigger()
        self._thread.join()
        # A thread may wait for a client to read: its connection must close first, and the trigger it pulls, last.
        for channel in [entry for entry in self._sockets.values() if isinstance(entry, HTTPChannel)]:
            channel.handle_close()
        self._dispatcher.shutdown()
        wasyncore.close_all(self._sockets)
