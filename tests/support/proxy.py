"""A network that fails on request: a TCP proxy on loopback in front of a real server."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Proxy:
    """Forwards everything, except after `lose_response`, `freeze` and `cut`."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lost = 0  # responses that were dropped
        self.seen = 0  # messages from clients
        self._needle: bytes | None = None
        self._flowing = threading.Event()
        self._flowing.set()
        self._closing = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def lose_response(self, to: bytes) -> None:
        """Forwards the next message that contains these bytes, then drops the response and the connection."""
        self._needle = to

    def freeze(self) -> None:
        """Accepts connections and forwards nothing until `thaw`."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        """Closes every connection."""
        for one in self._sockets:
            _shut(one)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            losing = threading.Event()
            self._start(self._requests, client, server, losing)
            self._start(self._responses, client, server, losing)

    def _requests(self, client: socket.socket, server: socket.socket, losing: threading.Event) -> None:
        tail = b""
        for data in _received(client):
            self._flowing.wait()
            self.seen += 1
            needle = self._needle
            if needle and needle in tail + data:
                self._needle = None
                losing.set()
            tail = data[-100:]
            with contextlib.suppress(OSError):
                server.sendall(data)
        _shut(server)

    def _responses(self, client: socket.socket, server: socket.socket, losing: threading.Event) -> None:
        for data in _received(server):
            self._flowing.wait()
            if losing.is_set():
                self.lost += 1
                break
            with contextlib.suppress(OSError):
                client.sendall(data)
        _shut(client)
        _shut(server)

    def close(self) -> None:
        _shut(self._listener)
        self._listener.close()
        self._flowing.set()
        self.cut()
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _received(one: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            data = one.recv(1 << 16)
        except OSError:
            return
        if not data:
            return
        yield data


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
