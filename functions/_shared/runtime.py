"""Between the outside and what answers it; the only module that knows what an event or a WSGI environment looks like.

Cloud: AWS payload 2.0, the same from an HTTP API and a Function URL; for the worker, messages of SQS and a schedule's
tick. Elsewhere: WSGI, for any server.
"""

from __future__ import annotations

import base64
import gc
import json
import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from functions._shared import logs
from functions._shared.dispatch import QUEUES
from functions._shared.http import Request, Response, request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Handler = Callable[[dict[str, Any], Any], dict[str, Any]]

PREFIX = "/functions/v1"
IS_CLOUD = "AWS_LAMBDA_FUNCTION_NAME" in os.environ

if IS_CLOUD:
    # Until the handler is made: what is imported stays, and looking through it again is a twentieth of a cold start.
    gc.disable()


def lambda_handler(handle: Callable[[Request], Response], prepare: Callable[[], object] = dict) -> Handler:
    """`prepare` raises where the deployment is set up wrongly: there, when it starts, rather than at a request."""
    _begin(prepare)

    def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
        return _to_event(handle(_from_event(event)))

    return handler


def worker_handler(work: Callable[[int, float], bool], tick: Callable[[float], None]) -> Handler:
    """`work(count, seconds)` serves so many messages and says whether it could, `tick` is called every minute.

    `seconds` are left until the process is stopped. A message that is none of ours, and all when nothing could be done,
    go back to the queue.
    """
    _begin()

    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ANN401
        seconds = context.get_remaining_time_in_millis() / 1000
        if "Records" not in event:
            tick(seconds)
            return {}
        ours = [record for record in event["Records"] if _is_ours(record)]
        done = not ours or work(len(ours), seconds)
        failed = [record for record in event["Records"] if not done or record not in ours]
        return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in failed]}

    return handler


def _begin(prepare: Callable[[], object] = dict) -> None:
    if IS_CLOUD and not gc.isenabled():  # the first handler of the process; other modules' come with their requests
        logs.to_stderr()
        prepare()
        gc.freeze()
        gc.enable()


def is_kept_as_snapshot() -> bool:
    """Whether this process is only begun, to be restored as often as one is needed."""
    return os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"


def _is_ours(record: Mapping[str, Any]) -> bool:
    try:
        return json.loads(record["body"])["queue"] in QUEUES
    except (ValueError, KeyError, TypeError):
        return False


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
