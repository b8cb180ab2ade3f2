"""Clients of the functions, each as a callable that takes a call and returns its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from functions._shared.http import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.project import Project

BodyAs = Literal["object", "string", "blob", "buffer", "form"]
TokenAs = Literal["accessToken", "headers", "session"]


@dataclass(frozen=True)
class Call:
    """A `functions.invoke`, or a select from the jobs' view if `function` is None."""

    url: str
    key: str
    function: str | None
    body: Any = None
    body_as: BodyAs = "object"
    token: str | None = None
    token_as: TokenAs = "accessToken"
    options: Mapping[str, Any] = field(default_factory=dict)  # method, headers, region, timeout: as they are
    abort: bool = False
    functions_at: str | None = None  # where they are when they are not below the project's own address


@dataclass(frozen=True)
class CallResult:
    """`error`: the class of the error. `cause`: the class of its cause. `headers`: those that the caller can read."""

    error: str | None = None
    cause: str | None = None
    data: Any = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


class Client(Protocol):
    def __call__(self, call: Call, /) -> CallResult: ...


def call(
    project: Project,
    token: str | None,
    function: str | None,
    body: Any = None,
    *,
    key: str | None = None,
    body_as: BodyAs = "object",
    token_as: TokenAs = "accessToken",
    abort: bool = False,
    **options: Any,
) -> Call:
    url = project.url.removesuffix(PREFIX)
    return Call(url, key or project.auth.anon_key(), function, body, body_as, token, token_as, options, abort)


def succeeded(response: CallResult, status: int) -> dict[str, Any]:
    """The fields of a success, which every client must have parsed."""
    assert (response.error, response.status) == (None, status), response
    assert isinstance(response.data, dict)
    assert response.headers["x-request-id"]
    return response.data


def error_fields(response: CallResult, status: int, code: str) -> dict[str, Any]:
    """The fields of an error besides `error`, `code` and `requestId`, which every client must be able to read."""
    assert (response.error, response.status, response.data) == ("FunctionsHttpError", status, None), response
    members = dict(response.body)
    sentence, request_id = members.pop("error"), members.pop("requestId")
    assert (members.pop("code"), sentence[-1:]) == (code, ".")
    assert request_id == response.headers["x-request-id"]
    assert ("retry-after" in response.headers) == (status == 503)
    return members
