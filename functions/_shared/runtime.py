"""Between the outside and endpoints; the only module that knows what an event or a WSGI environment looks like.

Cloud: AWS payload 2.0, the same from an HTTP API and a Function URL. Elsewhere: WSGI, for any server.
"""

from __future__ import annotations

import base64
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from functions._shared.http import Request, Response, request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PREFIX = "/functions/v1"


def cloud_handler(handle: Callable[[Request], Response]) -> Callable[[dict[str, Any], object], dict[str, Any]]:
    def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
        return _to_event(handle(_from_event(event)))

    return handler


def _from_event(event: Mapping[str, Any]) -> Request:
    body = event.get("body") or ""
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    return _request(
        event["requestContext"]["http"]["method"],
        event["rawPath"],
        event.get("rawQueryString") or "",
        headers,
        base64.b64decode(body) if event.get("isBase64Encoded") else body.encode(errors="surrogatepass"),
    )


def _to_event(response: Response) -> dict[str, Any]:
    return {"statusCode": response.status, "headers": response.headers, "body": response.body.decode()}


def wsgi(handle: Callable[[Request], Response]) -> Callable[..., Iterable[bytes]]:
    """A WSGI application; the server has read the whole body and bounded it."""

    def application(environ: Mapping[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        response = handle(_from_environ(environ))
        status = f"{response.status} {HTTPStatus(response.status).phrase}"
        headers = list(response.headers.items())
        if response.status != HTTPStatus.NO_CONTENT:
            headers.append(("content-length", str(len(response.body))))
        start_response(status, headers)
        return [response.body] if environ["REQUEST_METHOD"] != "HEAD" else []

    return application


def _from_environ(environ: Mapping[str, Any]) -> Request:
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    if environ.get("CONTENT_TYPE"):
        headers["content-type"] = environ["CONTENT_TYPE"]
    length = int(environ.get("CONTENT_LENGTH") or 0)
    return _request(
        environ["REQUEST_METHOD"],
        environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"),
        environ.get("QUERY_STRING", ""),
        headers,
        environ["wsgi.input"].read(length) if length else b"",
    )


def _request(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Request:
    path = "/" + "/".join(part for part in path.split("/") if part)  # clients join URLs with a slash too many
    return Request(
        method=method,
        path=path.removeprefix(PREFIX),
        query=dict(parse_qsl(query, keep_blank_values=True)),
        headers=headers,
        body=body,
        request_id=request_id(headers),
    )
