"""A WSGI application on a loopback port, served by waitress."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from waitress.server import BaseWSGIServer


class _Parser(HTTPRequestParser):
    """Rejects requests with both lengths, because a proxy could go by the other one (request smuggling)."""

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length and Transfer-Encoding exclude each other")


class _Channel(HTTPChannel):
    parser_class = _Parser


class WebServer:
    """`port` 0 takes a free one. Raises OSError when the port is taken."""

    def __init__(self, application: WSGIApplication, port: int = 0, *, threads: int = 32) -> None:
        self._sockets: dict[int, Any] = {}
        self._dispatcher = ThreadedTaskDispatcher()
        try:
            self._server = cast(
                "BaseWSGIServer",
                create_server(
                    application,
                    map=self._sockets,
                    _dispatcher=self._dispatcher,
                    host="127.0.0.1",
                    port=port,
                    threads=threads,
                    connection_limit=1000,
                    ident=None,
                    clear_untrusted_proxy_headers=True,
                ),
            )
        except OSError:
            wasyncore.close_all(self._sockets)
            raise
        self._dispatcher.set_thread_count(threads)
        self._server.channel_class = _Channel
        self.port = int(self._server.getsockname()[1])
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
        # Connections close first, because a thread may wait for a client to read. Each thread then pulls the trigger,
        # so the trigger closes last.
        for channel in [entry for entry in self._sockets.values() if isinstance(entry, HTTPChannel)]:
            channel.handle_close()
        self._dispatcher.shutdown()
        wasyncore.close_all(self._sockets)
