"""The way of every request, written once: preflight → method → credentials → request model → RPC → CORS.

An endpoint is a declaration. Its rules are in the SQL function that it names; this file holds none.
"""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError

from functions._shared import cors, runtime
from functions._shared.auth import AuthUnavailable, Unauthorized
from functions._shared.errors import Problem, internal_error, unavailable
from functions._shared.http import Request, Response, json_response
from functions._shared.services import Services, services

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from functions._shared.auth import Caller
    from functions._shared.errors import Refusal

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    return text


# Postgres stores every character but this one.
Text = Annotated[str, AfterValidator(_without_nul)]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _calendar_day(value: object) -> object:
    if isinstance(value, str) and _DATE.fullmatch(value):
        return date.fromisoformat(value)
    raise ValueError("should be a date like 2013-01-31")


# Pydantic's own, even its strict one, takes "86400" for the second day of 1970.
Date = Annotated[date, BeforeValidator(_calendar_day)]


@dataclass(frozen=True)
class Endpoint:
    """One function: `module` is its `__name__`, `rpc` the SQL function that decides, `status` that of its success."""

    module: str
    method: str
    rpc: str
    request: type[BaseModel]
    response: type[BaseModel]
    status: int = 200
    # For the documentation: refusals of its own (the rest is everyone's), and an example of request and response.
    refusals: tuple[Refusal, ...] = ()
    example_request: Mapping[str, Any] = field(default_factory=dict)
    example_response: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.module.rpartition(".")[2]

    @property
    def summary(self) -> str:
        return (sys.modules[self.module].__doc__ or "").strip()

    @cached_property
    def path(self) -> str:
        """Sources are snake_case, URLs hyphenated."""
        return "/" + self.name.replace("_", "-")

    @cached_property
    def handler(self) -> Callable[[dict[str, Any], object], dict[str, Any]]:
        """The cloud function's entry."""
        return runtime.cloud_handler(lambda request: self.handle(request, services()))

    def handle(self, request: Request, services: Services) -> Response:
        return answer(request, services, lambda: self._answer(request, services), [self.method])

    def _answer(self, request: Request, services: Services) -> Response:
        if request.method != self.method:
            sentence = f"Use {self.method}."
            raise Problem(405, "method_not_allowed", sentence, headers={"allow": f"{self.method}, OPTIONS"})
        caller = authenticate(request, services)
        arguments = self._arguments(request)
        body = services.rpc.call(self.rpc, arguments, caller, self._headers(request))
        return Response(self.status, body)

    def _headers(self, request: Request) -> dict[str, str]:
        """What the database reads of the request itself: for the audit, and to give the same answer again."""
        headers = {"x-request-id": request.request_id}
        key = request.headers.get("idempotency-key")
        if key is not None and self.method != "GET":
            key = key.strip(" ")  # a proxy would: white space around it is not its own
            if not _IDEMPOTENCY_KEY.fullmatch(key):
                sentence = "An Idempotency-Key has 1 to 255 printable ASCII characters."
                raise Problem(400, "invalid_idempotency_key", sentence)
            headers["idempotency-key"] = key
        return headers

    def _arguments(self, request: Request) -> dict[str, Any]:
        if len(request.body) > MAX_BODY_BYTES:
            raise Problem(413, "body_too_large", f"The body may have at most {MAX_BODY_BYTES} bytes.")
        try:
            if self.method == "GET":
                model = self.request.model_validate_strings(dict(request.query), strict=True)
            else:
                model = self.request.model_validate_json(request.body or b"{}", strict=True)
        except ValidationError as error:
            raise _invalid(error) from None
        return model.model_dump(mode="json", exclude_none=True)


_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")


def authenticate(request: Request, services: Services) -> Caller:
    try:
        return services.authenticator.authenticate(request.headers.get("authorization"))
    except Unauthorized as error:
        raise Problem(401, error.code, error.sentence) from None
    except AuthUnavailable as error:
        raise unavailable("auth_unavailable", "The Auth server") from error


def answer(request: Request, services: Services, make: Callable[[], Response], methods: list[str]) -> Response:
    """An answer in any case, with CORS and the request's id: a preflight's, the endpoint's, or an error's."""
    try:
        response = cors.preflight(methods) if request.method == "OPTIONS" else make()
    except Problem as problem:
        if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            cause = repr(problem.__cause__)  # what the caller is not told
            extra = {"request_id": request.request_id, "path": request.path, "code": problem.code, "cause": cause}
            log.warning("not available", extra=extra)
        response = _spell(problem, request)
    except Exception:
        log.exception("unexpected error", extra={"request_id": request.request_id, "path": request.path})
        response = _spell(internal_error(), request)
    if response.body:
        response.headers.setdefault("content-type", "application/json")
    response.headers["x-request-id"] = request.request_id
    response.headers.setdefault("cache-control", "no-store")
    cors.add_headers(request, response, services.settings.cors_allowed_origins)
    return response


def _spell(problem: Problem, request: Request) -> Response:
    members = {"error": problem.sentence, "code": problem.code, "requestId": request.request_id, **problem.members}
    response = json_response(problem.status, members)
    response.headers.update(problem.headers)
    if problem.status == HTTPStatus.UNAUTHORIZED:  # the door's and the database's alike
        response.headers["www-authenticate"] = "Bearer"
    return response


def _invalid(error: ValidationError) -> Problem:
    """A sentence for the first thing that is wrong; never the value itself, which may be long or secret."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return Problem(400, "invalid_json", "The body is not valid JSON.")
    if not where:
        what = first["msg"].removeprefix("Value error, ")
        sentence = what if first["type"] == "value_error" else "The body must be a JSON object."
        return Problem(400, "invalid_request", sentence)
    if first["type"] == "missing":
        return Problem(400, "missing_field", f"{where} is required.", {"field": where})
    message = first["msg"].removeprefix("Value error, ")
    return Problem(400, "invalid_field", f"{where}: {message[:1].lower()}{message[1:]}.", {"field": where})
