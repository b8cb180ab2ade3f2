"""The headers and query parameters that carry a secret."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from pydantic import ValidationError

from functions._connections.errors import SourceRefused
from functions._connections.http_config import (
    ApiKeyAuth,
    ApiKeySecret,
    BasicSecret,
    Config,
    Model,
    NoSecret,
    TokenSecret,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRETS: Final[dict[str, type[Model]]] = {
    "bearer": TokenSecret,
    "api_key": ApiKeySecret,
    "basic": BasicSecret,
    "none": NoSecret,
}


@dataclass(frozen=True)
class Credentials:
    headers: dict[str, str]
    query: dict[str, str]

    @classmethod
    def of(cls, config: Config, secret: Mapping[str, object]) -> Self:
        """Raises SourceRefused if the secret does not fit the configured auth."""
        match _read(config.auth.type, secret), config.auth:
            case TokenSecret(token=token), _:
                return cls({"Authorization": f"Bearer {token}"}, {})
            case ApiKeySecret(api_key=key), ApiKeyAuth(place="header", name=name):
                return cls({name: key}, {})
            case ApiKeySecret(api_key=key), ApiKeyAuth(name=name):
                return cls({}, {name: key})
            case BasicSecret(username=user, password=password), _:
                return cls({"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}, {})
        return cls({}, {})


def _read(auth: str, secret: Mapping[str, object]) -> Model:
    try:
        return SECRETS[auth].model_validate(dict(secret))
    except ValidationError:
        # No names are quoted either, because a secret may stand in place of a name.
        members = ", ".join(SECRETS[auth].model_fields) or "nothing"
    message = f"The secret for auth type {auth} must hold {members}, in printable text, and no more. Enter it again."
    raise SourceRefused("source_config_invalid", message)
