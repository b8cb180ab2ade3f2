"""Source checks: a worker reads the first page of a source while a caller waits.

Only workers may read a source, because they alone have its secret and a way to it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from functions._shared.error_catalog import SOURCE_NOT_READABLE, SOURCE_UNAVAILABLE
from functions._shared.errors import ApiError, unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.endpoint import RpcContext

WAIT_SECONDS = 10.0
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.03, 0.5
SOURCE_CHECK_ERRORS = (SOURCE_NOT_READABLE, SOURCE_UNAVAILABLE)


def await_source_check(response: bytes, context: RpcContext) -> str | None:
    """Waits for the check that this RPC response has begun. Returns its id, or None if it began none.

    Raises ApiError if the source cannot be read, or if no worker checked it in time.
    """
    check_id: str | None = json.loads(response).get("check_id")
    if check_id is None:
        return None
    context.services.dispatcher.notify("checks")
    arguments = {"check_id": check_id}
    deadline = time.monotonic() + WAIT_SECONDS
    pause = FIRST_PAUSE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(pause * 1.5, MAX_PAUSE_SECONDS)
        if _is_complete(context.call("get_source_check", arguments)):
            return check_id
    _is_complete(context.call("cancel_source_check", arguments))  # raises, unless it has completed just now
    return check_id


def _is_complete(check: Mapping[str, Any]) -> bool:
    if check["status"] == "failed":
        error = check["error"]
        raise ApiError(400, "source_not_readable", error["message"], {"reason": error["code"]})
    if check["status"] == "cancelled":  # here, or with its connection, which the next attempt will not find
        raise unavailable("source_unavailable", "No worker checked the source in time.")
    return bool(check["status"] == "completed")
