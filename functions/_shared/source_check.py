"""A look at a source, which the worker has for a caller who waits: secrets and egress are the worker's alone."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from functions._shared.errors import ApiError, ErrorSpec, unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.endpoint import Call

WAIT_SECONDS = 10.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.03, 0.5

REFUSALS = (
    ErrorSpec(
        400,
        "source_not_readable",
        "The source cannot be read; `reason` is a stable code.",
        {"reason": "source_refused"},
    ),
    ErrorSpec(
        503, "source_unavailable", "No worker has looked at the source in time; `Retry-After` says when to try again."
    ),
)


def completed(response: bytes, call: Call) -> str | None:
    """The id of the look that this answer has begun, once it is complete; None where the answer began none.

    Raises Problem: the source's own refusal, or that nobody looked in time.
    """
    check_id: str | None = json.loads(response).get("check_id")
    if check_id is None:
        return None
    call.services.dispatcher.notify("checks")
    asked = {"check_id": check_id}
    end = time.monotonic() + WAIT_SECONDS
    pause = FIRST_PAUSE_SECONDS
    while time.monotonic() < end:
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        if _is_complete(call("get_source_check", asked)):
            return check_id
    _is_complete(call("cancel_source_check", asked))  # or it ended just now, and that counts
    return check_id


def _is_complete(seen: Mapping[str, Any]) -> bool:
    if seen["status"] == "failed":
        error = seen["error"]
        raise ApiError(400, "source_not_readable", error["message"], {"reason": error["code"]})
    if seen["status"] == "cancelled":  # or its connection was deleted meanwhile, as the next try will hear
        raise unavailable("source_unavailable", "The source, through a worker,")
    return bool(seen["status"] == "completed")


def check_config(kind: str, configuration: Mapping[str, Any]) -> None:
    """Says what is wrong with a configuration before it is stored. Raises Problem."""
    if kind != "http":
        return
    # The worker's own models; only who creates a connection pays for their import.
    from functions._connections.errors import SourceRefused  # noqa: PLC0415
    from functions._connections.http_config import read_config  # noqa: PLC0415
    from functions._connections.http_credentials import Credentials  # noqa: PLC0415

    config = {name: value for name, value in configuration.items() if name != "secret"}
    secret = configuration.get("secret") or {}
    if not isinstance(secret, dict):
        raise ApiError(400, "invalid_configuration", "configuration.secret is an object.")
    try:
        # Where it may lead is for the worker to say, which is told so and looks at the address itself.
        Credentials.of(read_config(config, allow_private_addresses=True), secret)
    except SourceRefused as error:
        raise ApiError(400, "invalid_configuration", error.message) from None
