"""Requests built from the endpoints' examples, with other values in them."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from functions._shared import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from functions._shared.endpoint import Endpoint

UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ENDPOINTS: Final = {endpoint.name: endpoint for endpoint in registry.endpoints()}

_KINDS = {
    "model_id": "model",
    "webhook_id": "webhook",
    "run_id": "run",
    "execution_id": "execution",
    "api_key_id": "api_key",
    "sync_job_id": "sync_job",
}
# Fields of these names mean different objects in each API.
_JOBS = {"/api/actions": "bulk_action", "/sync-job": "sync_job", "": "historical_sync"}
_SYNCS = {"/api/bulk": "bulk_sync", "": "model_sync"}


@dataclass(frozen=True)
class Request:
    """A request to an endpoint. `options` are arguments of `httpx.Client.request`, with a relative URL."""

    endpoint: Endpoint
    arguments: dict[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        path = self.endpoint.path
        rest = {}
        for name, value in self.arguments.items():
            if f"{{{name}}}" in path:
                path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
            else:
                rest[name] = value
        place = "params" if self.endpoint.method in ("GET", "DELETE") else "json"
        return {"method": self.endpoint.method, "url": path, place: rest}


def kind(endpoint: Endpoint, member: str) -> str:
    """The kind of object whose id this field holds."""
    if member in ("job_id", "sync_id"):
        table = _JOBS if member == "job_id" else _SYNCS
        return next(name for prefix, name in table.items() if endpoint.path.startswith(prefix))
    return _KINDS.get(member, "connection")


def made(endpoint: Endpoint, value: Callable[[str, Any], Any], **members: Any) -> Request:
    """The endpoint's example with `members`. Each scalar is replaced by `value(field, scalar)`."""
    example = copy.deepcopy(dict(endpoint.example_request)) | members
    return Request(endpoint, {name: _replaced(name, one, value) for name, one in example.items()})


def _replaced(member: str, node: Any, value: Callable[[str, Any], Any]) -> Any:
    if isinstance(node, dict):
        return {name: _replaced(name, one, value) for name, one in node.items()}
    if isinstance(node, list):
        return [_replaced(member, one, value) for one in node]
    return value(member, node)


def id_in(response: Mapping[str, Any]) -> str | None:
    """The id of the object that a create or a start returned."""
    data: Mapping[str, Any] = response.get("data") or response.get("api_key") or response
    found = data.get("id") or data.get("job_id")
    return str(found) if found else None
