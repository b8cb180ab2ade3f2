"""The calls to AWS. The only module that uses the SDK, which it imports at the first call, because that is slow."""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A caller waits, so a call gives up early.
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 2, 5, 3
MAX_MESSAGES = 10  # per call of SQS
RECOVERY_DAYS = 7  # for which a deleted secret can be restored


class AwsError(Exception):
    """A failed call. `code` is the code of AWS, or the class of the SDK's error, whose text may quote a secret."""

    def __init__(self, operation: str, code: str) -> None:
        super().__init__(f"{operation}: {code}")
        self.code = code


@cache
def client(service: str) -> Any:  # noqa: ANN401 (botocore makes its classes at run time)
    """A client with region and credentials from the environment."""
    from botocore.config import Config  # noqa: PLC0415
    from botocore.session import get_session  # noqa: PLC0415

    logging.getLogger("botocore").setLevel(logging.WARNING)  # its debug lines hold whole requests, secrets included
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    )
    return get_session().create_client(service, config=config)


class NotSent(Exception):
    """SQS rejected some of the messages."""


def send(queue_url: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """Sends messages to a queue. Raises NotSent or an error of the SDK."""
    for start in range(0, len(messages), MAX_MESSAGES):
        part = messages[start : start + MAX_MESSAGES]
        entries = [{"Id": str(number), "MessageBody": json.dumps(message)} for number, message in enumerate(part)]
        response = client("sqs").send_message_batch(QueueUrl=queue_url, Entries=entries)
        if failed := response.get("Failed"):
            raise NotSent(", ".join(sorted({entry["Code"] for entry in failed})))


def get_secret(secret_id: str) -> str | None:
    """The text of a secret in Secrets Manager, None for a binary one. Raises AwsError."""
    text: str | None = _secrets_manager("get_secret_value", SecretId=secret_id).get("SecretString")
    return text


def create_secret(name: str, text: str) -> None:
    """Raises AwsError, also if the name is in use."""
    _secrets_manager("create_secret", Name=name, SecretString=text)


def delete_secret(secret_id: str) -> None:
    """Raises AwsError. The secret can be restored for RECOVERY_DAYS."""
    _secrets_manager("delete_secret", SecretId=secret_id, RecoveryWindowInDays=RECOVERY_DAYS)


def _secrets_manager(operation: str, **arguments: object) -> Any:  # noqa: ANN401
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        return getattr(client("secretsmanager"), operation)(**arguments)
    except ClientError as error:
        code = str(error.response["Error"]["Code"])
    except BotoCoreError as error:
        code = type(error).__name__
    raise AwsError(operation, code)
