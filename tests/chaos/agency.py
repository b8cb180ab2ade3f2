"""An agency with one object of each kind. Each of its names and addresses contains its canary, a unique text."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tests.chaos.calls import ENDPOINTS, UUID, id_in, kind, made

if TYPE_CHECKING:
    import httpx

    from tests.chaos.target import Target

TEXT_FIELDS: Final = {"name", "label", "reason", "action_reason", "token", "object"}

# The endpoint that creates each kind of object, in an order in which they can be created.
MAKERS: Final = {
    "connection": "create_connection",
    "model": "create_model",
    "bulk_sync": "create_bulk_sync",
    "execution": "start_bulk_sync",
    "model_sync": "create_model_sync",
    "historical_sync": "start_historical_sync",
    "sync_job": "create_sync_job",
    "run": "create_sync_job_run",
    "webhook": "create_webhook",
    "bulk_action": "create_bulk_action",
    "api_key": "create_api_key",
}


class Agency:
    """`ids`: its objects by kind, the newest last. `headers`: credentials of its user. `key`: its API key."""

    def __init__(self, target: Target, client: httpx.Client) -> None:
        self._client = client
        self._functions_url = target.function_urls["direct"]
        self.id = target.agency()
        self.canary = f"canary-{self.id[:8]}"
        self.headers = {"authorization": f"Bearer {target.person(self.id).token}"}
        self.ids: defaultdict[str, list[str]] = defaultdict(list)
        self._target = target
        self._records = ""
        self.key = ""

    def furnish(self) -> None:
        """Creates one more of everything. Needs a worker for source checks. Raises RuntimeError if a request fails."""
        self._records = self._target.connection(self.id, "records")
        for what, name in MAKERS.items():
            options = made(ENDPOINTS[name], partial(self._named, name), **self._members(what)).options
            response = self._client.request(
                options["method"], f"{self._functions_url}{options['url']}", headers=self.headers, json=options["json"]
            )
            if not response.is_success:
                raise RuntimeError(f"{name}: {response.text}")
            body = response.json()
            self.ids[what].append(str(id_in(body)))
            self.key = body.get("key", self.key)

    def real(self, endpoint: str, member: str, it: Any) -> Any:
        """Replaces an id in the endpoint's example by that of the agency's newest such object."""
        if isinstance(it, str) and UUID.fullmatch(it):
            return self.ids[kind(ENDPOINTS[endpoint], member)][-1]
        return it

    def _named(self, endpoint: str, member: str, it: Any) -> Any:
        if member == "destination_connection_id" or it == self._records:
            return self._records
        if member == "target_url":
            return f"https://example.com/{self.canary}"
        return self.canary if member in TEXT_FIELDS else self.real(endpoint, member, it)

    def _members(self, what: str) -> dict[str, Any]:
        """Fields that must fit together, unlike those of the example."""
        match what:
            case "model":
                return {"configuration": {"resource": "flights"}, "identifier": None}
            case "model_sync":
                source = {"model_id": self.ids["model"][-1], "field": "id"}
                return {
                    "mode": "create",
                    "fields": [{"source": source, "target": "id"}],
                    "target": {"connection_id": self._records, "object": "accounts"},
                    "identity": {"source": source, "target": "id", "function": "Equality"},
                }
            case "bulk_action":
                return {"scheduled_at": "2999-01-01T00:00:00Z"}
            case "sync_job":
                return {"resources": [{"resource": "flights", "method": "list"}], "args_schema": {}}
            case "run":
                return {"args": {}}
        return {}
