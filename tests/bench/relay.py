"""What stands before everybody's database and Auth server, as lean as Python can be: the same for every contender.

Two servers, each a process with one thread. The gateway passes whole requests on and the answer's bytes as they come;
`serve` answers requests by a WSGI application, one after the other.
"""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import signal
from typing import TYPE_CHECKING, Any, cast

from functions._local.orphans import dies_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from wsgiref.types import WSGIApplication

    Route = tuple[int, bytes]  # the port, and what takes the prefix's place


def gateway(port: int, routes: Mapping[bytes, Route]) -> multiprocessing.process.BaseProcess:
    """`routes` by path prefix."""
    return _process(port, lambda: _Gateway(routes))


def serve(port: int, application: WSGIApplication) -> multiprocessing.process.BaseProcess:
    return _process(port, lambda: _Wsgi(application))


def silence(port: int) -> multiprocessing.process.BaseProcess:
    """Listens, and never answers."""
    return _process(port, asyncio.Protocol)


def _process(port: int, factory: Callable[[], asyncio.Protocol]) -> multiprocessing.process.BaseProcess:
    # A fork, so that the application (keys and all) need not be described: its connections are opened over there.
    process = multiprocessing.get_context("fork").Process(target=_run, args=(port, factory), daemon=True)
    process.start()
    return process


def _run(port: int, factory: Callable[[], asyncio.Protocol]) -> None:
    dies_with_parent(signal.SIGKILL)()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops us in order

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", port, backlog=1024)
        await server.serve_forever()

    asyncio.run(main())


class _Requests(asyncio.Protocol):
    """One whole request at a time: clients here do not send the next before they have the answer."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= _content_length(head):
            self._received = b""
            self.asked(head, body)

    def asked(self, head: bytes, body: bytes) -> None:
        raise NotImplementedError


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


class _Gateway(_Requests):
    def __init__(self, routes: Mapping[bytes, Route]) -> None:
        super().__init__()
        self._routes = routes
        self._upstreams: dict[int, asyncio.Transport] = {}
        self._connecting: set[asyncio.Task[None]] = set()

    def asked(self, head: bytes, body: bytes) -> None:
        method, _, rest = head.partition(b" ")
        for prefix, (port, replacement) in self._routes.items():
            if rest.startswith(prefix):
                content = b"%b %b%b\r\n\r\n%b" % (method, replacement, rest.removeprefix(prefix), body)
                return self._pass_on(port, content)
        self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        return None

    def _pass_on(self, port: int, content: bytes) -> None:
        upstream = self._upstreams.get(port)
        if upstream is not None and not upstream.is_closing():
            upstream.write(content)
            return
        task = asyncio.ensure_future(self._connect(port, content))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, port: int, content: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            upstream, _ = await loop.create_connection(lambda: _Answers(self.transport), "127.0.0.1", port)
        except OSError:
            self.transport.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
            return
        self._upstreams[port] = upstream
        upstream.write(content)

    def connection_lost(self, _error: Exception | None) -> None:
        for upstream in self._upstreams.values():
            upstream.close()


class _Answers(asyncio.Protocol):
    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.write(data)


class _Wsgi(_Requests):
    def __init__(self, application: WSGIApplication) -> None:
        super().__init__()
        self._application = application

    def asked(self, head: bytes, body: bytes) -> None:
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
            started.append((status, headers))

        content = b"".join(self._application(_environ(head, body), start_response))
        [(status, headers)] = started
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
        if not any(name.lower() == "content-length" for name, _ in headers):
            lines.append(f"content-length: {len(content)}")
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + content)


def _environ(head: bytes, body: bytes) -> dict[str, Any]:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
    for line in lines:
        name, _, value = line.partition(":")
        environ["HTTP_" + name.upper().replace("-", "_")] = value.strip()
    return environ | {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
