"""A small load generator: HTTP/1.1 on open sockets in one thread. Each client sends when it has its response."""

from __future__ import annotations

import selectors
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RESPONSE_SECONDS = 30


@dataclass(frozen=True)
class Load:
    """Seconds of each response, of the whole, and of processor time of the load itself."""

    responses: list[float]
    seconds: float
    own_cpu_seconds: float


def request(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class _Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=RESPONSE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self._sent_at = 0.0

    def send(self, content: bytes) -> None:
        self._received = b""
        self._sent_at = time.perf_counter()
        self.socket.sendall(content)

    def read(self) -> float | None:
        """Seconds until the response, None while it is incomplete. Raises RuntimeError unless it is a 200."""
        piece = self.socket.recv(65536)
        self._received += piece
        if piece and not is_whole(self._received):
            return None
        if not self._received.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"not a 200: {self._received[:2000].decode(errors='replace')}")
        return time.perf_counter() - self._sent_at


def is_whole(response: bytes) -> bool:
    head, end, body = response.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return body.endswith(b"0\r\n\r\n")  # chunked


def run(port: int, clients: int, requests: Sequence[bytes]) -> Load:
    """Sends every request once, with this number of clients."""
    waiting = iter(requests)
    responses: list[float] = []
    selector = selectors.DefaultSelector()
    own, begun = time.thread_time(), time.perf_counter()
    try:
        for content in _first(waiting, clients):
            client = _Client(port)
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.send(content)
        while len(responses) < len(requests):
            ready = selector.select(RESPONSE_SECONDS)
            if not ready:
                raise TimeoutError(f"no response within {RESPONSE_SECONDS} s")
            for key, _ in ready:
                seconds = key.data.read()
                if seconds is None:
                    continue
                responses.append(seconds)
                following = next(waiting, None)
                if following is None:
                    selector.unregister(key.data.socket)
                    key.data.socket.close()
                else:
                    key.data.send(following)
        return Load(responses, time.perf_counter() - begun, time.thread_time() - own)
    finally:
        for key in list((selector.get_map() or {}).values()):
            key.data.socket.close()
        selector.close()


def _first(requests: Iterator[bytes], number: int) -> Iterator[bytes]:
    for _ in range(number):
        content = next(requests, None)
        if content is None:
            return
        yield content
