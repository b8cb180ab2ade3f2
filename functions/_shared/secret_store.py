"""Where connections' secrets are kept outside the database, which then holds a name only: one interface, two stores.

Without one (SECRET_STORE=database) the database keeps them itself, in Supabase Vault where that is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Protocol

from functions._shared.errors import ApiError, unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.endpoint import Call
    from functions._shared.settings import SecretStoreName

MAX_BYTES = 64 * 1024  # what Secrets Manager takes


class SecretMissing(Exception):
    """The store has no such secret (any more), or none that can be read."""


class SecretUnavailable(Exception):
    """The store did not answer, or not now. What it says besides is not kept: it may quote a secret."""


class SecretStore(Protocol):
    """Its calls block; a secret is a JSON object."""

    def put(self, name: str, value: Mapping[str, object]) -> None:
        """Stores it under a name that is new. Raises SecretUnavailable."""
        ...

    def get(self, name: str) -> dict[str, Any]:
        """As it is now, however often it was replaced. Raises SecretMissing or SecretUnavailable."""
        ...

    def forget(self, name: str) -> None:
        """Does nothing where there is none. Raises SecretUnavailable."""
        ...


class Environment:
    """The worker's environment variables, each a JSON object: whoever sets them names them in app.secrets."""

    def put(self, name: str, value: Mapping[str, object]) -> None:
        raise SecretUnavailable("an environment takes no secrets")

    def get(self, name: str) -> dict[str, Any]:
        return parsed(os.environ.get(name))

    def forget(self, name: str) -> None:
        """Is for whoever has set it."""


def parsed(text: str | None) -> dict[str, Any]:
    """Raises SecretMissing for what is no JSON object."""
    try:
        value = json.loads(text or "null")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SecretMissing
    return value


def make(kind: SecretStoreName, prefix: str) -> SecretStore | None:
    """None where the database keeps them. `prefix` stands before all names in Secrets Manager."""
    if kind == "secretsmanager":
        from functions._shared.aws import SecretsManager  # noqa: PLC0415 (who does not need it does not pay for it)

        return SecretsManager(prefix)
    return Environment() if kind == "environment" else None


def store_externally(arguments: dict[str, Any], call: Call) -> dict[str, Any]:
    """The arguments with `secret_id` in place of configuration.secret, which now is in the door's store, if it has one.

    One that no connection comes to use, as after an error, the worker forgets. Raises Problem.
    """
    store = call.services.secret_store
    configuration = arguments.get("configuration", {})
    secret = configuration.get("secret")
    if store is None or arguments["type"] != "http" or not isinstance(secret, dict) or not secret:
        return arguments  # nothing to keep, or nothing that will be accepted
    if len(json.dumps(secret)) > MAX_BYTES:
        raise ApiError(400, "invalid_configuration", f"configuration.secret has more than {MAX_BYTES} bytes.")
    reserved = call("reserve_secret", _fingerprint(secret, call.idempotency_key))
    try:
        store.put(reserved["name"], secret)
    except SecretUnavailable as error:
        raise unavailable("secrets_unavailable", "The store of secrets") from error
    without = {name: value for name, value in configuration.items() if name != "secret"}
    return {**arguments, "configuration": without, "secret_id": reserved["secret_id"]}


def _fingerprint(secret: Mapping[str, object], idempotency_key: str | None) -> dict[str, str]:
    """Salted with the key: of two secrets nobody learns that they are the same, and none is guessed for all at once."""
    if idempotency_key is None:
        return {}
    text = json.dumps([idempotency_key, secret], sort_keys=True)
    return {"fingerprint": hashlib.sha256(text.encode()).hexdigest()}
