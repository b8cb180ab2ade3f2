"""How systems are read: each connector turns a connection's config and secret into pages of records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from functions.worker.connectors.errors import SourceRefused
from functions.worker.connectors.http import HttpConnector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OpenSource: TypeAlias = "Callable[[Mapping[str, Any] | None], HttpConnector]"


def open_source(connection: Mapping[str, Any] | None, *, allow_private_addresses: bool = False) -> HttpConnector:
    """The connector of a connection {kind, config, secret}; SourceRefused if it cannot be read from.

    Users write connections: with `allow_private_addresses` one may lead to this machine and its network.
    """
    if connection is None or connection["kind"] != "http":
        raise SourceRefused("source_not_readable", "This connection cannot be read from.")
    return HttpConnector(connection["config"], connection["secret"], allow_private_addresses=allow_private_addresses)
