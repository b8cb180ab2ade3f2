"""The way of every request, written once: preflight → method → credentials → request model → RPC → CORS.

An endpoint is a declaration. Its rules are in the SQL function that it names; this file holds none.
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

from pydantic import ValidationError
from pydantic_core import from_json

from functions._shared import cors, runtime
from functions._shared.auth import AuthUnavailable, Caller, Unauthorized, agency_key
from functions._shared.error_format import PLAIN, ErrorFormat
from functions._shared.errors import ApiError, internal_error, unavailable
from functions._shared.http import Request, Response, json_response
from functions._shared.services import Services, services_for_invocation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from functions._shared.errors import ErrorSpec

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Endpoint:
    """One function: `module` is its `__name__`, `rpc` the SQL function that decides, `status` that of its success.

    `path` is the published one, `{member}` in it a member of the request; without it the module's name is the URL.
    """

    module: str
    method: str
    rpc: str
    request: type[BaseModel]
    response: type[BaseModel] | None  # None: the answer is empty
    status: int = 200
    path: str = ""
    error_format: ErrorFormat = PLAIN
    # Whether its answer is remembered for an Idempotency-Key; what is read or deleted needs none, unless it says so.
    idempotent: bool | None = None
    # Of one that takes more than the one call: from the arguments to the body that is answered.
    steps: Callable[[dict[str, Any], Call], bytes] | None = None
    # Whether its success leaves something for a worker to do.
    notifies_worker: bool = False
    # For the documentation: refusals of its own (the rest is everyone's), and an example of request and response.
    errors: tuple[ErrorSpec, ...] = ()
    example_request: Mapping[str, Any] = field(default_factory=dict)
    example_response: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path:  # sources are snake_case, URLs hyphenated
            object.__setattr__(self, "path", "/" + self.name.replace("_", "-"))

    @property
    def name(self) -> str:
        return self.module.rpartition(".")[2]

    @property
    def summary(self) -> str:
        return (sys.modules[self.module].__doc__ or "").strip().partition("\n\n")[0]

    @property
    def accepts_idempotency_key(self) -> bool:
        return self.method not in ("GET", "DELETE") if self.idempotent is None else self.idempotent

    @cached_property
    def handler(self) -> Callable[[dict[str, Any], object], dict[str, Any]]:
        """The cloud function's entry."""
        return runtime.lambda_handler(
            lambda request: self.handle(request, services_for_invocation()), services_for_invocation
        )

    def handle(self, request: Request, services: Services, methods: Sequence[str] = ()) -> Response:
        """`methods` are all that this path knows; without others, the endpoint's own."""
        methods = methods or [self.method]
        return answer(request, services, lambda: self._answer(request, services, methods), methods, self.error_format)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(self.path)))

    def members_of(self, path: str) -> dict[str, str] | None:
        """The members of the request that are in its path; None where the path is another endpoint's."""
        match = self._pattern.fullmatch(path)
        return match.groupdict() if match else None

    def _answer(self, request: Request, services: Services, methods: Sequence[str]) -> Response:
        if request.method != self.method:
            raise method_not_allowed(methods)
        caller = authenticate(request, services, self.error_format)
        arguments = self._arguments(request)
        call = Call(services, caller, self.rpc, self._headers(request))
        body = self.steps(arguments, call) if self.steps else call.own(arguments)
        if self.notifies_worker:
            services.dispatcher.notify("runs")
        return Response(self.status, body if self.response else b"")

    def _headers(self, request: Request) -> dict[str, str]:
        """What the database reads of the request itself: for the audit, and to give the same answer again."""
        headers = {"x-request-id": request.request_id}
        key = request.headers.get("idempotency-key")
        if key is not None and self.accepts_idempotency_key:
            key = key.strip(" ")  # a proxy would: white space around it is not its own
            if not _IDEMPOTENCY_KEY.fullmatch(key):
                sentence = "An Idempotency-Key has 1 to 255 printable ASCII characters."
                raise ApiError(400, "invalid_idempotency_key", sentence)
            headers["idempotency-key"] = key
        return headers

    def _arguments(self, request: Request) -> dict[str, Any]:
        if len(request.body) > MAX_BODY_BYTES:
            raise ApiError(413, "body_too_large", f"The body may have at most {MAX_BODY_BYTES} bytes.")
        in_path = self.members_of(request.path) or {}
        try:
            if self.method in ("GET", "DELETE"):
                model = self.request.model_validate_strings({**request.query, **in_path}, strict=True)
            else:
                model = self.request.model_validate_json(_with_members(request.body or b"{}", in_path), strict=True)
        except ValidationError as error:
            raise _invalid(error, in_path) from None
        return model.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True)
class Call:
    """What is asked of the database on the caller's behalf: the endpoint's own function, and others around it."""

    services: Services
    caller: Caller
    rpc: str
    headers: Mapping[str, str]

    @property
    def idempotency_key(self) -> str | None:
        return self.headers.get("idempotency-key")

    def own(self, arguments: Mapping[str, Any]) -> bytes:
        """The answer as it is; an Idempotency-Key is for this one alone."""
        return self.services.rpc.call(self.rpc, arguments, self.caller, self.headers)

    def __call__(self, rpc: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 (whatever JSON the function answers)
        headers = {name: value for name, value in self.headers.items() if name != "idempotency-key"}
        return json.loads(self.services.rpc.call(rpc, arguments, self.caller, headers))


def _with_members(body: bytes, members: Mapping[str, str]) -> bytes:
    """The body with the path's members in it; what is no object, or no JSON to the model, the model refuses."""
    if not members:
        return body
    try:
        value = from_json(body)
    except ValueError:
        return body
    return json.dumps({**value, **members}).encode() if isinstance(value, dict) else body


def method_not_allowed(methods: Sequence[str]) -> ApiError:
    sentence = f"Use {' or '.join(methods)}."
    return ApiError(405, "method_not_allowed", sentence, headers={"allow": ", ".join([*methods, "OPTIONS"])})


_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")


def authenticate(request: Request, services: Services, error_format: ErrorFormat) -> Caller:
    authorization = request.headers.get("authorization")
    key = agency_key(authorization) if error_format.api_keys else None
    if key is not None:
        return Caller(token=None, claims={"role": "anon"}, agency_key=key)  # which agency's, the database knows
    try:
        return services.authenticator.authenticate(authorization)
    except Unauthorized as error:
        raise ApiError(401, error.code, error.message) from None
    except AuthUnavailable as error:
        raise unavailable("auth_unavailable", "The Auth server") from error


def answer(
    request: Request,
    services: Services,
    make: Callable[[], Response],
    methods: Sequence[str],
    error_format: ErrorFormat = PLAIN,
) -> Response:
    """An answer in any case, with CORS and the request's id: a preflight's, the endpoint's, or an error's."""
    try:
        response = cors.preflight(methods) if request.method == "OPTIONS" else make()
    except ApiError as problem:
        if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            cause = repr(problem.__cause__)  # what the caller is not told
            extra = {"request_id": request.request_id, "path": request.path, "code": problem.code, "cause": cause}
            log.warning("not available", extra=extra)
        response = _error(problem, request, error_format)
    except Exception:
        log.exception("unexpected error", extra={"request_id": request.request_id, "path": request.path})
        response = _error(internal_error(), request, error_format)
    if response.body:
        response.headers.setdefault("content-type", "application/json")
    if error_format.version_header:
        response.headers[error_format.version_header] = error_format.version(
            request.headers.get(error_format.version_header)
        )
    response.headers["x-request-id"] = request.request_id
    response.headers.setdefault("cache-control", "no-store")
    cors.add_headers(request, response, services.settings.cors_allowed_origins)
    return response


def _error(problem: ApiError, request: Request, error_format: ErrorFormat) -> Response:
    response = json_response(problem.status, error_format.serialize(problem, request.request_id))
    response.headers.update(problem.headers)
    if problem.status == HTTPStatus.UNAUTHORIZED:  # the door's and the database's alike
        response.headers["www-authenticate"] = "Bearer"
    return response


def _invalid(error: ValidationError, in_path: Mapping[str, str]) -> ApiError:
    """A sentence for the first thing that is wrong; never the value itself, which may be long or secret."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    if any(each["loc"] and each["loc"][0] in in_path for each in errors):
        return ApiError(404, "not_found", "There is nothing at this path: an id in it is malformed.")
    wrong = [each for each in errors if each["type"] not in _NOT_SUPPORTED]
    if wrong:
        return _invalid_member(wrong[0])
    fields = [_place(each) for each in errors]
    sentence = f"This does not work yet, leave it out: {', '.join(fields)[:1000]}."
    return ApiError(422, "unsupported_field", sentence, {"fields": fields[:100]})


_NOT_SUPPORTED = {"unsupported", "extra_forbidden"}


def _place(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"])[:200]


def _invalid_member(first: ErrorDetails) -> ApiError:
    where = _place(first)
    if first["type"] == "json_invalid":
        return ApiError(400, "invalid_json", "The body is not valid JSON.")
    if not where:
        what = first["msg"].removeprefix("Value error, ")
        sentence = what if first["type"] == "value_error" else "The body must be a JSON object."
        return ApiError(400, "invalid_request", sentence)
    if first["type"] == "missing":
        return ApiError(400, "missing_field", f"{where} is required.", {"field": where})
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, "invalid_field", f"{where}: {message[:1].lower()}{message[1:]}.", {"field": where})
