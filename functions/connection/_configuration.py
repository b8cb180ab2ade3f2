"""Checks the configuration of a connection, and stores its secret outside the database if there is a secret store."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from functions._shared.errors import ApiError, unavailable
from functions._shared.secret_store import MAX_SECRET_BYTES, SecretUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions._shared.endpoint import RpcContext


def check_configuration(connection_type: str, configuration: Mapping[str, Any]) -> None:
    """Raises ApiError with the first thing that is wrong with the configuration."""
    if connection_type != "http":
        return
    # Imported here, because no other endpoint pays for it.
    from functions._connections.errors import SourceRefused  # noqa: PLC0415
    from functions._connections.http_config import read_config  # noqa: PLC0415
    from functions._connections.http_credentials import Credentials  # noqa: PLC0415

    config = {name: value for name, value in configuration.items() if name != "secret"}
    secret = configuration.get("secret") or {}
    if not isinstance(secret, dict):
        raise ApiError(400, "invalid_configuration", "configuration.secret must be an object.")
    try:
        # The worker checks addresses, because its settings say whether private ones are allowed.
        Credentials.of(read_config(config, allow_private_addresses=True), secret)
    except SourceRefused as error:
        raise ApiError(400, "invalid_configuration", error.message) from None


def store_externally(arguments: dict[str, Any], context: RpcContext) -> dict[str, Any]:
    """The arguments with `secret_id` in place of `configuration.secret`, which is then in the external secret store.

    Without an external store the arguments stay as they are. The worker deletes a secret that no connection comes to
    use, as after an error. Raises ApiError.
    """
    store = context.services.secret_store
    configuration = arguments.get("configuration", {})
    secret = configuration.get("secret")
    if store is None or arguments["type"] != "http" or not isinstance(secret, dict) or not secret:
        return arguments
    if len(json.dumps(secret)) > MAX_SECRET_BYTES:
        message = f"configuration.secret must have at most {MAX_SECRET_BYTES} bytes."
        raise ApiError(400, "invalid_configuration", message)
    reserved = context.call("reserve_secret", _fingerprint(secret, context.idempotency_key))
    try:
        store.put(reserved["name"], secret)
    except SecretUnavailable as error:
        raise unavailable("secrets_unavailable", "The secret store cannot be reached.") from error
    without_secret = {name: value for name, value in configuration.items() if name != "secret"}
    return {**arguments, "configuration": without_secret, "secret_id": reserved["secret_id"]}


def _fingerprint(secret: Mapping[str, object], idempotency_key: str | None) -> dict[str, str]:
    """Tells a repeated request from a different one. Salted with the key: equal secrets have different hashes."""
    if idempotency_key is None:
        return {}
    text = json.dumps([idempotency_key, secret], sort_keys=True)
    return {"fingerprint": hashlib.sha256(text.encode()).hexdigest()}
