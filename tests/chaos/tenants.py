"""Random calls by random callers with ids of all agencies. No caller sees or changes rows of another agency."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx

from tests.chaos.agency import MAKERS, Agency
from tests.chaos.calls import ENDPOINTS, UUID, Request, id_in, kind, made
from tests.chaos.checker import SourceChecker
from tests.chaos.fingerprint import fingerprint

if TYPE_CHECKING:
    from random import Random

    from functions._shared.endpoint import Endpoint
    from tests.chaos.report import Report
    from tests.chaos.target import Target

CALLS: Final = 60  # in a round, by one caller
ANY_KIND: Final = 0.15  # share of ids that are of another kind of object
DIRECT_SHARE: Final = 0.2  # of calls go to PostgREST itself
FAMILIES: Final = ("historical_sync", "sync_job_run", "bulk_sync", "model_sync")
_KIND_MADE = {name: kind for kind, name in MAKERS.items()} | {"retry_historical_sync": "historical_sync"}
_FOREIGN_IDS = """
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


@dataclass
class Caller:
    """`sent_ids`: ids that the caller or its agency has sent. A response may repeat them."""

    what: str
    agency: Agency | None
    headers: dict[str, str] = field(repr=False)
    sent_ids: set[str] = field(default_factory=set, repr=False)

    @property
    def agency_id(self) -> str | None:
        return self.agency.id if self.agency else None


class Tenants:
    def __init__(self, target: Target, report: Report) -> None:
        self._target = target
        self._report = report
        self._client = httpx.Client(timeout=30)
        self._checker = SourceChecker(target)
        self._agencies = [Agency(target, self._client) for _ in range(3)]
        self._callers = []
        for agency in self._agencies:
            agency.furnish()
            sent_ids: set[str] = set()
            server = {"authorization": f"Bearer {agency.key}"}
            self._callers += [
                Caller("user", agency, agency.headers, sent_ids),
                Caller("server", agency, server, sent_ids),
            ]
        self._callers += [
            self._rejected("user without agency", None),
            self._rejected("signed-out user", self._agencies[0]),
        ]
        with target.admin() as admin:
            self._views = [row["name"] for row in admin.execute(_VIEWS)]

    def _rejected(self, what: str, agency: Agency | None) -> Caller:
        token = self._target.person(agency.id if agency else None).token
        if agency:
            self._target.auth.sign_out(token)
        return Caller(what, None, {"authorization": f"Bearer {token}"})

    def round(self, chance: Random) -> None:
        caller = chance.choice(self._callers)
        if caller.agency:
            caller.agency.furnish()  # replaces what earlier calls deleted
        with self._target.admin() as admin:
            before = fingerprint(admin, caller.agency_id)
            foreign = {row["id"] for row in admin.execute(_FOREIGN_IDS, {"but": caller.agency_id})}
            for _ in range(CALLS):
                self._try(caller, chance, foreign)
            after = fingerprint(admin, caller.agency_id)
        self._report.count("comparisons of other agencies' rows")
        changed = [name for name, one in after.items() if before.get(name) != one]
        self._report.expect(not changed, f"a {caller.what} changed rows of others: {', '.join(changed)}")

    def _try(self, caller: Caller, chance: Random, foreign: set[str]) -> None:
        endpoint = ENDPOINTS[chance.choice([*ENDPOINTS])]
        criteria = self._criteria(endpoint, chance)
        sent = made(endpoint, lambda member, it: self._any(chance, endpoint, member, it), **criteria)
        if self._target.postgrest and chance.random() < DIRECT_SHARE:
            response = self._call_rest(caller, chance, sent)
            self._report.count(f"calls of a {caller.what} to PostgREST itself")
        else:
            response = self._call(chance.choice([*self._target.function_urls]), caller, sent)
            self._report.count(f"calls of a {caller.what}")
            self._record_id(caller, endpoint, response)
        self._check(caller, response, foreign)

    def _record_id(self, caller: Caller, endpoint: Endpoint, response: httpx.Response) -> None:
        if response.is_success and caller.agency and endpoint.name in _KIND_MADE:
            caller.agency.ids[_KIND_MADE[endpoint.name]].append(str(id_in(response.json())))

    def _check(self, caller: Caller, response: httpx.Response, foreign: set[str]) -> None:
        if response.is_success:
            self._report.count("of these calls, successful")
        where = f"{response.request.method} {response.request.url} by a {caller.what}"
        self._report.expect(response.status_code < 500, f"{where}: {response.text}")
        shown_text = f"{response.text} {response.headers}"
        caller.sent_ids.update(UUID.findall(f"{response.request.url} {response.request.content!r}"))
        shown = (set(UUID.findall(shown_text)) & foreign) - caller.sent_ids
        self._report.expect(not shown, f"{where} was shown {shown}")
        for agency in self._agencies:
            strange = agency is not caller.agency and agency.canary in shown_text
            self._report.expect(not strange, f"{where} was shown names of another agency: {response.text}")

    def _any(self, chance: Random, endpoint: Endpoint, member: str, it: Any) -> Any:
        if not (isinstance(it, str) and UUID.fullmatch(it)):
            return it
        ids = chance.choice(self._agencies).ids
        kinds = [*ids] if chance.random() < ANY_KIND else [kind(endpoint, member)]
        return chance.choice(ids[chance.choice(kinds)])

    def _criteria(self, endpoint: Endpoint, chance: Random) -> dict[str, Any]:
        """Criteria of bulk actions: any family, and sometimes one connection."""
        if "criteria" not in endpoint.example_request:
            return {}
        criteria: dict[str, Any] = {"family": chance.choice(FAMILIES)}
        if chance.random() < 0.5:
            criteria["connection_id"] = chance.choice(chance.choice(self._agencies).ids["connection"])
        does = {"action_type": chance.choice(("cancel", "retry", "start"))}
        return {"criteria": criteria, **(does if "action_type" in endpoint.example_request else {})}

    def _call(self, setup: str, caller: Caller, request: Request) -> httpx.Response:
        options = request.options
        options["url"] = f"{self._target.function_urls[setup]}{options['url']}"
        return self._client.request(headers=caller.headers, **options)

    def _call_rest(self, caller: Caller, chance: Random, request: Request) -> httpx.Response:
        """Calls PostgREST without the functions, as anyone with the project's address can."""
        headers = {"apikey": self._target.auth.anon_key(), **caller.headers}
        if caller.what == "server" and caller.agency:
            headers |= {"x-agency-key": caller.agency.key, "authorization": f"Bearer {headers['apikey']}"}
        base = f"{self._target.project_url}/rest/v1"
        if chance.random() < 0.5:
            url = f"{base}/{chance.choice(self._views)}"
            method = chance.choice(("GET", "GET", "PATCH", "DELETE"))
            body = {"agency_id": caller.agency_id} if method == "PATCH" else None
            return self._client.request(method, url, headers=headers, json=body)
        return self._client.post(f"{base}/rpc/{request.endpoint.rpc}", headers=headers, json=request.arguments)

    def close(self) -> None:
        self._checker.close()
        self._client.close()
