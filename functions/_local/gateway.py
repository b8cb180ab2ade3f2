"""One address for all parts of a project, like Supabase's gateway: each path prefix has a WSGI application."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

# Headers of one connection are not forwarded.
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


def gateway(applications: Mapping[str, WSGIApplication]) -> WSGIApplication:
    """`applications` by path prefix. Other paths return 404."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for prefix, inner in applications.items():
            if environ["PATH_INFO"].startswith(prefix):
                return inner(environ, start_response)
        body = json.dumps({"error": "Nothing is served at this path.", "paths": list(applications)}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        start_response("404 Not Found", headers)
        return [body]

    return application


def forward(prefix: str, url: str, client: httpx.Client) -> WSGIApplication:
    """Forwards requests below `prefix` to another server, for example PostgREST."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers = {k[5:].replace("_", "-").lower(): v for k, v in environ.items() if k.startswith("HTTP_")}
        headers |= {"content-type": environ["CONTENT_TYPE"]} if environ.get("CONTENT_TYPE") else {}
        target = f"{url}{environ['PATH_INFO'].removeprefix(prefix)}?{environ.get('QUERY_STRING', '')}"
        length = int(environ.get("CONTENT_LENGTH") or 0)
        try:
            response = client.request(
                environ["REQUEST_METHOD"],
                target,
                headers={name: value for name, value in headers.items() if name not in _HOP_BY_HOP},
                content=environ["wsgi.input"].read(length) if length else None,
            )
        except httpx.TransportError:
            start_response("503 Service Unavailable", [("content-length", "0")])
            return [b""]
        return _respond(response, start_response)

    return application


def _respond(response: httpx.Response, start_response: Callable[..., object]) -> Iterable[bytes]:
    dropped = _HOP_BY_HOP | {"content-encoding"}
    headers = [(name, value) for name, value in response.headers.items() if name not in dropped]
    headers.append(("content-length", str(len(response.content))))
    start_response(f"{response.status_code} {response.reason_phrase}", headers)
    return [response.content]
