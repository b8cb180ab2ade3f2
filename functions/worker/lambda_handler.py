"""The worker as a Lambda function: SQS messages ask for work, a schedule sends a tick each minute."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from functions._shared.dispatch import QUEUES
from functions._shared.lambda_adapter import start_process
from functions.worker import cloud

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from functions._shared.lambda_adapter import Handler


def worker_handler(work: Callable[[int, float], bool], tick: Callable[[float], None]) -> Handler:
    """`work(count, seconds)` serves `count` messages and returns whether it could. `tick(seconds)` runs every minute.

    `seconds` are left until the process is stopped. Messages that are not ours go back to the queue, and all of them
    if no work could be done.
    """
    start_process()

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


def _is_ours(record: Mapping[str, Any]) -> bool:
    try:
        return json.loads(record["body"])["queue"] in QUEUES
    except (ValueError, KeyError, TypeError):
        return False


handler = worker_handler(cloud.work, cloud.tick)
