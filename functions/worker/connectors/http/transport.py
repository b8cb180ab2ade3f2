"""One request: with credentials, bounded in time and size, repeated where that may help."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from functions._connections.errors import SourceRefused, SourceUnavailable, malformed
from functions.worker.connectors.http.backoff import Backoff, RateLimiter, retry_after

if TYPE_CHECKING:
    from functions._connections.http_config import Config
    from functions._connections.http_credentials import Credentials

MAX_BODY_BYTES: Final = 32 * 1024 * 1024
UNAUTHORIZED: Final = "source_unauthorized"


class Transport:
    def __init__(
        self,
        config: Config,
        credentials: Credentials,
        client: httpx.AsyncClient,
        backoff: Backoff,
        max_body_bytes: int,
    ) -> None:
        self._config = config
        self._credentials = credentials
        self._backoff = backoff
        self._max_body_bytes = max_body_bytes
        self._rate_limiter = RateLimiter(config.requests_per_second, backoff.sleep)
        self._client = client

    async def get(self, name: str, url: httpx.URL) -> tuple[httpx.Response, bytes]:
        """Return the response and its body. `name` is the resource's, for messages.

        Raises SourceUnavailable after the last attempt, SourceRefused for what another attempt would not change.
        """
        attempts = AsyncRetrying(
            sleep=self._backoff.sleep,
            stop=stop_after_attempt(self._backoff.attempts),
            wait=self._backoff.wait,
            retry=retry_if_exception_type(SourceUnavailable),
            reraise=True,
        )
        return await attempts(self._attempt, name, url)

    async def _attempt(self, name: str, url: httpx.URL) -> tuple[httpx.Response, bytes]:
        await self._rate_limiter.wait()
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                return await self._request_once(name, url)
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
            raise SourceRefused("source_refused", "The request could not be formed. Check the config.") from None
        except httpx.DecodingError:
            malformed(f'The response for "{name}" could not be decompressed. Check the source.')
        except (httpx.TimeoutException, TimeoutError):
            message = f'The source took too long for "{name}". Try again later, or raise timeout_seconds.'
        except httpx.TransportError:
            message = f'The connection to the source failed for "{name}". Try again later, or check base_url.'
        raise SourceUnavailable("source_unavailable", message)

    async def _request_once(self, name: str, url: httpx.URL) -> tuple[httpx.Response, bytes]:
        response = await self._client.send(self._request(url), stream=True, follow_redirects=False)
        try:
            _check_status(name, response)
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > self._max_body_bytes:
                    message = f'A page of "{name}" is larger than {self._max_body_bytes} bytes. Use smaller pages.'
                    raise SourceRefused("source_too_large", message)
            return response, bytes(body)
        finally:
            await response.aclose()

    def _request(self, url: httpx.URL) -> httpx.Request:
        headers = {"Accept": "application/json", **self._config.headers, **self._credentials.headers}
        # An API key in the query goes into the request line only, not into the URL, because httpx logs the URL.
        target = url.copy_merge_params(self._credentials.query).raw_path
        extensions = {"target": target} if self._credentials.query else {}
        return self._client.build_request("GET", url, headers=headers, timeout=None, extensions=extensions)


def _check_status(resource: str, response: httpx.Response) -> None:
    status = response.status_code
    problem = f'The source returned {status} for "{resource}".'
    if status in {408, 425, 429} or status >= 500:
        code = "source_rate_limited" if status == 429 else "source_unavailable"
        wait = retry_after(response.headers.get("Retry-After"))
        raise SourceUnavailable(code, f"{problem} Try again later.", wait)
    if status in {401, 403}:
        raise SourceRefused(UNAUTHORIZED, f"{problem} Check the secret and what it may read.")
    if status in {404, 410}:
        raise SourceRefused("source_not_found", f"{problem} Check base_url and the resource's path.")
    if 300 <= status < 400:
        raise SourceRefused(
            "source_refused", f"{problem} Redirects are not followed: set base_url to the final address."
        )
    if not 200 <= status < 300:
        raise SourceRefused("source_refused", f"{problem} Check the resource's path and parameters.")
