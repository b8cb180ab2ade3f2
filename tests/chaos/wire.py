"""Requests that no client library would send, as bytes, and their responses within a time limit."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

WAIT_SECONDS: Final = 2.0
STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")

Head = bytes  # host and credentials, the first headers of each request


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=WAIT_SECONDS)


def statuses(url: str, sent: bytes) -> list[int]:
    """The statuses of all responses until the server closes or is silent. The sending side is closed first."""
    response = b""
    with connect(url) as one, contextlib.suppress(OSError):
        one.sendall(sent)
        one.shutdown(socket.SHUT_WR)
        while data := one.recv(1 << 16):
            response += data
    return [int(status) for status in STATUS.findall(response)]


def _smuggled(path: bytes, head: Head) -> bytes:
    """Becomes a request of its own if the server and a proxy disagree on where the first one ends."""
    return b"POST " + path + b"/create-api-key HTTP/1.1\r\n" + head + b'content-length: 20\r\n\r\n{"name": "smuggled"}'


def _both_lengths(path: bytes, head: Head, _: Random) -> bytes:
    inner = _smuggled(path, head)
    length = str(len(inner) + 5).encode()
    return _post(
        path, head + b"content-length: " + length + b"\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n" + inner
    )


def _two_lengths(path: bytes, head: Head, chance: Random) -> bytes:
    inner = _smuggled(path, head)
    lengths = [b"content-length: 2\r\n", b"content-length: %d\r\n" % (2 + len(inner))]
    chance.shuffle(lengths)
    return _post(path, head + b"".join(lengths), b"{}" + inner)


def _odd_coding(path: bytes, head: Head, chance: Random) -> bytes:
    coding = chance.choice(
        (b"xchunked", b"chunked, identity", b"identity", b"\x0bchunked", b"chunked\x00", b"CHUNKED ")
    )
    return _post(
        path, head + b"content-length: 2\r\ntransfer-encoding: " + coding + b"\r\n", b"{}" + _smuggled(path, head)
    )


def _odd_length(path: bytes, head: Head, chance: Random) -> bytes:
    length = chance.choice((b"-1", b"+2", b"0x2", b"2 2", b"2,2", b"", b"2\x00", b"9" * 40, b"1e1", b"\xb2"))
    return _post(path, head + b"content-length: " + length + b"\r\n", b"{}")


def _odd_chunks(path: bytes, head: Head, chance: Random) -> bytes:
    chunks = chance.choice(
        (b"-1\r\n{}\r\n", b"ffffffffffffffff\r\n{}\r\n", b"2;x\n{}\n0\n\n", b"zz\r\n{}", b"2\r\n{}0\r\n\r\n")
    )
    return _post(path, head + b"transfer-encoding: chunked\r\n", chunks)


def _odd_header(path: bytes, head: Head, chance: Random) -> bytes:
    header = chance.choice(
        (
            b"x y: 1\r\n",
            b": 1\r\n",
            b"x : 1\r\n",
            b"x: 1\r\n folded\r\n",
            b"\x00: 1\r\n",
            b"x: \x00\r\n",
            b"no colon\r\n",
        )
    )
    return _post(path, head + header + b"content-length: 2\r\n", b"{}")


def _large_header(path: bytes, head: Head, chance: Random) -> bytes:
    return _post(path, head + b"x: " + b"y" * chance.choice((300_000, 2_000_000)) + b"\r\n", b"")


def _odd_line(path: bytes, head: Head, chance: Random) -> bytes:
    line = chance.choice(
        (
            b"GET",
            b"\x00\x00\x00",
            b"GET  HTTP/1.1",
            b"get " + path + b" HTTP/1.1",
            b"POST " + path + b"/\xff\xfe/%ff%fe/%00 HTTP/1.1",
            b"GET " + path + b"/" + b"a" * 300_000 + b" HTTP/1.1",
            b"CONNECT 127.0.0.1:22 HTTP/1.1",
            b"GET http://169.254.169.254/latest/meta-data HTTP/1.1",
            b"PRI * HTTP/2.0",
            b"GET " + path + b"/../../../../etc/passwd HTTP/1.1",
            b"TRACE " + path + b"/list-api-keys HTTP/1.1",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        )
    )
    return line + b"\r\n" + head + b"\r\n"


def _post(path: bytes, head: bytes, body: bytes) -> bytes:
    return b"POST " + path + b"/cancel-historical-sync HTTP/1.1\r\n" + head + b"\r\n" + body


BAD: Final[Mapping[str, Callable[[bytes, Head, Random], bytes]]] = {
    "both lengths": _both_lengths,
    "two lengths": _two_lengths,
    "odd coding": _odd_coding,
    "odd length": _odd_length,
    "odd chunks": _odd_chunks,
    "odd header": _odd_header,
    "large header": _large_header,
    "odd line": _odd_line,
}
