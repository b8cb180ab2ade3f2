"""The calls to AWS; the only module that knows its SDK, which is imported by the first of them."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from functions._shared.secret_store import SecretMissing, SecretUnavailable, parsed

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 2, 5, 3
RECOVERY_DAYS = 7  # so long a secret that was forgotten by mistake can be brought back

_MISSING = {"ResourceNotFoundException", "InvalidRequestException"}  # the second: it is marked to be deleted


def client(service: str) -> Any:  # noqa: ANN401 (its methods are made at run time)
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


class SecretsManager:
    """A SecretStore. Its names are `prefix/name`; rotation replaces a value under its name."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def put(self, name: str, value: Mapping[str, object]) -> None:
        self._call("create_secret", Name=self._named(name), SecretString=json.dumps(value))

    def get(self, name: str) -> dict[str, Any]:
        return parsed(self._call("get_secret_value", SecretId=self._named(name)).get("SecretString"))

    def forget(self, name: str) -> None:
        with suppress(SecretMissing):
            self._call("delete_secret", SecretId=self._named(name), RecoveryWindowInDays=RECOVERY_DAYS)

    def _named(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401
        return client("secretsmanager")

    def _call(self, operation: str, **arguments: object) -> Any:  # noqa: ANN401
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            return getattr(self._client, operation)(**arguments)
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
        except BotoCoreError as error:
            code = type(error).__name__  # its text may quote what was sent
        if code in _MISSING and operation != "create_secret":
            raise SecretMissing
        raise SecretUnavailable(f"{operation}: {code}")
