"""Reads the pages and records of a connection's resources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import httpx

from functions._connections.errors import SecretRotated, SourceRefused, malformed
from functions._connections.http_config import LinkHeader, read_config
from functions._connections.http_credentials import Credentials
from functions.worker.connectors.http.backoff import Backoff
from functions.worker.connectors.http.network import make_client
from functions.worker.connectors.http.page import Page
from functions.worker.connectors.http.pagination import (
    PageResponse,
    PaginationGuard,
    get_path,
    next_position,
    page_params,
    param_names,
    position_value,
)
from functions.worker.connectors.http.params import encode_params, make_url, path_segment
from functions.worker.connectors.http.records import make_record, parse
from functions.worker.connectors.http.transport import MAX_BODY_BYTES, UNAUTHORIZED, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from datetime import date

    from functions._connections.http_config import Resource
    from functions.worker.connectors.http.page import Position
    from functions.worker.connectors.http.params import Params


class HttpConnector:
    """Reads the resources of one connection over one pool of connections; an async context manager.

    A given `client` is not closed. Without one the connector makes and closes its own, which connects to public
    addresses only unless `allow_private_addresses`. `is_rotated` returns whether the secret has been replaced: then
    SecretRotated is raised where the source rejects it. Cancelling a task that reads aborts its request at once.
    Raises SourceRefused if config or secret are invalid.
    """

    def __init__(  # noqa: PLR0913 (all but two by name)
        self,
        config: Mapping[str, object],
        secret: Mapping[str, object],
        *,
        allow_private_addresses: bool = False,
        client: httpx.AsyncClient | None = None,
        backoff: Backoff | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        is_rotated: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._config = read_config(config, allow_private_addresses=allow_private_addresses)
        self._credentials = Credentials.of(self._config, secret)
        self.resources = self._config.resources
        self._base = httpx.URL(self._config.base_url)
        self._owns_client = client is None
        self._client = client or make_client(allow_private_addresses=allow_private_addresses)
        self._transport = Transport(self._config, self._credentials, self._client, backoff or Backoff(), max_body_bytes)
        self._is_rotated = is_rotated

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._owns_client:
            await self._client.aclose()

    async def pages(
        self,
        resource: str,
        window: tuple[date, date] | None,
        position: Position | None = None,
        params: Params | None = None,
    ) -> AsyncGenerator[Page, None]:
        """Yield the resource's pages from `position` on, or from the first. At least one; the last has no `next`.

        `window` is the first and the last date, both inclusive; None reads all. `params` are added query parameters:
        text, numbers, booleans, a list to send one repeatedly, None to leave it out. Raises SourceUnavailable after
        the last attempt, SourceRefused for what another attempt would not change, such as a parameter that the
        connector itself sends, and ValueError for a window on a resource without date_filter.
        """
        declared = self._resource(resource)
        query = self._params(declared, window, params)
        guard = PaginationGuard(resource, position)
        while True:
            page = await self._page(resource, declared, query, position)
            guard.check(page)
            yield page
            if page.next is None:
                return
            position = page.next

    async def get_record(self, resource: str, key: object, params: Params | None = None) -> Page:
        """Return a page of one record, which the source has at the resource's path plus a slash and the key.

        If the resource's `records` leads to an object in the response, as in {"data": {...}}, that object is the
        record; else the whole response is. Raises as `pages` does; "source_not_found" if there is no such record.
        """
        declared = self._resource(resource)
        path = f"{self._config.base_url}{declared.path.rstrip('/')}/{path_segment(resource, key)}"
        _, content = await self._get(resource, make_url(path, self._params(declared, None, params)))
        body = parse(resource, content)
        nested = get_path(body, declared.records)
        data = nested if isinstance(nested, dict) else body
        return Page([make_record(resource, declared.primary_key, data)], None, len(content))

    async def _get(self, name: str, url: httpx.URL) -> tuple[httpx.Response, bytes]:
        try:
            return await self._transport.get(name, url)
        except SourceRefused as error:
            if error.code == UNAUTHORIZED and self._is_rotated and await self._is_rotated():
                raise SecretRotated from None
            raise

    def _resource(self, name: str) -> Resource:
        if name not in self.resources:
            message = f'The config has no resource "{name}". Add it, or start a run without it.'
            raise SourceRefused("source_config_invalid", message)
        return self.resources[name]

    def _params(
        self, resource: Resource, window: tuple[date, date] | None, params: Params | None
    ) -> dict[str, str | list[str]]:
        """The config's parameters and the caller's, which must not replace any that the connector sends."""
        own = _static_params(resource, window)
        taken = {name.lower() for name in (*own, *param_names(resource.pagination), *self._credentials.query)}
        added = encode_params(params)
        if overridden := next((name for name in added if name.lower() in taken), None):
            message = f'The parameter "{overridden}" is the connection\'s own. Remove it.'
            raise SourceRefused("source_params_invalid", message)
        return {**own, **added}

    async def _page(
        self, name: str, resource: Resource, params: Mapping[str, str | list[str]], position: Position | None
    ) -> Page:
        url = self._url(resource, params, position)
        response, content = await self._get(name, url)
        body = parse(name, content)
        rows = get_path(body, resource.records)
        if not isinstance(rows, list):
            malformed(f'The response for "{name}" has no list at "{resource.records}". Correct records in the config.')
        link = self._next_link(response) if isinstance(resource.pagination, LinkHeader) else None
        page_response = PageResponse(body, len(rows), link)
        records = [make_record(name, resource.primary_key, row) for row in rows]
        return Page(records, next_position(resource.pagination, position, page_response), len(content))

    def _url(self, resource: Resource, params: Mapping[str, str | list[str]], position: Position | None) -> httpx.URL:
        if isinstance(resource.pagination, LinkHeader) and position is not None:
            return self._same_origin(position_value(position, "link", ""), self._base)
        paging = {name: str(value) for name, value in page_params(resource.pagination, position).items()}
        return make_url(self._config.base_url + resource.path, {**params, **paging})

    def _same_origin(self, link: str, page: httpx.URL) -> httpx.URL:
        try:
            url = page.join(link)
        except httpx.InvalidURL:
            malformed("The next link is not a URL. Choose another pagination style.")
        if (url.scheme, url.host, url.port) != (self._base.scheme, self._base.host, self._base.port):
            message = "The next link leads to another host, where the credentials must not go. Check the source."
            raise SourceRefused("source_refused", message)
        return url

    def _next_link(self, response: httpx.Response) -> str | None:
        link = response.links.get("next", {}).get("url")
        if not link:
            return None
        url = self._same_origin(link, response.url)
        for name in self._credentials.query:  # the link may contain the API key, and positions are stored
            url = url.copy_remove_param(name)
        return url.raw_path.decode("ascii")


def _static_params(resource: Resource, window: tuple[date, date] | None) -> dict[str, str]:
    params = {name: str(value) for name, value in resource.params.items()}
    if window is None:
        return params
    if resource.date_filter is None:
        raise ValueError("A resource without date_filter cannot be read by dates.")
    first, last = window
    return {**params, resource.date_filter.first: first.isoformat(), resource.date_filter.last: last.isoformat()}
