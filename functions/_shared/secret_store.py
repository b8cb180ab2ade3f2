"""Stores for connections' secrets outside the database, which then holds only a secret's name.

With SECRET_STORE=database there is no store: the database keeps secrets itself, in Supabase Vault if it is installed.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from functions._shared import aws

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_SECRET_BYTES = 64 * 1024  # the limit of Secrets Manager

_MISSING = {"ResourceNotFoundException", "InvalidRequestException"}  # the second: it is marked for deletion


class SecretMissing(Exception):
    """The store has no such secret, or it is not a JSON object."""


class SecretUnavailable(Exception):
    """The store cannot be reached, or rejects the call. Holds no text of the store, which may quote a secret."""


class SecretStore(Protocol):
    """Its calls block. A secret is a JSON object."""

    def put(self, name: str, value: Mapping[str, object]) -> None:
        """Stores a secret under a new name. Raises SecretUnavailable."""
        ...

    def get(self, name: str) -> dict[str, Any]:
        """The current value. Raises SecretMissing or SecretUnavailable."""
        ...

    def delete(self, name: str) -> None:
        """Does nothing if there is no such secret. Raises SecretUnavailable."""
        ...


class EnvironmentStore:
    """Environment variables of the worker, each a JSON object. Each one needs a row in app.secrets with its name."""

    def put(self, name: str, value: Mapping[str, object]) -> None:
        raise SecretUnavailable("environment variables cannot be written")

    def get(self, name: str) -> dict[str, Any]:
        return parse(os.environ.get(name))

    def delete(self, name: str) -> None:
        """Does nothing, because a process cannot change the worker's configuration."""


class SecretsManagerStore:
    """AWS Secrets Manager, under the names `prefix/name`. Rotation replaces a value under its name."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def put(self, name: str, value: Mapping[str, object]) -> None:
        try:
            aws.create_secret(self._full_name(name), json.dumps(value))
        except aws.AwsError as error:
            raise SecretUnavailable(str(error)) from None

    def get(self, name: str) -> dict[str, Any]:
        return read(self._full_name(name))

    def delete(self, name: str) -> None:
        with suppress(SecretMissing), _secret_errors():
            aws.delete_secret(self._full_name(name))

    def _full_name(self, name: str) -> str:
        return f"{self._prefix}/{name}"


def read(secret_id: str) -> dict[str, Any]:
    """A secret in Secrets Manager, by its full name. Raises SecretMissing or SecretUnavailable."""
    with _secret_errors():
        return parse(aws.get_secret(secret_id))


def parse(text: str | None) -> dict[str, Any]:
    """Raises SecretMissing for anything but a JSON object."""
    try:
        value = json.loads(text or "null")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SecretMissing
    return value


@contextmanager
def _secret_errors() -> Iterator[None]:
    try:
        yield
    except aws.AwsError as error:
        raise (SecretMissing() if error.code in _MISSING else SecretUnavailable(str(error))) from None
