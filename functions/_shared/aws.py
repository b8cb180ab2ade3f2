"""The calls to AWS; the only module that knows its SDK, which is imported by the first of them: it takes its time."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from functions._shared.secret_store import SecretMissing, SecretUnavailable, parsed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Somebody waits for the answer: give up early and say so.
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 2, 5, 3
MAX_MESSAGES = 10  # SQS takes no more
RECOVERY_DAYS = 7  # so long a secret that was forgotten by mistake can be brought back

_MISSING = {"ResourceNotFoundException", "InvalidRequestException"}  # the second: it is marked to be deleted


@cache
def client(service: str) -> Any:  # noqa: ANN401 (botocore makes its classes while it runs)
    """Region and credentials are the environment's. A call takes its attempts and the pauses between."""
    from botocore.config import Config  # noqa: PLC0415
    from botocore.session import get_session  # noqa: PLC0415

    logging.getLogger("botocore").setLevel(logging.WARNING)  # some of its lines hold whole requests, secrets too
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    )
    return get_session().create_client(service, config=config)


class NotSent(Exception):
    """SQS refused some of the messages."""


def send(queue_url: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """Puts messages on a queue. Raises NotSent, or what the SDK raises."""
    for start in range(0, len(messages), MAX_MESSAGES):
        part = messages[start : start + MAX_MESSAGES]
        entries = [{"Id": str(number), "MessageBody": json.dumps(message)} for number, message in enumerate(part)]
        answer = client("sqs").send_message_batch(QueueUrl=queue_url, Entries=entries)
        if failed := answer.get("Failed"):
            raise NotSent(", ".join(sorted({entry["Code"] for entry in failed})))


def settings(secret_id: str) -> dict[str, str]:
    """Further settings: the members of a secret, a JSON object of texts. Raises SecretMissing or SecretUnavailable."""
    value = _secrets_manager("get_secret_value", SecretId=secret_id).get("SecretString")
    return {name: str(text) for name, text in parsed(value).items()}


class SecretsManager:
    """A SecretStore. Its names are `prefix/name`; rotation replaces a value under its name."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def put(self, name: str, value: Mapping[str, object]) -> None:
        _secrets_manager("create_secret", Name=self._named(name), SecretString=json.dumps(value))

    def get(self, name: str) -> dict[str, Any]:
        return parsed(_secrets_manager("get_secret_value", SecretId=self._named(name)).get("SecretString"))

    def forget(self, name: str) -> None:
        with suppress(SecretMissing):
            _secrets_manager("delete_secret", SecretId=self._named(name), RecoveryWindowInDays=RECOVERY_DAYS)

    def _named(self, name: str) -> str:
        return f"{self._prefix}/{name}"


def _secrets_manager(operation: str, **arguments: object) -> Any:  # noqa: ANN401
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        return getattr(client("secretsmanager"), operation)(**arguments)
    except ClientError as error:
        code = str(error.response["Error"]["Code"])
    except BotoCoreError as error:
        code = type(error).__name__  # its text may quote what was sent
    if code in _MISSING and operation != "create_secret":
        raise SecretMissing
    raise SecretUnavailable(f"{operation}: {code}")
