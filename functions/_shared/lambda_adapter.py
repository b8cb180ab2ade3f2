"""AWS Lambda: an endpoint as a Lambda handler. Events have payload format 2.0 (HTTP API and Function URL)."""

from __future__ import annotations

import base64
import gc
import os
from typing import TYPE_CHECKING, Any

from functions._shared import logs
from functions._shared.http import make_request
from functions._shared.services import prepare, services_for_invocation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from functions._shared.endpoint import Endpoint
    from functions._shared.http import Request, Response

    Handler = Callable[[dict[str, Any], Any], dict[str, Any]]

IS_LAMBDA = "AWS_LAMBDA_FUNCTION_NAME" in os.environ

if IS_LAMBDA:
    # Imported objects stay. Collecting them again takes a twentieth of a cold start. `start_process` turns it on again.
    gc.disable()


def lambda_handler(endpoint: Endpoint) -> Handler:
    """The Lambda handler of one endpoint."""
    return adapt(lambda request: endpoint.handle(request, services_for_invocation()), prepare)


def adapt(handle: Callable[[Request], Response], prepare: Callable[[], object]) -> Handler:
    """A Lambda handler. `prepare` runs when the process starts, and raises if the deployment's settings are wrong."""
    start_process(prepare)

    def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
        return _to_event(handle(_from_event(event)))

    return handler


def start_process(prepare: Callable[[], object] = lambda: None) -> None:
    """On Lambda, for the first handler of a process: sets up logging, runs `prepare` and ends the start phase."""
    if IS_LAMBDA and not gc.isenabled():
        logs.to_stderr()
        prepare()
        gc.freeze()
        gc.enable()


def is_snapshot_start() -> bool:
    """Whether this process is started to be stored as a snapshot (SnapStart), which later invocations restore."""
    return os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"


def _from_event(event: Mapping[str, Any]) -> Request:
    body = event.get("body") or ""
    return make_request(
        event["requestContext"]["http"]["method"],
        event["rawPath"],
        event.get("rawQueryString") or "",
        {name.lower(): value for name, value in (event.get("headers") or {}).items()},
        base64.b64decode(body) if event.get("isBase64Encoded") else body.encode(errors="surrogatepass"),
    )


def _to_event(response: Response) -> dict[str, Any]:
    return {"statusCode": response.status, "headers": response.headers, "body": response.body.decode()}
