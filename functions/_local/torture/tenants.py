"""Random calls by random people, with whatever ids there are: nobody is shown or changes what is another agency's.

Every name, address and secret of an agency holds a word of its own, its canary.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx
import psycopg

from functions._local.torture.calls import ENDPOINTS, UUID, Request, id_in, kind, made
from functions._local.torture.fingerprint import fingerprint

if TYPE_CHECKING:
    from random import Random

    from functions._local.torture.report import Report
    from functions._local.torture.target import Target

CALLS: Final = 60  # a round, by one caller
ANY_ID: Final = 0.15  # of the ids are of another kind of thing
WORDS: Final = {"name", "label", "reason", "action_reason", "token", "object"}

# What each agency has, in an order in which it can be made, and the member of the answer's kind.
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
_KIND_MADE = {name: kind for kind, name in MAKERS.items()} | {"retry_historical_sync": "historical_sync"}
_IDS = """
select id::text from app.executions where agency_id is distinct from %(but)s::uuid
union all select id::text from app.connections where agency_id is distinct from %(but)s::uuid
union all select id::text from app.definitions where agency_id is distinct from %(but)s::uuid
union all select id::text from app.api_keys where agency_id is distinct from %(but)s::uuid
union all select id::text from public.users where agency_id is distinct from %(but)s::uuid
union all select id::text from public.agencies where id is distinct from %(but)s::uuid
"""
_VIEWS = """
select relname::text as name from pg_class
where relkind in ('r', 'p', 'v') and relnamespace = 'public'::regnamespace order by 1
"""


@dataclass(frozen=True)
class Caller:
    """`headers` are its credentials; `canary` is its agency's, if any."""

    what: str
    agency_id: str | None
    headers: dict[str, str] = field(repr=False)


class Tenants:
    def __init__(self, target: Target, report: Report) -> None:
        self._target = target
        self._report = report
        self._client = httpx.Client(timeout=30)
        self._looker = Looker(target)
        self._agencies = [target.agency() for _ in range(3)]
        self._records = {agency: target.connection(agency, "records") for agency in self._agencies}
        self._ids: dict[str, dict[str, list[str]]] = {agency: defaultdict(list) for agency in self._agencies}
        self._asked: defaultdict[str | None, set[str]] = defaultdict(set)
        self._owners = {agency: self._user("owner", agency) for agency in self._agencies}
        self._callers = [self._user("user", agency) for agency in self._agencies]
        for agency in self._agencies:
            self._furnish(agency)
            key = self._call("direct", self._owners[agency], made(ENDPOINTS["create_api_key"], lambda _, it: it))
            headers = {"authorization": f"Bearer {key.json()['key']}"}
            self._callers.append(Caller("server", agency, headers))
        self._callers += [self._user("user without agency", None), self._signed_out()]
        with target.admin() as admin:
            self._views = [row["name"] for row in admin.execute(_VIEWS)]

    def _user(self, what: str, agency: str | None) -> Caller:
        return Caller(what, agency, {"authorization": f"Bearer {self._target.person(agency).token}"})

    def _signed_out(self) -> Caller:
        person = self._target.person(self._agencies[0])
        self._target.auth.sign_out(person.token)
        return Caller("signed-out user", None, {"authorization": f"Bearer {person.token}"})

    def _furnish(self, agency: str) -> None:
        """One more of everything, by somebody of the agency."""
        mine = self._ids[agency]

        def value(member: str, it: Any) -> Any:  # noqa: ANN401 (JSON)
            if member == "destination_connection_id" or it == self._records[agency]:
                return self._records[agency]
            if isinstance(it, str) and UUID.fullmatch(it):
                return mine[kind(endpoint, member)][-1]
            if member == "target_url":
                return f"https://example.com/{canary(agency)}"
            return canary(agency) if member in WORDS else it

        for what, name in MAKERS.items():
            endpoint = ENDPOINTS[name]
            request = made(endpoint, value, **self._members(agency, what))
            response = self._call("direct", self._owners[agency], request)
            if not response.is_success:
                raise RuntimeError(f"{name}: {response.text}")
            mine[what].append(str(id_in(response.json())))

    def _members(self, agency: str, what: str) -> dict[str, Any]:
        """What the example alone does not say."""
        match what:
            case "model":
                return {"configuration": {"resource": "flights"}, "identifier": None}
            case "model_sync":
                source = {"model_id": self._ids[agency]["model"][-1], "field": "id"}
                target = {"connection_id": self._records[agency], "object": "accounts"}
                return {
                    "mode": "create",
                    "fields": [{"source": source, "target": "id"}],
                    "target": target,
                    "identity": {"source": source, "target": "id", "function": "Equality"},
                }
            case "bulk_action":
                return {"scheduled_at": "2999-01-01T00:00:00Z"}
            case "sync_job":
                return {"resources": [{"resource": "flights", "method": "list"}], "args_schema": {}}
            case "run":
                return {"args": {}}
        return {}

    def round(self, chance: Random) -> None:
        caller = chance.choice(self._callers)
        if caller.agency_id:
            self._furnish(caller.agency_id)
        with self._target.admin() as admin:
            before = fingerprint(admin, caller.agency_id)
            foreign = {row["id"] for row in admin.execute(_IDS, {"but": caller.agency_id})}
            for _ in range(CALLS):
                self._try(caller, chance, foreign)
            after = fingerprint(admin, caller.agency_id)
        self._report.count("comparisons of all that others have, before and after")
        changed = [name for name, one in after.items() if before.get(name) != one]
        self._report.expect(not changed, f"a {caller.what} changed what is others': {', '.join(changed)}")

    def _try(self, caller: Caller, chance: Random, foreign: set[str]) -> None:
        endpoint = ENDPOINTS[chance.choice([*ENDPOINTS])]
        sent = made(
            endpoint, lambda member, it: self._any(chance, endpoint, member, it), **self._filter(endpoint, chance)
        )
        if self._target.postgrest and chance.random() < 0.2:
            response = self._ask_rest(caller, chance, sent)
        else:
            response = self._call(chance.choice([*self._target.doors]), caller, sent)
        self._report.count(f"calls of a {caller.what}")
        where = f"{response.request.method} {response.request.url} by a {caller.what}"
        self._report.expect(response.status_code < 500, f"{where}: {response.text}")
        said = f"{response.text} {response.headers}"
        asked = self._asked[caller.agency_id]  # an id that they have sent themselves is no secret to them
        asked |= set(UUID.findall(f"{response.request.url} {response.request.content!r}"))
        shown = (set(UUID.findall(said)) & foreign) - asked
        self._report.expect(not shown, f"{where} was shown {shown}")
        for agency in self._agencies:
            strange = agency != caller.agency_id and canary(agency) in said
            self._report.expect(not strange, f"{where} was shown another agency's words: {response.text}")
        if response.is_success and caller.agency_id and endpoint.name in _KIND_MADE and "/rest/" not in where:
            self._ids[caller.agency_id][_KIND_MADE[endpoint.name]].append(str(id_in(response.json())))

    def _any(self, chance: Random, endpoint: Any, member: str, it: Any) -> Any:  # noqa: ANN401 (JSON)
        if not (isinstance(it, str) and UUID.fullmatch(it)):
            return it
        ids = self._ids[chance.choice(self._agencies)]
        wanted = kind(endpoint, member)
        known = ids[chance.choice([*ids]) if chance.random() < ANY_ID or not ids[wanted] else wanted]
        return chance.choice(known or [it])

    def _filter(self, endpoint: Any, chance: Random) -> dict[str, Any]:  # noqa: ANN401
        """A bulk action acts on what matches: now and then on a connection's, or the very ids'."""
        if "criteria" not in endpoint.example_request or chance.random() < 0.3:
            return {}
        ids = self._ids[chance.choice(self._agencies)]
        family = chance.choice(("historical_sync", "sync_job_run", "bulk_sync", "model_sync"))
        criteria: dict[str, Any] = {"family": family}
        if chance.random() < 0.5:
            criteria["connection_id"] = chance.choice(ids["connection"])
        members: dict[str, Any] = {"criteria": criteria}
        if endpoint.name == "create_bulk_action":
            members["action_type"] = chance.choice(("cancel", "retry", "start"))
        return members

    def _call(self, door: str, caller: Caller, request: Request) -> httpx.Response:
        options = request.options
        options["url"] = f"{self._target.doors[door]}{options['url']}"
        return self._client.request(headers=caller.headers, **options)

    def _ask_rest(self, caller: Caller, chance: Random, request: Request) -> httpx.Response:
        """Past the functions, as whoever has a project's public address can."""
        headers = {"apikey": self._target.auth.anon_key(), **caller.headers}
        key = caller.headers["authorization"].removeprefix("Bearer ")
        if caller.what == "server":
            headers |= {"x-agency-key": key, "authorization": f"Bearer {headers['apikey']}"}
        base = f"{self._target.project_url}/rest/v1"
        if chance.random() < 0.5:
            url = f"{base}/{chance.choice(self._views)}"
            method = chance.choice(("GET", "GET", "PATCH", "DELETE"))
            body = {"agency_id": caller.agency_id} if method == "PATCH" else None
            return self._client.request(method, url, headers=headers, json=body)
        return self._client.post(f"{base}/rpc/{request.endpoint.rpc}", headers=headers, json=request.arguments)

    def close(self) -> None:
        self._looker.close()
        self._client.close()


class Looker:
    """Looks at every source, as a worker would: they answer, with records of one field. It does nothing else."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        claim = """select public.claim('looker', '["source_look"]', 100) as looks"""
        finish = """select public.finish(%s, %s, '{"fields": [{"name": "id", "type": "string"}]}')"""
        with psycopg.connect(self._target.url, autocommit=True) as connection:
            connection.execute("set role service_role")
            while not self._stop.wait(0.02):
                for row in connection.execute(claim).fetchall():
                    for look in row[0]:
                        connection.execute(finish, (look["id"], look["lease"]))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def canary(agency: str) -> str:
    return f"canary-{agency[:8]}"
