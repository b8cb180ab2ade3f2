"""Requests of every kind of caller to everything that PostgREST exposes: nothing of another agency is read or changed.

The requests are generated from the catalog, so that they include whatever a migration adds.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.project import SETUPS, checksums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import User
    from tests.support.project import Project, Projects

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
ACTORS = [
    "owner",
    "colleague signed out",
    "stranger",
    "no agency",
    "stranger's API key",
    "revoked API key",
    "anonymous",
    "anon key",
    "service_role",
    "expired",
    "forged",
]
USERS = ["owner", "stranger", "no agency", "colleague signed out"]
# These send an API key in a header. For PostgREST their role is anon.
KEY_HOLDERS = ["stranger's API key", "revoked API key"]
TRUSTED = "service_role"
# The service role maintains agencies and their users; everything else changes through RPCs.
WRITABLE_BY_SERVICE = {"agencies", "users"}

RELATIONS = """
select c.relname as name, array_agg(a.attname order by a.attnum) as columns
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
group by c.relname order by c.relname
"""
FUNCTIONS = """
select p.proname as name, coalesce(p.proargnames, '{}') as names,
  array(select format_type(t, null) from unnest(p.proargtypes) t) as types,
  has_function_privilege('authenticated', p.oid, 'execute') as for_users,
  has_function_privilege('anon', p.oid, 'execute') as for_keys, p.provolatile = 'v' as writes
from pg_proc p
where p.pronamespace = 'public'::regnamespace and p.prokind = 'f' and p.prorettype <> 'trigger'::regtype
order by p.proname
"""


class Matrix:
    """A victim agency with a row of every kind, and each actor's credentials for PostgREST."""

    def __init__(self, project: Project, client: httpx.Client) -> None:
        self.client = client
        self.project = project
        self.database = database = project.database
        owner, stranger, without_agency = database.member(), database.member(), database.user(None)
        colleague = database.user(owner.agency_id)
        job_id = self._job(owner)
        self._job(stranger)
        self._run(stranger)
        sync_id = database.bulk_sync(owner)
        revoked = database.api_key(owner)
        self.ids = {
            "agency_id": str(owner.agency_id),
            "user_id": owner.id,
            "job_id": job_id,
            "connection_id": str(database.execution(job_id)["connection_id"]),
            "sync_id": sync_id,
            "execution_id": database.execute(owner, sync_id),
            **self._run(owner),
            "api_key_id": database.one("select id::text from app.api_keys where hint = %s", (revoked[-4:],))["id"],
        }
        database.admin.execute("update app.api_keys set revoked_at = now() where id = %s", (self.ids["api_key_id"],))
        self.keys = {"stranger's API key": database.api_key(stranger), "revoked API key": revoked}
        # A call updates last_used_at at most once a minute, and the checksums must not change.
        database.admin.execute("update app.api_keys set last_used_at = now() + interval '1 hour'")
        valid, signed_out = project.token(owner), project.token(colleague)
        project.auth.sign_out(signed_out)
        self.tokens = {
            "owner": valid,
            "colleague signed out": signed_out,
            "stranger": project.token(stranger),
            "no agency": project.token(without_agency),
            "stranger's API key": None,
            "revoked API key": None,
            "anonymous": None,
            "anon key": project.auth.anon_key(),
            "service_role": project.auth.service_role_key(),
            "expired": project.token(owner, lifetime=-3600),
            "forged": valid[:-8] + "AAAAAAAA",
        }

    def _run(self, user: User) -> dict[str, str]:
        """A sync job, a queued run of it, and a webhook."""
        with self.database.session(user.claims) as session:
            job = session.call("create_sync_job", resources=[{"resource": "flights", "method": "list"}])
            webhook = session.call("create_webhook", target_url="https://127.0.0.1/never")
            account = self.database.connection(user.agency_id)
            references = {"sync_job_id": job["id"], "integrated_account_id": account, "daemon_group_key": "d"}
            run = session.call("create_sync_job_run", **references)
        return {"sync_job_id": job["id"], "webhook_id": webhook["id"], "run_id": run["id"]}

    def _job(self, user: User) -> str:
        """Start a job and commit a record and a checkpoint."""
        database = self.database
        job_id = database.start(user, database.connection(user.agency_id, secret={"token": "connection-t0p"}))
        execution = self.project.claim(job_id)
        with database.worker() as worker:
            assert worker.commit_batch(execution, 1, "record-t0p") == "continue"
        return job_id

    def request(self, actor: str, method: str, path: str, **options: Any) -> httpx.Response:
        token = self.tokens[actor]
        headers = options.pop("headers", {}) | ({"authorization": f"Bearer {token}"} if token else {})
        if actor in self.keys:
            headers["x-agency-key"] = self.keys[actor]
        response = self.client.request(
            method, f"{self.project.backend.postgrest.url}{path}", headers=headers, **options
        )
        self.check_nothing_foreign(actor, response)
        assert "connection-t0p" not in response.text
        return response

    def check_nothing_foreign(self, actor: str, response: httpx.Response) -> None:
        """Check that a response to another agency contains no id of the victim."""
        if actor in {"owner", TRUSTED}:
            return
        text = str(response.headers) + response.text
        assert not [name for name in self.ids if self.ids[name] in text], f"{actor} {response.url}: {text}"

    def arguments(self, actor: str, function: dict[str, Any]) -> dict[str, Any]:
        """The victim's ids; for the service role, whose calls would succeed, ids that do not exist."""
        status = "scheduled" if "bulk_action" in function["name"] else "pending"
        texts = {
            "status": status,
            **dict.fromkeys(("page_token", "next_cursor", "prev_cursor", "sort"), ""),
            "name": "x" * 201,
        }
        by_type: dict[str, Callable[[str], Any]] = {
            "uuid": lambda name: UNKNOWN_ID if actor == TRUSTED else self.ids.get(name, self.ids["job_id"]),
            "jsonb": lambda name: [] if actor == TRUSTED or name != "families" else ["historical_sync"],
            # A name that is too long for any table, so that no call creates anything.
            "text": lambda name: texts.get(name, "x"),
            "timestamp with time zone": lambda _: "2013-01-01T00:00:00Z",
            "date": lambda _: "2013-01-01",
            "boolean": lambda _: True,
            "integer": lambda _: 1,
            "bigint": lambda _: 1,
        }
        return {
            name: by_type[kind](name)
            for name, kind in zip(function["names"], function["types"], strict=False)
            # A run has one destination, here the webhook. A query cannot hold a JSON object for `filters`.
            if name and name not in {"daemon_group_key", "filters"}
        }


@pytest.fixture(scope="module")
def matrix(projects: Projects) -> Iterator[Matrix]:
    """The tables must be unchanged after all tests. The service role reaps."""
    with httpx.Client() as client:
        made = Matrix(projects(SETUPS[1]), client)
        before = checksums(made.database)
        yield made
        assert checksums(made.database) == before


def lists_all(function: dict[str, Any]) -> bool:
    return function["name"].startswith("list_") and "sync_id" not in function["names"]


# These reference no existing row. A stranger may call them; the arguments here are invalid.
CREATING = {
    "create_api_key",
    "create_connection",
    "reserve_secret",
    "create_webhook",
    "create_sync_job",
    "create_bulk_action",
    "preview_bulk_action",
}


def assert_rejected(actor: str, response: httpx.Response) -> None:
    statuses = {403, 404, 405} if actor in {*USERS, TRUSTED} else {401, 405}
    if actor == "colleague signed out":
        statuses |= {401}
    if response.status_code == 400 and response.json()["code"] == "0A000":
        return  # a computed column of a view, which no role can write
    assert response.status_code in statuses, f"{actor} {response.request.method} {response.url}: {response.text}"


@pytest.mark.parametrize("actor", ACTORS)
def test_postgrest_select__by_actor(matrix: Matrix, actor: str) -> None:
    for relation in matrix.database.all(RELATIONS):
        response = matrix.request(actor, "GET", f"/{relation['name']}")
        if actor in {"anonymous", "anon key", "expired", "forged", *KEY_HOLDERS}:
            assert response.status_code == 401
            continue
        assert response.status_code == 200, response.text
        rows = response.json()
        if actor == "owner":
            assert rows
            for row in rows:
                belongs = {str(row.get(name)) for name in ("agency_id", "environment_id", "id")}
                assert belongs & {matrix.ids["agency_id"], matrix.ids["user_id"]}
        elif actor == "stranger":
            assert rows
        elif actor == TRUSTED:
            assert len(rows) > 1
        elif actor == "no agency" and relation["name"] == "users":
            assert [row["agency_id"] for row in rows] == [None]  # the user's own row
        else:
            assert rows == []


@pytest.mark.parametrize("actor", ACTORS)
def test_postgrest_write__rejected_for_every_actor(matrix: Matrix, actor: str) -> None:
    for relation in matrix.database.all(RELATIONS):
        if actor == TRUSTED and relation["name"] in WRITABLE_BY_SERVICE:
            continue
        path = f"/{relation['name']}"
        first = relation["columns"][0]
        assert_rejected(actor, matrix.request(actor, "POST", path, json={}))
        assert_rejected(actor, matrix.request(actor, "POST", path, json={first: UNKNOWN_ID}))
        assert_rejected(
            actor, matrix.request(actor, "POST", path, json=[], headers={"prefer": "resolution=merge-duplicates"})
        )
        for column in relation["columns"]:
            assert_rejected(actor, matrix.request(actor, "PATCH", f"{path}?{first}=not.is.null", json={column: None}))
        assert_rejected(actor, matrix.request(actor, "DELETE", f"{path}?{first}=not.is.null"))
        assert_rejected(actor, matrix.request(actor, "DELETE", path))


@pytest.mark.parametrize("actor", ACTORS)
def test_postgrest_rpc__by_actor(matrix: Matrix, actor: str) -> None:
    for function in matrix.database.all(FUNCTIONS):
        path, arguments = f"/rpc/{function['name']}", matrix.arguments(actor, function)
        query = {name: value if isinstance(value, str) else str(value).lower() for name, value in arguments.items()}
        for method in ("PATCH", "DELETE", "PUT"):
            assert matrix.request(actor, method, path, json=arguments).status_code in {401, 405}
        if actor == "owner" and function["for_users"]:
            continue  # the owner's own functions
        posted, got = (
            matrix.request(actor, "POST", path, json=arguments),
            matrix.request(actor, "GET", path, params=query),
        )
        if actor == TRUSTED:
            assert posted.status_code in {200, 400, 403, 404}, posted.text
            assert got.status_code in {200, 400, 403, 404, 405}, got.text
            continue
        for response in (posted, got):
            if actor == "stranger's API key" and not function["for_keys"]:
                assert response.status_code in {401, 405}, response.text
            elif actor in {"stranger", "stranger's API key"} and lists_all(function):
                assert response.status_code == 200, (
                    response.text
                )  # the caller's own rows, although the arguments are the victim's ids
            elif actor in {"stranger", "stranger's API key"} and function["name"] in CREATING:
                assert response.status_code in {400, 403, 405}, response.text
            else:
                assert_rejected("stranger" if actor == "stranger's API key" else actor, response)
        if not function["for_users"]:
            assert posted.status_code in {401, 403}


def test_postgrest_rpc__get_never_writes(matrix: Matrix) -> None:
    for function in matrix.database.all(FUNCTIONS):
        if function["writes"] and function["for_users"]:
            arguments = matrix.arguments("owner", function)
            if "resources" in arguments:
                arguments["resources"] = '["flights"]'
            query = {name: value if isinstance(value, str) else str(value).lower() for name, value in arguments.items()}
            response = matrix.request("owner", "GET", f"/rpc/{function['name']}", params=query)
            # Functions that accept keys are volatile even if they only read, because they update last_used_at.
            assert response.status_code >= 400 or function["name"].startswith(("get_", "list_", "preview_")), function[
                "name"
            ]


QUERIES = [
    "select=*,agencies(*)",
    "select=*,users(*)",
    "or=(agency_id.not.is.null,job_id.not.is.null)",
    "select=agency_id.count()",
    "select=count()",
    "order=cancel_reason&limit=1000&offset=0",
    "agency_id=not.is.null&select=agency_id::text",
    "cancel_reason=like.*&select=*",
    "limit=0",
]


@pytest.mark.parametrize("actor", ["stranger", "no agency", "colleague signed out", "anonymous", *KEY_HOLDERS])
def test_postgrest_select__queries_do_not_bypass_policies(matrix: Matrix, actor: str) -> None:
    headers = {"prefer": "count=exact"}
    for relation, query in itertools.product(matrix.database.all(RELATIONS), QUERIES):
        response = matrix.request(actor, "GET", f"/{relation['name']}?{query}", headers=headers)
        counted = response.headers.get("content-range", "*/0").rpartition("/")[2]
        assert response.status_code >= 400 or int(counted) <= 1, query  # the caller's own row


# PostgREST rejects a schema that is not exposed for every role alike, therefore one actor of each kind is enough.
@pytest.mark.parametrize("actor", ["owner", "stranger", "stranger's API key", "anonymous", TRUSTED])
@pytest.mark.parametrize("schema", ["app", "auth", "pg_catalog", "information_schema"])
def test_postgrest__other_schemas_are_hidden(matrix: Matrix, actor: str, schema: str) -> None:
    for path in (
        "/executions",
        "/connections",
        "/api_keys",
        "/definitions",
        "/execution_resources",
        "/users",
        "/pg_authid",
    ):
        headers = {"accept-profile": schema, "content-profile": schema}
        for method in ("GET", "POST", "PATCH", "DELETE"):
            body = {} if method == "GET" else {"json": {"status": "cancelled"}}
            assert matrix.request(actor, method, path, headers=headers, **body).status_code in {401, 406}
    for name in ("cancel_execution", "raise_error", "identify", "caller", "touch_api_key", "next_status", "pg_sleep"):
        response = matrix.request(actor, "POST", f"/rpc/{name}", json={}, headers={"content-profile": schema})
        assert response.status_code in {401, 406}


@pytest.mark.parametrize("actor", ["anonymous", "anon key", *KEY_HOLDERS])
def test_postgrest_openapi__anonymous_callers_see_key_functions_only(matrix: Matrix, actor: str) -> None:
    description = matrix.request(actor, "GET", "/").json()
    for_keys = {f"/rpc/{function['name']}" for function in matrix.database.all(FUNCTIONS) if function["for_keys"]}
    assert set(description["paths"]) == {"/", *for_keys}
    assert not description.get("definitions")


def test_postgrest_openapi__users_see_their_functions(matrix: Matrix) -> None:
    paths = set(matrix.request("stranger", "GET", "/").json()["paths"])
    functions = matrix.database.all(FUNCTIONS)
    assert {path for path in paths if path.startswith("/rpc/")} == {
        f"/rpc/{function['name']}" for function in functions if function["for_users"]
    }
