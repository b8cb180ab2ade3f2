"""Reads a REST API page by page, as a declarative config says.

    {"base_url": "https://api.example.com/v1",
     "auth": {"type": "bearer"},
     "resources": {"flights": {"path": "/flights",
                               "primary_key": ["time_hour", "carrier", "flight"],
                               "records": "data",
                               "date_filter": {"from": "date_from", "to": "date_to"},
                               "pagination": {"type": "cursor", "param": "cursor", "next": "next_cursor",
                                              "size_param": "limit", "size": 1000}}}}

The secret for it is {"token": "..."}. The models below are the whole of what config and secret may hold.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn, Self, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

Position = dict[str, object]
T = TypeVar("T")

MAX_BODY_BYTES: Final = 32 * 1024 * 1024
MAX_EMPTY_PAGES: Final = 100  # in a row
CREDENTIAL_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class SourceError(Exception):
    """A failed read. `code` is for programs; `message` says what to do, and holds no secret, query or response body."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SourceUnavailable(SourceError):
    """Worth trying again later; `retry_after` is the number of seconds the source asked to wait, if it did."""

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class SourceRefused(SourceError):
    """Not worth trying again until someone changes the config, the secret or the source."""


def _malformed(message: str) -> NoReturn:
    # From None, here and below: the error at hand may quote a body or an URL.
    raise SourceRefused("source_malformed", message) from None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


Name = Annotated[str, StringConstraints(min_length=1)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$")]
PageSize = Annotated[int, Field(ge=1)]


class BearerAuth(_Model):
    type: Literal["bearer"]


class ApiKeyAuth(_Model):
    type: Literal["api_key"]
    place: Literal["header", "query"] = Field(alias="in")
    name: HeaderName


class BasicAuth(_Model):
    type: Literal["basic"]


class NoAuth(_Model):
    type: Literal["none"]


class TokenSecret(_Model):
    token: HeaderValue


class ApiKeySecret(_Model):
    api_key: HeaderValue


class BasicSecret(_Model):
    username: Annotated[str, StringConstraints(pattern=r"^[^:]*$")]  # RFC 7617 ends the user name at the colon
    password: str


class NoSecret(_Model):
    pass


@dataclass(frozen=True)
class Answer:
    """What a pagination style may need of an answer to find the next page."""

    body: object
    count: int  # records in this page
    link: str | None  # path and query of the Link header's rel="next"


def _at(body: object, path: str) -> object:
    """The member at a dotted path; the body itself for the empty path; None when there is none."""
    for name in path.split(".") if path else ():
        body = body.get(name) if isinstance(body, dict) else None
    return body


def _start(position: Position | None, name: str, first: T) -> T:
    """The value the position holds under the name, of the type of `first`; `first` itself at the first page."""
    if position is None:
        return first
    value = position.get(name)
    if type(value) is not type(first):
        # Most likely the pagination style was changed while a run was under way.
        raise SourceRefused(
            "source_position_invalid", "The stored position does not fit the pagination style. Start a new run."
        )
    return value


class _Counted(_Model):
    """A style that counts pages or records.

    A page shorter than `size` is not taken for the last one: servers lower the size without saying so, and some filter
    a page after cutting it, so the rest would be lost unnoticed. Only an empty page ends the walk, which costs one more
    request; a source that states how many records there are saves it with `total`, a dotted path in the body.
    """

    size_param: Name | None
    size: PageSize
    total: Name | None = None

    def _ended(self, answer: Answer, seen: int) -> bool:
        if answer.count == 0 or self.total is None:
            return answer.count == 0
        total = _at(answer.body, self.total)
        if type(total) is not int:
            _malformed(
                f'The answer has no whole number at "{self.total}". Correct total in the pagination, or omit it.'
            )
        return seen >= total

    def _sized(self, params: dict[str, object]) -> dict[str, object]:
        return params if self.size_param is None else {**params, self.size_param: self.size}


class PageNumber(_Counted):
    """Position: {"page": the page's number, "seen": records in the pages before it}."""

    type: Literal["page_number"]
    param: Name
    first: int = 1

    def params(self, position: Position | None) -> dict[str, object]:
        return self._sized({self.param: _start(position, "page", self.first)})

    def following(self, position: Position | None, answer: Answer) -> Position | None:
        seen = _start(position, "seen", 0) + answer.count
        page = _start(position, "page", self.first) + 1
        return None if self._ended(answer, seen) else {"page": page, "seen": seen}


class Offset(_Counted):
    """Position: {"offset": records before the page}."""

    type: Literal["offset"]
    param: Name

    def params(self, position: Position | None) -> dict[str, object]:
        return self._sized({self.param: _start(position, "offset", 0)})

    def following(self, position: Position | None, answer: Answer) -> Position | None:
        # By the records received, not by the size asked for: the server may have sent fewer.
        seen = _start(position, "offset", 0) + answer.count
        return None if self._ended(answer, seen) else {"offset": seen}


class Cursor(_Model):
    """Position: {"cursor": the cursor as received}. `next` is a dotted path; null, "" or no member there is the end."""

    type: Literal["cursor"]
    param: Name
    next: Name
    size_param: Name | None
    size: PageSize

    def params(self, position: Position | None) -> dict[str, object]:
        size: dict[str, object] = {} if self.size_param is None else {self.size_param: self.size}
        return size if position is None else {**size, self.param: _start(position, "cursor", "")}

    def following(self, position: Position | None, answer: Answer) -> Position | None:
        cursor = _at(answer.body, self.next)
        if cursor is None or cursor == "":
            return None
        if type(cursor) not in {str, int}:
            _malformed(
                f'The cursor at "{self.next}" is neither text nor a whole number. Correct next in the pagination.'
            )
        return {"cursor": str(cursor)}


class LinkHeader(_Model):
    """Position: {"link": path and query of the page}."""

    type: Literal["link_header"]
    size_param: Name | None
    size: PageSize

    def params(self, position: Position | None) -> dict[str, object]:
        return {} if position is not None or self.size_param is None else {self.size_param: self.size}

    def following(self, position: Position | None, answer: Answer) -> Position | None:
        return {"link": answer.link} if answer.link else None


class NoPagination(_Model):
    type: Literal["none"]

    def params(self, position: Position | None) -> dict[str, object]:
        return {}

    def following(self, position: Position | None, answer: Answer) -> Position | None:
        return None


class DateFilter(_Model):
    """Names of the parameters for the first and the last date, both inclusive, sent as YYYY-MM-DD."""

    first: Name = Field(alias="from")
    last: Name = Field(alias="to")


class Resource(_Model):
    """One collection. `records` is the dotted path of the list in the body, "" when the body is the list."""

    path: Annotated[str, StringConstraints(pattern=r"^/[^/?#\\\s][^?#\\\s]*$")]
    primary_key: Annotated[list[Name], Field(min_length=1)]
    records: str
    params: dict[str, str | int] = {}
    date_filter: DateFilter | None = None
    window_days: Annotated[int, Field(ge=1)] = 1  # for the caller, who cuts the dates into windows
    pagination: Annotated[PageNumber | Offset | Cursor | LinkHeader | NoPagination, Field(discriminator="type")]


class Config(_Model):
    """`timeout_seconds` bounds a whole request, from connecting to the last byte."""

    base_url: str
    auth: Annotated[BearerAuth | ApiKeyAuth | BasicAuth | NoAuth, Field(discriminator="type")]
    headers: dict[HeaderName, HeaderValue] = {}
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 30
    requests_per_second: Annotated[float, Field(gt=0)] | None = None
    resources: Annotated[dict[Name, Resource], Field(min_length=1)]

    @field_validator("base_url")
    @classmethod
    def _plain_and_private(cls, text: str) -> str:
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            raise ValueError("must be an URL") from None
        if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query or url.fragment:
            raise ValueError("must be https://host/path without credentials, query or fragment")
        if url.scheme == "http" and not _is_loopback(url.host):
            raise ValueError("must begin with https, or the credentials could be read on the way")
        return text.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _no_credentials(cls, headers: dict[str, str]) -> dict[str, str]:
        if CREDENTIAL_HEADERS & {name.lower() for name in headers}:
            raise ValueError("must hold no credentials; they belong in the secret")
        return headers


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


SECRETS: Final[dict[str, type[_Model]]] = {
    "bearer": TokenSecret,
    "api_key": ApiKeySecret,
    "basic": BasicSecret,
    "none": NoSecret,
}


def _config(value: Mapping[str, object]) -> Config:
    try:
        return Config.model_validate(dict(value))
    except ValidationError as error:
        # The whole error would quote the input.
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = f"The config is not valid at {place}: {problem['msg']}. Correct it and start again."
    raise SourceRefused("source_config_invalid", message)


def _secret(auth: str, value: Mapping[str, object]) -> _Model:
    try:
        return SECRETS[auth].model_validate(dict(value))
    except ValidationError:
        # Not even the names are quoted: a secret may have been put where its name belongs.
        members = ", ".join(SECRETS[auth].model_fields) or "nothing"
    message = f"The secret for auth type {auth} must hold {members}, in printable text, and no more. Enter it again."
    raise SourceRefused("source_config_invalid", message)


@dataclass(frozen=True)
class _Credentials:
    headers: dict[str, str]
    query: dict[str, str]

    @classmethod
    def of(cls, config: Config, secret: Mapping[str, object]) -> Self:
        """Raises SourceRefused when the secret does not fit the config's auth."""
        match _secret(config.auth.type, secret), config.auth:
            case TokenSecret(token=token), _:
                return cls({"Authorization": f"Bearer {token}"}, {})
            case ApiKeySecret(api_key=key), ApiKeyAuth(place="header", name=name):
                return cls({name: key}, {})
            case ApiKeySecret(api_key=key), ApiKeyAuth(name=name):
                return cls({}, {name: key})
            case BasicSecret(username=user, password=password), _:
                return cls({"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}, {})
        return cls({}, {})


@dataclass(frozen=True)
class Record:
    """`key` is the JSON list of the primary key's values, in the config's order: the same record, the same text."""

    key: str
    data: dict[str, object]


@dataclass(frozen=True)
class Page:
    """`next` is the position of the following page, ready to be stored as JSON; None after the last page."""

    records: list[Record]
    next: Position | None


@dataclass(frozen=True)
class Backoff:
    """A wait is random below a bound that doubles from `base_seconds` to `max_seconds`, and no less than Retry-After.

    Retry-After counts up to `retry_after_max_seconds`. `sleep` is replaced where waiting would be a waste.
    """

    attempts: int = 5
    base_seconds: float = 0.5
    max_seconds: float = 30.0
    retry_after_max_seconds: float = 120.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def wait(self, state: RetryCallState) -> float:
        jittered = wait_random_exponential(multiplier=self.base_seconds, max=self.max_seconds)(state)
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, SourceUnavailable) else None
        return max(jittered, min(asked or 0.0, self.retry_after_max_seconds))


class _Pace:
    """Spaces requests evenly; None lets them all pass."""

    def __init__(self, per_second: float | None, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._sleep = sleep
        self._free_at = -math.inf

    async def turn(self) -> None:
        if self._interval:
            now = asyncio.get_running_loop().time()
            turn = max(now, self._free_at)
            self._free_at = turn + self._interval
            if turn > now:
                await self._sleep(turn - now)


def _retry_after(text: str | None) -> float | None:
    """Seconds, from either form of Retry-After; None when there is none to be read."""
    try:
        return max(0.0, float(int(text or "")))
    except (ValueError, OverflowError):
        pass
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _check_status(resource: str, response: httpx.Response) -> None:
    status = response.status_code
    answered = f'The source answered {status} for "{resource}".'
    if status in {408, 425, 429} or status >= 500:
        code = "source_rate_limited" if status == 429 else "source_unavailable"
        wait = _retry_after(response.headers.get("Retry-After"))
        raise SourceUnavailable(code, f"{answered} Try again later.", wait)
    if status in {401, 403}:
        raise SourceRefused("source_unauthorized", f"{answered} Check the secret and what it may read.")
    if status in {404, 410}:
        raise SourceRefused("source_not_found", f"{answered} Check base_url and the resource's path.")
    if 300 <= status < 400:
        raise SourceRefused(
            "source_refused", f"{answered} Redirects are not followed: set base_url to the final address."
        )
    if not 200 <= status < 300:
        raise SourceRefused("source_refused", f"{answered} Check the resource's path and parameters.")


def _finite(text: str) -> float:
    # JSON has no infinity, and neither has jsonb; Python would read 1e999 and NaN all the same.
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("not a JSON number")
    return value


def _parsed(resource: str, body: bytes) -> object:
    try:
        parsed: object = json.loads(body, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        _malformed(f'The answer for "{resource}" is not valid JSON. Check the resource\'s path with the source.')
    return parsed


def _record(name: str, primary_key: list[str], data: object) -> Record:
    if not isinstance(data, dict):
        _malformed(f'A record of "{name}" is not a JSON object. Correct records in the config.')
    key = [data.get(field) for field in primary_key]
    for field, value in zip(primary_key, key, strict=True):
        if not isinstance(value, str | int | float):
            _malformed(f'A record of "{name}" has no value for "{field}". Correct primary_key in the config.')
    return Record(json.dumps(key, ensure_ascii=False, separators=(",", ":")), data)


class HttpConnector:
    """Reads the resources of one connection over one pool of connections; an async context manager.

    `client` is used if given, and then not closed; otherwise the connector makes and closes its own. Cancelling a task
    that reads aborts its request at once. Raises SourceRefused when config or secret are not valid.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        secret: Mapping[str, object],
        *,
        client: httpx.AsyncClient | None = None,
        backoff: Backoff | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._config = _config(config)
        self._credentials = _Credentials.of(self._config, secret)
        self.resources = self._config.resources
        self._base = httpx.URL(self._config.base_url)
        self._backoff = backoff or Backoff()
        self._max_body_bytes = max_body_bytes
        self._pace = _Pace(self._config.requests_per_second, self._backoff.sleep)
        self._owned = client is None
        # The environment's proxies and certificates are the worker's own: a customer's credentials stay clear of them.
        self._client = client or httpx.AsyncClient(trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._owned:
            await self._client.aclose()

    async def pages(
        self, resource: str, window: tuple[date, date] | None, position: Position | None = None
    ) -> AsyncIterator[Page]:
        """Yields the resource's pages, from the first or from `position`; at least one, and the last has no `next`.

        `window` is the first and the last date, both inclusive; None reads all. Raises SourceUnavailable once the
        attempts are used up, SourceRefused for what another attempt would not mend, and ValueError for a window on a
        resource without date_filter.
        """
        described = self._resource(resource)
        params = _static_params(described, window)
        walk = _Walk(resource, position)
        while True:
            page = await self._page(resource, described, params, position)
            walk.check(page)
            yield page
            if page.next is None:
                return
            position = page.next

    def _resource(self, name: str) -> Resource:
        if name not in self.resources:
            message = f'The config has no resource "{name}". Add it, or start a run without it.'
            raise SourceRefused("source_config_invalid", message)
        return self.resources[name]

    async def _page(self, name: str, resource: Resource, params: dict[str, object], position: Position | None) -> Page:
        url = self._url(resource, params, position)
        response, content = await self._fetch(name, url)
        body = _parsed(name, content)
        rows = _at(body, resource.records)
        if not isinstance(rows, list):
            _malformed(f'The answer for "{name}" has no list at "{resource.records}". Correct records in the config.')
        link = self._next_link(response) if isinstance(resource.pagination, LinkHeader) else None
        answer = Answer(body, len(rows), link)
        records = [_record(name, resource.primary_key, row) for row in rows]
        return Page(records, resource.pagination.following(position, answer))

    def _url(self, resource: Resource, params: dict[str, object], position: Position | None) -> httpx.URL:
        if isinstance(resource.pagination, LinkHeader) and position is not None:
            return self._same_origin(_start(position, "link", ""), self._base)
        paged = {**params, **resource.pagination.params(position)}
        return httpx.URL(self._config.base_url + resource.path, params={k: str(v) for k, v in paged.items()})

    def _same_origin(self, link: str, page: httpx.URL) -> httpx.URL:
        try:
            url = page.join(link)
        except httpx.InvalidURL:
            _malformed("The next link is not an URL. Choose another pagination style.")
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

    async def _fetch(self, name: str, url: httpx.URL) -> tuple[httpx.Response, bytes]:
        attempts = AsyncRetrying(
            sleep=self._backoff.sleep,
            stop=stop_after_attempt(self._backoff.attempts),
            wait=self._backoff.wait,
            retry=retry_if_exception_type(SourceUnavailable),
            reraise=True,
        )
        return await attempts(self._attempt, name, url)

    async def _attempt(self, name: str, url: httpx.URL) -> tuple[httpx.Response, bytes]:
        await self._pace.turn()
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                return await self._exchange(name, url)
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
            raise SourceRefused("source_refused", "The request could not be formed. Check the config.") from None
        except httpx.DecodingError:
            _malformed(f'The answer for "{name}" could not be decompressed. Check the source.')
        except (httpx.TimeoutException, TimeoutError):
            message = f'The source took too long for "{name}". Try again later, or raise timeout_seconds.'
        except httpx.TransportError:
            message = f'The connection to the source failed for "{name}". Try again later, or check base_url.'
        raise SourceUnavailable("source_unavailable", message)

    async def _exchange(self, name: str, url: httpx.URL) -> tuple[httpx.Response, bytes]:
        response = await self._client.send(self._request(url), stream=True, follow_redirects=False)
        try:
            _check_status(name, response)
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > self._max_body_bytes:
                    message = f'A page of "{name}" is larger than {self._max_body_bytes} bytes. Ask for smaller pages.'
                    raise SourceRefused("source_too_large", message)
            return response, bytes(body)
        finally:
            await response.aclose()

    def _request(self, url: httpx.URL) -> httpx.Request:
        headers = {"Accept": "application/json", **self._config.headers, **self._credentials.headers}
        # A key in the query goes into the request line only, not into the URL, which httpx logs and its errors carry.
        target = url.copy_merge_params(self._credentials.query).raw_path
        extensions = {"target": target} if self._credentials.query else {}
        return self._client.build_request("GET", url, headers=headers, timeout=None, extensions=extensions)


def _static_params(resource: Resource, window: tuple[date, date] | None) -> dict[str, object]:
    if window is None:
        return dict(resource.params)
    if resource.date_filter is None:
        raise ValueError("A resource without date_filter cannot be read by dates.")
    first, last = window
    dates = {resource.date_filter.first: first.isoformat(), resource.date_filter.last: last.isoformat()}
    return {**resource.params, **dates}


class _Walk:
    """Refuses a source whose pages would never end: it comes back to one it sent, or sends empty ones for ever."""

    def __init__(self, name: str, position: Position | None) -> None:
        self._name = name
        self._positions = {json.dumps(position)}
        self._pages: set[int] = set()
        self._empty = 0

    def check(self, page: Page) -> None:
        """Raises SourceRefused."""
        if page.next is None:
            return
        position = json.dumps(page.next)
        content = hash(tuple(record.key for record in page.records))
        self._empty = 0 if page.records else self._empty + 1
        repeated = position in self._positions or (page.records and content in self._pages)
        if repeated or self._empty > MAX_EMPTY_PAGES:
            _malformed(f'The source repeats a page of "{self._name}" without end. Correct pagination in the config.')
        self._positions.add(position)
        self._pages.add(content)
