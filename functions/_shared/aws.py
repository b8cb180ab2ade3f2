"""The one module that knows the AWS SDK. It is imported where it is used: its import is a quarter of a cold start."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Somebody waits for the answer: give up early and say so.
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 2, 5, 3
MESSAGES_AT_ONCE = 10  # SQS takes no more


class NotSent(Exception):
    """SQS refused some of the messages."""


def send(queue_url: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """Puts messages on a queue. Raises NotSent, or what the SDK raises."""
    for start in range(0, len(messages), MESSAGES_AT_ONCE):
        part = messages[start : start + MESSAGES_AT_ONCE]
        entries = [{"Id": str(number), "MessageBody": json.dumps(message)} for number, message in enumerate(part)]
        answer = client("sqs").send_message_batch(QueueUrl=queue_url, Entries=entries)
        if failed := answer.get("Failed"):
            raise NotSent(", ".join(sorted({entry["Code"] for entry in failed})))


def settings(secret_id: str) -> dict[str, str]:
    """Further settings: the members of a secret in Secrets Manager, a JSON object of texts."""
    value = json.loads(client("secretsmanager").get_secret_value(SecretId=secret_id)["SecretString"])
    return {str(name): str(text) for name, text in value.items()}


@cache
def client(service: str) -> Any:  # noqa: ANN401 (botocore makes its classes while it runs)
    import botocore.session  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries)
    return botocore.session.get_session().create_client(service, config=config)
