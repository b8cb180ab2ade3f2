"""Services without a server, for tests of an endpoint alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel

from functions._shared.caller import Caller
from functions._shared.endpoint import Endpoint
from functions._shared.fields import PgText
from functions._shared.http import Request, Response
from functions._shared.services import Services
from functions._shared.settings import Settings
from functions._shared.transports import NO_HEADERS

if TYPE_CHECKING:
    from collections.abc import Mapping

CALLER = Caller("the.users.token", {"sub": "u"})


@dataclass
class Stub:
    """Authenticates everyone as `caller` and returns `response` for every call; either may be an exception to raise.

    `steps` records the calls.
    """

    caller: Caller | Exception = CALLER
    response: bytes | Exception = b'{"ok": true}'
    origins: tuple[str, ...] = ("*",)
    steps: list[Any] = field(default_factory=list)

    def authenticate(self, authorization: str | None) -> Caller:
        self.steps.append(("authenticate", authorization))
        if isinstance(self.caller, Exception):
            raise self.caller
        return self.caller

    def call(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, headers: Mapping[str, str] = NO_HEADERS
    ) -> bytes:
        self.steps.append(("call", name, dict(arguments), caller, dict(headers)))
        if isinstance(self.response, Exception):
            raise self.response
        return self.response

    def close(self) -> None:
        pass

    @property
    def services(self) -> Services:
        settings = Settings("http://p", "k", cors_allowed_origins=self.origins)
        return Services(settings, cast("Any", self), self)

    def send(self, method: str = "POST", body: bytes = b'{"name": "x"}', **parts: Any) -> Response:
        endpoint = GET if method == "GET" else POST
        return endpoint.handle(Request(method, endpoint.path, body=body, **parts), self.services)


class Body(BaseModel):
    name: PgText
    count: int = 1
    note: str | None = None


class Done(BaseModel):
    ok: Literal[True]


POST = Endpoint("functions.family.do_something", "POST", rpc="do_it", request=Body, response=Done, status=202)
GET = Endpoint("functions.family.get_something", "GET", rpc="get_it", request=Body, response=Done)
