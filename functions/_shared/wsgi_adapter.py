"""WSGI: endpoints behind any Python web server, here the local one."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from functions._shared.http import make_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from functions._shared.http import Request, Response


def wsgi(handle: Callable[[Request], Response]) -> Callable[..., Iterable[bytes]]:
    """A WSGI application. The server must have read the whole body and bounded its size."""

    def application(environ: Mapping[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        response = handle(_from_environ(environ))
        headers = list(response.headers.items())
        if response.status != HTTPStatus.NO_CONTENT:
            headers.append(("content-length", str(len(response.body))))
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", headers)
        return [response.body] if environ["REQUEST_METHOD"] != "HEAD" else []

    return application


def _from_environ(environ: Mapping[str, Any]) -> Request:
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    if environ.get("CONTENT_TYPE"):
        headers["content-type"] = environ["CONTENT_TYPE"]
    length = int(environ.get("CONTENT_LENGTH") or 0)
    return make_request(
        environ["REQUEST_METHOD"],
        environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"),
        environ.get("QUERY_STRING", ""),
        headers,
        environ["wsgi.input"].read(length) if length else b"",
    )
