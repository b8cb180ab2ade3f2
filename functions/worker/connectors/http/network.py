"""Connects to public addresses only, unless private addresses are allowed.

Every user can write a base_url, and the worker can reach the database and the cloud's metadata service. Therefore each
address is checked at the moment it is connected to.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, TypeAlias

import httpcore
import httpx

from functions._connections.addresses import is_public
from functions._connections.errors import SourceRefused
from functions._shared.http_client import NoCookies

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    Resolver: TypeAlias = Callable[[str], Awaitable[list[str]]]

# httpx's own default.
KEEPALIVE_SECONDS: Final = 5.0
# For each address of a host but the last, which has all the time that is left.
ADDRESS_SECONDS: Final = 3.0

_ERRORS: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)


def make_client(*, allow_private_addresses: bool) -> httpx.AsyncClient:
    """A client that ignores the environment's proxies and certificates in any case: a customer's credentials must not
    pass through them, and a proxy would connect to addresses that were not checked. It keeps no cookies, because it
    serves every agency.
    """
    transport = PooledTransport(None if allow_private_addresses else PublicNetwork())
    return httpx.AsyncClient(transport=transport, trust_env=False, cookies=NoCookies())


async def resolve(host: str) -> list[str]:
    """The host's addresses in the order of the system's resolver. Raises OSError."""
    # Bytes, because Python raises another kind of error for text that is not valid IDNA.
    found = await asyncio.get_running_loop().getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class PublicNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public addresses. Raises SourceRefused for all others.

    A name is resolved once, here, and the connection goes to a checked address. Therefore a name that resolves to
    another address a moment later (DNS rebinding) has no effect. TLS still verifies the name. Unix sockets are not
    supported, as in the base class.
    """

    def __init__(self, resolver: Resolver = resolve, network: httpcore.AsyncNetworkBackend | None = None) -> None:
        self._resolve = resolver
        self._network = network or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        *others, last = await self._public_addresses(host)
        for address in others:
            shorter = ADDRESS_SECONDS if timeout is None else min(timeout, ADDRESS_SECONDS)
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._network.connect_tcp(address, port, shorter, local_address, socket_options)
        return await self._network.connect_tcp(last, port, timeout, local_address, socket_options)

    async def _public_addresses(self, host: str) -> list[str]:
        """The host's addresses without repetitions. If one is not public, all are rejected in any order."""
        try:
            addresses = [ip_address(text) for text in await self._resolve(host)]
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        if not all(is_public(address) for address in addresses):
            # The message must not contain the address, because it would describe the worker's network.
            message = "base_url leads to an address that is not public. Set it to one that the internet can reach."
            raise SourceRefused("source_address_not_allowed", message)
        return [str(address) for address in dict.fromkeys(addresses)]


@cache
def _tls() -> ssl.SSLContext:
    """One context for the process, because reading the certificates blocks the event loop for 20 ms."""
    return httpx.create_ssl_context(trust_env=False)


class PooledTransport(httpx.AsyncBaseTransport):
    """httpx's transport, with a network backend, which httpx's own does not accept. None: httpcore's default."""

    def __init__(self, network: httpcore.AsyncNetworkBackend | None, ssl_context: ssl.SSLContext | None = None) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or _tls(),
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=network,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        with _httpx_errors():
            response = await self._pool.handle_async_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors():
            async for part in self._response.aiter_stream():
                yield part

    async def aclose(self) -> None:
        await self._response.aclose()


@contextlib.contextmanager
def _httpx_errors() -> Iterator[None]:
    """Raise httpcore's errors as httpx's errors of the same names."""
    try:
        yield
    except _ERRORS as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error
