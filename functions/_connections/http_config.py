"""Models of the configuration and the secret of a connection of type `http`. Other fields are rejected.

    {"base_url": "https://api.example.com/v1",
     "auth": {"type": "bearer"},
     "resources": {"flights": {"path": "/flights",
                               "primary_key": ["time_hour", "carrier", "flight"],
                               "records": "data",
                               "date_filter": {"from": "date_from", "to": "date_to"},
                               "pagination": {"type": "cursor", "param": "cursor", "next": "next_cursor",
                                              "size_param": "limit", "size": 1000}}}}

Its secret is {"token": "..."}. A dotted path such as "meta.next" is that of a member in the response body.
"""

from __future__ import annotations

from decimal import Decimal
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Final, Literal

import httpx
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from functions._connections.errors import SourceRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

CREDENTIAL_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})

Name = Annotated[str, StringConstraints(min_length=1)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$")]
PageSize = Annotated[int, Field(ge=1)]
# The worker reads JSON with exact numbers. A strict float takes no Decimal.
Number = Annotated[float, BeforeValidator(lambda value: float(value) if isinstance(value, Decimal) else value)]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class BearerAuth(Model):
    type: Literal["bearer"]


class ApiKeyAuth(Model):
    """`name`: of the header or the query parameter."""

    type: Literal["api_key"]
    place: Literal["header", "query"] = Field(alias="in")
    name: HeaderName


class BasicAuth(Model):
    type: Literal["basic"]


class NoAuth(Model):
    type: Literal["none"]


class TokenSecret(Model):
    """For bearer."""

    token: HeaderValue


class ApiKeySecret(Model):
    """For api_key."""

    api_key: HeaderValue


class BasicSecret(Model):
    """For basic."""

    username: Annotated[str, StringConstraints(pattern=r"^[^:]*$")]  # RFC 7617: a user name ends at the colon
    password: str


class NoSecret(Model):
    """For none: {}."""


class Counted(Model):
    """Pagination that counts pages or records. With `size_param` null the size is not sent.

    Only an empty page is the last one. A short page is not, because some servers lower the size silently or filter a
    page after cutting it. `total`, the dotted path of the total count, saves the request for the empty page.
    """

    size_param: Name | None
    size: PageSize
    total: Name | None = None


class PageNumber(Counted):
    """`first`: the number of the first page."""

    type: Literal["page_number"]
    param: Name
    first: int = 1


class Offset(Counted):
    type: Literal["offset"]
    param: Name


class Cursor(Model):
    """`next`: the dotted path of the next cursor. Null, "" or a missing member means the last page."""

    type: Literal["cursor"]
    param: Name
    next: Name
    size_param: Name | None
    size: PageSize


class LinkHeader(Model):
    """Follows the Link header's rel="next"."""

    type: Literal["link_header"]
    size_param: Name | None
    size: PageSize


class NoPagination(Model):
    type: Literal["none"]


class DateFilter(Model):
    """Names of the parameters for the first and the last date (inclusive), which are sent as YYYY-MM-DD."""

    first: Name = Field(alias="from")
    last: Name = Field(alias="to")


class Resource(Model):
    """One collection. `records`: the dotted path of the list in the body, "" if the body is the list.

    `window_days`: how many dates a sync reads at a time.
    """

    path: Annotated[str, StringConstraints(pattern=r"^/[^/?#\\\s][^?#\\\s]*$")]
    primary_key: Annotated[list[Name], Field(min_length=1)]
    records: str
    params: dict[str, str | int] = {}
    date_filter: DateFilter | None = None
    window_days: Annotated[int, Field(ge=1)] = 1
    pagination: Annotated[PageNumber | Offset | Cursor | LinkHeader | NoPagination, Field(discriminator="type")]


class Config(Model):
    """`timeout_seconds` bounds a whole request, from the connection to the last byte."""

    base_url: str
    auth: Annotated[BearerAuth | ApiKeyAuth | BasicAuth | NoAuth, Field(discriminator="type")]
    headers: dict[HeaderName, HeaderValue] = {}
    timeout_seconds: Annotated[Number, Field(gt=0, le=3600)] = 30
    requests_per_second: Annotated[Number, Field(gt=0)] | None = None
    resources: Annotated[dict[Name, Resource], Field(min_length=1)]

    @field_validator("base_url")
    @classmethod
    def _plain_and_private(cls, text: str, info: ValidationInfo) -> str:
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            raise ValueError("must be a URL") from None
        if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query or url.fragment:
            raise ValueError("must be https://host/path without credentials, query or fragment")
        if url.scheme == "http" and not _is_loopback(url.host):
            raise ValueError("must begin with https, or the credentials could be read on the way")
        if url.scheme == "http" and not (info.context or {}).get("allow_private_addresses"):
            raise ValueError("must begin with https and lead to the internet, not to the machine that reads it")
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


def read_config(value: Mapping[str, object], *, allow_private_addresses: bool = False) -> Config:
    """Raises SourceRefused. The worker's network.py checks addresses, because a name can resolve to any of them."""
    try:
        return Config.model_validate(dict(value), context={"allow_private_addresses": allow_private_addresses})
    except ValidationError as error:
        # Only the first problem, without the input, which may be secret.
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])[:200]
    reason = problem["msg"].removeprefix("Value error, ")
    message = f"The config is not valid at {place}: {reason}. Correct it and start again."
    raise SourceRefused("source_config_invalid", message)
