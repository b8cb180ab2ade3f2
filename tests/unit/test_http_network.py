"""functions/worker/connectors/http/network.py: private addresses are rejected.

Resolvers are scripted; sockets, TLS and this machine's names are real. Public addresses lead to a server here.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpcore
import httpx
import pytest

from functions._connections.errors import SourceRefused, SourceUnavailable
from functions._local.source import RESOURCES, Source
from functions._local.web_server import WebServer
from functions.worker.connectors import open_source
from functions.worker.connectors.http import Backoff, HttpConnector
from functions.worker.connectors.http.network import ADDRESS_SECONDS, PooledTransport, PublicNetwork, make_client
from tests.support.tls_server import TlsServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PUBLIC, OTHER_PUBLIC = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
NAME = "api.example"

PRIVATE = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1", "224.0.0.1",
    "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::", "fd00:ec2::254", "fe80::1", "fe80::1%1", "ff02::1", "2001:db8::1",
]  # fmt: skip


# A fake internet


class FakeResolver:
    """Returns each list of addresses once, and the last from then on."""

    def __init__(self, *results: list[str]) -> None:
        self._results = deque(results)
        self.hosts: list[str] = []

    async def __call__(self, host: str) -> list[str]:
        self.hosts.append(host)
        return self._results.popleft() if len(self._results) > 1 else self._results[0]


class RedirectedNetwork(httpcore.AnyIOBackend):
    """The real network, with public addresses redirected to a port of this machine. The `dead` do not respond."""

    def __init__(self, port: int, *dead: str) -> None:
        self._port = port
        self._dead = dead
        self.dialled: list[str] = []
        self.timeouts: list[float | None] = []

    async def connect_tcp(self, host: str, port: int, *options: Any, **named: Any) -> httpcore.AsyncNetworkStream:
        self.dialled.append(host)
        self.timeouts.append(options[0])
        if host in self._dead:
            raise httpcore.ConnectTimeout("no response")
        target = ("127.0.0.1", self._port) if host in {PUBLIC, OTHER_PUBLIC} else (host, port)
        return await super().connect_tcp(*target, *options, **named)


@contextmanager
def listening() -> Iterator[tuple[int, Callable[[], bool]]]:
    """A port of this machine that records connections."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    with socket.create_server(("", 0), family=family, dualstack_ipv6=dual) as listener:
        listener.setblocking(False)

        def was_reached() -> bool:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        yield listener.getsockname()[1], was_reached


def connection(base_url: str) -> tuple[dict[str, Any], dict[str, str]]:
    pages = {"type": "page_number", "param": "page", "size_param": None, "size": 1}
    resource = {"path": "/things", "primary_key": ["id"], "records": "data", "pagination": pages}
    config = {"base_url": base_url, "auth": {"type": "none"}, "timeout_seconds": 5, "resources": {"things": resource}}
    return config, {}


async def walk(connector: HttpConnector, resource: str = "things") -> list[str]:
    return [record.key async for page in connector.pages(resource, None) for record in page.records]


def read(base_url: str) -> list[str]:
    """Reads like a worker without access to private addresses."""

    async def run() -> list[str]:
        config, secret = connection(base_url)
        async with open_source({"kind": "http", "config": config, "secret": secret}) as connector:
            return await walk(connector)

    return asyncio.run(run())


class FakeInternet:
    """A resolver and a network that lead to one server, and record the names, the connections and the waits."""

    def __init__(self, server: TlsServer, *results: list[str], dead: tuple[str, ...] = ()) -> None:
        self.server = server
        self.port = server.server_address[1]
        self.resolver = FakeResolver(*results)
        self.network = RedirectedNetwork(self.port, *dead)
        self.waits: list[float] = []

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def read(self, host: str = NAME, **options: Any) -> list[str]:
        async def run() -> list[str]:
            transport = PooledTransport(PublicNetwork(self.resolver, self.network), self.server.trust)
            async with httpx.AsyncClient(transport=transport, **options) as client:
                backoff = Backoff(attempts=2, sleep=self._sleep)
                config, secret = connection(f"https://{host}:{self.port}")
                return await walk(HttpConnector(config, secret, client=client, backoff=backoff))

        return asyncio.run(run())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsServer]:
    with TlsServer(tmp_path, NAME) as running:
        yield running


def check_address_error(error: SourceRefused) -> None:
    """The error contains no address and no cause that does."""
    message = "base_url leads to an address that is not public. Set it to one that the internet can reach."
    assert (error.code, error.message) == ("source_address_not_allowed", message)
    assert error.__cause__ is error.__context__ is None


# Public hosts


def test_public_host__read_over_one_connection(server: TlsServer) -> None:
    internet = FakeInternet(server, [PUBLIC])
    assert internet.read() == ["[1]", "[2]", "[3]"]
    assert server.requests == [f"{NAME}:{internet.port} /things?page={page}" for page in (1, 2, 3, 4)]
    assert server.names == internet.resolver.hosts == [NAME]
    assert internet.network.dialled == [PUBLIC]


@pytest.mark.parametrize("name", [PUBLIC, "other.example"])
def test_tls__certificate_must_match_the_name(tmp_path: Path, name: str) -> None:
    with TlsServer(tmp_path, name) as server:
        internet = FakeInternet(server, [PUBLIC])
        with pytest.raises(SourceUnavailable):
            internet.read()
        assert server.names == [NAME, NAME]
        assert server.requests == []


def test_connect__one_address_dead__next_is_used(server: TlsServer) -> None:
    internet = FakeInternet(server, [OTHER_PUBLIC, OTHER_PUBLIC, PUBLIC], dead=(OTHER_PUBLIC,))
    assert internet.read() == ["[1]", "[2]", "[3]"]
    assert internet.network.dialled == [OTHER_PUBLIC, PUBLIC]
    assert internet.network.timeouts == [ADDRESS_SECONDS, None]


def test_connect__all_addresses_dead__unavailable(server: TlsServer) -> None:
    internet = FakeInternet(server, [OTHER_PUBLIC, PUBLIC], dead=(OTHER_PUBLIC, PUBLIC))
    with pytest.raises(SourceUnavailable):
        internet.read()
    assert internet.network.dialled == [OTHER_PUBLIC, PUBLIC] * 2


@pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'a' * 64}.invalid", f"{'a.' * 200}invalid"])
def test_resolve__no_addresses__unavailable(host: str) -> None:
    async def run() -> None:
        config, secret = connection(f"https://{host}")
        async with HttpConnector(config, secret, backoff=Backoff(attempts=1)) as connector:
            await walk(connector)

    with pytest.raises(SourceUnavailable):
        asyncio.run(run())


# Private hosts


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "LOCALHOST", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
        "0.0.0.0", "0", "127.1", "2130706433", "0x7f000001", "017700000001", "0x7f.1", "127.255.255.254",
    ],
)  # fmt: skip
def test_private_host__any_notation__rejected(host: str) -> None:
    with listening() as (port, was_reached):
        with pytest.raises(SourceRefused) as raised:
            read(f"https://{host}:{port}")
        assert not was_reached()
    check_address_error(raised.value)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_host__one_private_address_among_public__rejected(address: str) -> None:
    for response in ([address], [PUBLIC, address], [address, PUBLIC]):
        network = RedirectedNetwork(9)
        with pytest.raises(SourceRefused) as raised:
            asyncio.run(PublicNetwork(FakeResolver(response), network).connect_tcp(NAME, 443))
        check_address_error(raised.value)
        assert network.dialled == []


def test_private_host__not_retried(server: TlsServer) -> None:
    internet = FakeInternet(server, ["127.0.0.1"])
    with pytest.raises(SourceRefused) as raised:
        internet.read()
    check_address_error(raised.value)
    assert (internet.resolver.hosts, internet.waits, internet.network.dialled) == ([NAME], [], [])


def test_connect__resolved_once(server: TlsServer) -> None:
    """The name leads to this machine when it is resolved again, but it is resolved once."""
    with listening() as (port, was_reached):
        network = RedirectedNetwork(server.server_address[1])

        async def run() -> None:
            stream = await PublicNetwork(FakeResolver([PUBLIC], ["127.0.0.1"]), network).connect_tcp("localhost", port)
            await stream.aclose()

        asyncio.run(run())
        assert not was_reached()
    assert network.dialled == [PUBLIC]


def test_connect__every_new_connection_is_checked(tmp_path: Path) -> None:
    """The name resolves to another address between two pages."""
    with TlsServer(tmp_path, NAME, close_each=True) as server:
        internet = FakeInternet(server, [PUBLIC], [PUBLIC], ["127.0.0.1"])
        with pytest.raises(SourceRefused) as raised:
            internet.read()
        check_address_error(raised.value)
        assert internet.network.dialled == [PUBLIC, PUBLIC]
        assert len(server.requests) == 2


@pytest.mark.parametrize("follow", [False, True])
def test_redirect__not_followed(server: TlsServer, follow: bool) -> None:
    with listening() as (port, was_reached):
        server.location = f"http://127.0.0.1:{port}/latest/meta-data"
        internet = FakeInternet(server, [PUBLIC])
        with pytest.raises(SourceRefused, match="Redirects are not followed"):
            internet.read(follow_redirects=follow)
        assert not was_reached()
    assert internet.network.dialled == [PUBLIC]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_proxy__environment_ignored(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as (port, was_reached):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        with pytest.raises(SourceRefused) as raised:
            read("https://10.0.0.1")
        assert not was_reached()
    check_address_error(raised.value)


def test_unix_socket__not_supported() -> None:
    with pytest.raises(NotImplementedError):
        asyncio.run(PublicNetwork().connect_unix_socket("/var/run/docker.sock"))


# Private addresses allowed


def test_allow_private_addresses__local_source_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with Source() as source, listening() as (port, was_reached):
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        config, secret = source.connection(["airlines"])

        async def run() -> list[str]:
            local = {"kind": "http", "config": config, "secret": secret}
            async with open_source(local, allow_private_addresses=True) as connector:
                return await walk(connector, "airlines")

        assert len(asyncio.run(run())) == RESOURCES["airlines"].count
        assert not was_reached()


# The transport


def errors_of_httpcore() -> list[type[Exception]]:
    found = [error for error in vars(httpcore).values() if isinstance(error, type) and issubclass(error, Exception)]
    return [error for error in found if error is not httpcore.ConnectionNotAvailable]  # handled within its pool


@pytest.mark.parametrize("error", errors_of_httpcore())
def test_transport__httpcore_errors_become_httpx_errors(error: type[Exception]) -> None:
    """Any other error would fail the worker, not the source."""

    class Failing(httpcore.AsyncNetworkBackend):
        async def connect_tcp(self, *_: Any, **__: Any) -> Any:
            raise error("no")

    async def run() -> None:
        async with httpx.AsyncClient(transport=PooledTransport(Failing())) as client:
            await client.get("http://api.example")

    with pytest.raises(httpx.TransportError) as raised:
        asyncio.run(run())
    assert type(raised.value) is getattr(httpx, error.__name__)


def test_client__cookies_are_not_kept() -> None:
    received: list[str | None] = []

    def respond(environ: Any, start_response: Any) -> list[bytes]:
        received.append(environ.get("HTTP_COOKIE"))
        start_response("200 OK", [("set-cookie", "sid=of-one-agency; Path=/"), ("content-length", "0")])
        return [b""]

    async def post_twice(url: str) -> None:
        async with make_client(allow_private_addresses=True) as client:
            for _ in range(2):
                await client.post(url, content=b"{}")

    server = WebServer(respond)
    try:
        asyncio.run(post_twice(server.url))
    finally:
        server.close()
    assert received == [None, None]
