"""From a resource to its pages."""

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
    Answer,
    PaginationGuard,
    at,
    following,
    held,
    page_params,
    param_names,
)
from functions.worker.connectors.http.params import make_url, segment, written
from functions.worker.connectors.http.records import parse, record
from functions.worker.connectors.http.transport import MAX_BODY_BYTES, UNAUTHORIZED, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from datetime import date

    from functions._connections.http_config import Resource
    from functions.worker.connectors.http.page import Position
    from functions.worker.connectors.http.params import Params


class HttpConnector:
    """Reads the resources of one connection over one pool of connections; an async context manager.

    `client` is used if given, and then not closed; otherwise the connector makes and closes its own, which reaches
    public addresses only unless `allow_private_addresses`. `is_rotated` tells whether the secret has been replaced by
    now: then its refusal is a SecretRotated. Cancelling a task that reads aborts its request at once.
    Raises SourceRefused when config or secret are not valid.
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
        """Yields the resource's pages, from the first or from `position`; at least one, and the last has no `next`.

        `window` is the first and the last date, both inclusive; None reads all. `params` are further query parameters:
        texts, numbers, booleans, lists of them for one that is sent repeatedly, None for one that is not. Raises
        SourceUnavailable once the attempts are used up, SourceRefused for what another attempt would not mend, as a
        parameter that is the config's, and ValueError for a window on a resource without date_filter.
        """
        get_resource = self._resource(resource)
        asked = self._params(get_resource, window, params)
        walk = PaginationGuard(resource, position)
        while True:
            page = await self._page(resource, get_resource, asked, position)
            walk.check(page)
            yield page
            if page.next is None:
                return
            position = page.next

    async def one(self, resource: str, key: object, params: Params | None = None) -> Page:
        """A page of one record, which the source keeps at the resource's path, a slash and the key, text or number.

        Where `records` leads to an object in the answer, as in {"data": {...}}, that is the record; else the answer
        itself is. Raises as `pages` does, for a record that there is not SourceRefused with "source_not_found".
        """
        get_resource = self._resource(resource)
        path = f"{self._config.base_url}{get_resource.path.rstrip('/')}/{segment(resource, key)}"
        _, content = await self._get(resource, make_url(path, self._params(get_resource, None, params)))
        body = parse(resource, content)
        held_there = at(body, get_resource.records)
        data = held_there if isinstance(held_there, dict) else body
        return Page([record(resource, get_resource.primary_key, data)], None, len(content))

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
        """The config's own, then the caller's, which take the place of none that the connector sends."""
        own = _static_params(resource, window)
        taken = {name.lower() for name in (*own, *param_names(resource.pagination), *self._credentials.query)}
        further = written(params)
        if overridden := next((name for name in further if name.lower() in taken), None):
            message = f'The parameter "{overridden}" is the connection\'s own. Ask without it.'
            raise SourceRefused("source_params_invalid", message)
        return {**own, **further}

    async def _page(
        self, name: str, resource: Resource, params: Mapping[str, str | list[str]], position: Position | None
    ) -> Page:
        url = self._url(resource, params, position)
        response, content = await self._get(name, url)
        body = parse(name, content)
        rows = at(body, resource.records)
        if not isinstance(rows, list):
            malformed(f'The answer for "{name}" has no list at "{resource.records}". Correct records in the config.')
        link = self._next_link(response) if isinstance(resource.pagination, LinkHeader) else None
        answer = Answer(body, len(rows), link)
        records = [record(name, resource.primary_key, row) for row in rows]
        return Page(records, following(resource.pagination, position, answer), len(content))

    def _url(self, resource: Resource, params: Mapping[str, str | list[str]], position: Position | None) -> httpx.URL:
        if isinstance(resource.pagination, LinkHeader) and position is not None:
            return self._same_origin(held(position, "link", ""), self._base)
        paging = {name: str(value) for name, value in page_params(resource.pagination, position).items()}
        return make_url(self._config.base_url + resource.path, {**params, **paging})

    def _same_origin(self, link: str, page: httpx.URL) -> httpx.URL:
        try:
            url = page.join(link)
        except httpx.InvalidURL:
            malformed("The next link is not an URL. Choose another pagination style.")
        if (url.scheme, url.host, url.port) != (self._base.scheme, self._base.host, self._base.port):
            message = "The next link leads to another host, where the credentials must not go. Check the source."
            raise SourceRefused("source_refused", message)
        return url

    def _next_link(self, response: httpx.Response) -> str | None:
        link = response.links.get("next", {}).get("url")
        if not link:
            return None
        url = self._same_origin(link, response.url)
        for name in self._credentials.query:  # a source may repeat the key in its link, and positions are stored
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
