"""An endpoint is a declaration; `Endpoint.handle` is the path of every request.

preflight → method → credentials → request model → RPC → response, with CORS headers and the request id on every
response, errors included. The rules are in the SQL function that the endpoint names, and none is here.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from functions._shared import cors
from functions._shared.auth import AuthUnavailable, Unauthorized
from functions._shared.caller import Caller, agency_key
from functions._shared.error_format import PLAIN, ErrorFormat
from functions._shared.errors import ApiError, internal_error, unavailable
from functions._shared.http import Response, json_response
from functions._shared.validation import BODILESS_METHODS, read_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import BaseModel

    from functions._shared.errors import ErrorSpec
    from functions._shared.http import Request
    from functions._shared.services import Services

log = logging.getLogger(__name__)

_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")


@dataclass(frozen=True)
class Endpoint:
    """One function of the API. `module` is the declaring module's `__name__`; its last part names the endpoint.

    `request` and `response` are pydantic models; `response` None: an empty response. `status`: that of a success.
    `path`: the published path, with `{field}` for a field of the request. By default the hyphenated name.
    `rpc`: the SQL function that decides. By default it has the endpoint's name.
    `idempotent`: whether Idempotency-Key is accepted. By default for POST, PUT and PATCH.
    `respond`: for an endpoint that needs more than one RPC: makes the response body from arguments and RpcContext.
    `notifies_worker`: whether a success leaves work for a worker.
    `errors`, `example_request`, `example_response`: documentation. `errors` are those of this endpoint alone;
    openapi.py adds the ones that follow from the rest of the declaration.
    """

    module: str
    method: str
    request: type[BaseModel]
    response: type[BaseModel] | None
    status: int = 200
    path: str = ""
    rpc: str = ""
    error_format: ErrorFormat = PLAIN
    idempotent: bool | None = None
    respond: Callable[[dict[str, Any], RpcContext], bytes] | None = None
    notifies_worker: bool = False
    errors: tuple[ErrorSpec, ...] = ()
    example_request: Mapping[str, Any] = field(default_factory=dict)
    example_response: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path or "/" + self.name.replace("_", "-"))
        object.__setattr__(self, "rpc", self.rpc or self.name)

    @property
    def name(self) -> str:
        return self.module.rpartition(".")[2]

    @property
    def summary(self) -> str:
        """The first paragraph of the module's docstring."""
        return (sys.modules[self.module].__doc__ or "").strip().partition("\n\n")[0]

    @property
    def has_body(self) -> bool:
        return self.method not in BODILESS_METHODS

    @property
    def accepts_idempotency_key(self) -> bool:
        return self.has_body if self.idempotent is None else self.idempotent

    @cached_property
    def _path_pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(self.path)))

    def path_parameters(self, path: str) -> dict[str, str] | None:
        """The request's fields in this path. None if the path is not this endpoint's."""
        match = self._path_pattern.fullmatch(path)
        return match.groupdict() if match else None

    def handle(self, request: Request, services: Services, allowed_methods: Sequence[str] = ()) -> Response:
        """The response, whatever happens. `allowed_methods`: all methods of the path, if there are more endpoints."""
        try:
            response = self._call(request, services, allowed_methods or (self.method,))
        except Exception as error:
            response = error_response(error, request, self.error_format)
        return complete(response, request, services, self.error_format)

    def _call(self, request: Request, services: Services, allowed_methods: Sequence[str]) -> Response:
        if request.method == "OPTIONS":
            return cors.preflight(allowed_methods)
        if request.method != self.method:
            raise _method_not_allowed(allowed_methods)
        caller = _authenticate(request, services, self.error_format)
        arguments = read_arguments(self.request, request, self.path_parameters(request.path) or {})
        context = RpcContext(services, caller, self.rpc, self._rpc_headers(request))
        body = self.respond(arguments, context) if self.respond else context.call_main(arguments)
        if self.notifies_worker:
            services.dispatcher.notify("runs")
        return Response(self.status, body if self.response else b"")

    def _rpc_headers(self, request: Request) -> dict[str, str]:
        """The headers that SQL reads: the request id for the audit, the key to repeat a response."""
        headers = {"x-request-id": request.request_id}
        if self.accepts_idempotency_key and "idempotency-key" in request.headers:
            headers["idempotency-key"] = _idempotency_key(request.headers["idempotency-key"])
        return headers


@dataclass(frozen=True)
class RpcContext:
    """Calls the database on the caller's behalf: the endpoint's own SQL function, and others besides."""

    services: Services
    caller: Caller
    rpc: str
    headers: Mapping[str, str]

    @property
    def idempotency_key(self) -> str | None:
        return self.headers.get("idempotency-key")

    def call_main(self, arguments: Mapping[str, Any]) -> bytes:
        """The JSON of the endpoint's own function, unparsed. Only this call carries the Idempotency-Key."""
        return self.services.transport.call(self.rpc, arguments, self.caller, self.headers)

    def call(self, rpc: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 (whatever JSON the function returns)
        """The parsed JSON of another function."""
        headers = {name: value for name, value in self.headers.items() if name != "idempotency-key"}
        return json.loads(self.services.transport.call(rpc, arguments, self.caller, headers))


def error_response(error: Exception, request: Request, error_format: ErrorFormat) -> Response:
    """An ApiError as the caller may see it. Any other exception is logged and becomes a 500."""
    if not isinstance(error, ApiError):
        log.error("unexpected error", exc_info=error, extra={"request_id": request.request_id, "path": request.path})
        error = internal_error()
    elif error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        cause = repr(error.__cause__)  # not shown to the caller
        extra = {"request_id": request.request_id, "path": request.path, "code": error.code, "cause": cause}
        log.warning("not available", extra=extra)
    response = json_response(error.status, error_format.serialize(error, request.request_id))
    response.headers.update(error.headers)
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["www-authenticate"] = "Bearer"
    return response


def complete(response: Response, request: Request, services: Services, error_format: ErrorFormat) -> Response:
    """The response with the headers that every response has."""
    if response.body:
        response.headers.setdefault("content-type", "application/json")
    if header := error_format.version_header:
        response.headers[header] = error_format.version(request.headers.get(header))
    response.headers["x-request-id"] = request.request_id
    response.headers.setdefault("cache-control", "no-store")
    cors.add_headers(request, response, services.settings.cors_allowed_origins)
    return response


def _method_not_allowed(allowed: Sequence[str]) -> ApiError:
    headers = {"allow": ", ".join([*allowed, "OPTIONS"])}
    return ApiError(405, "method_not_allowed", f"Use {' or '.join(allowed)}.", headers=headers)


def _authenticate(request: Request, services: Services, error_format: ErrorFormat) -> Caller:
    authorization = request.headers.get("authorization")
    key = agency_key(authorization) if error_format.api_keys else None
    if key is not None:  # the database finds its agency
        return Caller(token=None, claims={"role": "anon"}, agency_key=key)
    try:
        return services.authenticator.authenticate(authorization)
    except Unauthorized as error:
        raise ApiError(401, error.code, error.message) from None
    except AuthUnavailable as error:
        raise unavailable("auth_unavailable", "The Auth server cannot be reached.") from error


def _idempotency_key(value: str) -> str:
    key = value.strip(" ")  # as proxies do
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        message = "Idempotency-Key must have 1 to 255 printable ASCII characters."
        raise ApiError(400, "invalid_idempotency_key", message)
    return key
