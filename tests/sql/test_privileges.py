"""Who may do what, read from the catalog: what is not in the lists here is denied, and a new object is not in them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from functions._local import schema
from tests.support.database import ErrorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.support.database import Database

pytestmark = [pytest.mark.sql, pytest.mark.conventions]

# By object, then role: what it may. Columns are named where a privilege is not the whole table's.
SCHEMAS = {
    "app": {"anon": "USAGE", "authenticated": "USAGE", "service_role": "USAGE"},
    "public": {"public": "USAGE", "anon": "USAGE", "authenticated": "USAGE", "service_role": "USAGE"},
}
RELATIONS = {
    "app.api_keys": {
        # The hash goes in and never comes out.
        "authenticated": "SELECT(agency_id, created_at, created_by, hint, id, last_used_at, name, revoked_at,"
        " revoked_by) INSERT(agency_id, created_by, hash, hint, name) UPDATE(revoked_at, revoked_by)",
        "service_role": "SELECT",
    },
    "app.bulk_action_items": {"authenticated": "SELECT", "service_role": "INSERT SELECT UPDATE"},
    "app.bulk_actions": {"authenticated": "SELECT", "service_role": "INSERT SELECT UPDATE"},
    "app.connections": {
        "authenticated": "SELECT(agency_id, config, created_at, created_by, deleted_at, id, kind, name, updated_at)"
        " INSERT(agency_id, config, created_by, deleted_at, kind, name, secret_id)"
        " UPDATE(config, deleted_at, updated_at)",
        "service_role": "DELETE INSERT SELECT UPDATE",
    },
    "app.definitions": {
        "authenticated": "SELECT INSERT(active, agency_id, created_by, destination_id, kind, name, settings, source_id,"
        " updated_by) UPDATE(deleted_at, name, settings, updated_at, updated_by)",
        "service_role": "DELETE INSERT SELECT UPDATE",
    },
    "app.deliveries": {"authenticated": "SELECT", "service_role": "INSERT SELECT UPDATE"},
    "app.execution_events": {"authenticated": "SELECT", "service_role": "SELECT"},
    "app.execution_events_id_seq": {},
    "app.execution_resources": {"authenticated": "SELECT", "service_role": "INSERT SELECT UPDATE"},
    "app.executions": {
        "authenticated": "SELECT INSERT(agency_id, checkpoint, concurrency_key, connection_id, definition_id,"
        " destination_id, family, progress, reason, retry_of, run_at, spec) UPDATE(deleted_at, event, reason, status)",
        "service_role": "INSERT SELECT UPDATE",
    },
    "app.families": {"authenticated": "SELECT", "service_role": "SELECT"},
    "app.idempotency_keys": {
        "authenticated": "DELETE INSERT SELECT",
        "service_role": "DELETE INSERT SELECT UPDATE",
    },
    "app.idempotency_keys_id_seq": {},
    "app.records": {"authenticated": "SELECT", "service_role": "INSERT SELECT UPDATE"},
    # Whose it is and where, never the value.
    "app.secrets": {
        "service_role": "DELETE SELECT(agency_id, created_at, delete_at, id, name, storage, used_at)"
        " UPDATE(delete_at, used_at)",
    },
    "public.agencies": {"authenticated": "SELECT", "service_role": "DELETE INSERT SELECT UPDATE"},
    "public.historical_sync_jobs": {"authenticated": "SELECT", "service_role": "SELECT"},
    "public.sync_job_runs": {"authenticated": "SELECT", "service_role": "SELECT"},
    "public.sync_jobs": {"authenticated": "SELECT", "service_role": "SELECT"},
    "public.users": {"authenticated": "SELECT", "service_role": "DELETE INSERT SELECT UPDATE"},
    "public.webhooks": {"authenticated": "SELECT", "service_role": "SELECT"},
}
# Which roles may execute a function is declared in the function's file. The rules below hold for every function; the
# exceptions are listed here.
CALLERS = ["authenticated", "service_role"]
AND_SERVERS = ["anon", *CALLERS]  # an agency's server calls as anon, with its API key
API_WITHOUT_KEY = {
    # The historical sync's document knows users only; API keys are managed by users, never by a key.
    "public.cancel_sync_job": CALLERS,
    "public.get_historical_sync": CALLERS,
    "public.list_historical_syncs": CALLERS,
    "public.retry_historical_sync": CALLERS,
    "public.start_historical_sync": CALLERS,
    "public.create_api_key": ["authenticated"],
    "public.list_api_keys": ["authenticated"],
    "public.revoke_api_key": ["authenticated"],
}
# What anon may execute of `app`: the functions that find out which agency's key a request carries.
APP_FOR_ANON = {"app.agency_key", "app.caller", "app.identify", "app.raise_error", "app.touch_api_key"}
OWNER_ONLY = {"app.purge_executions", "app.require_table_owner"}  # and all trigger functions
# SECURITY DEFINER functions and the roles that may execute them: each bypasses row-level security.
DEFINERS = {
    "app.copy_secret_for_check": ["authenticated"],
    "app.delete_secret": [],
    "app.exists_in_other_agency": CALLERS,
    "app.get_secret": ["service_role"],
    "app.identify": ["anon", "authenticated"],
    "app.record_event": [],
    "app.reserve_secret": ["authenticated"],
    "app.secret_fingerprint": CALLERS,
    "app.store_secret": ["authenticated"],
    "app.touch_api_key": ["anon"],
    "app.use_secret": ["authenticated"],
}
THEIR_AGENCY = "( SELECT app.agency_id() AS agency_id)"

ROLES = ("public", "anon", "authenticated", "service_role")
OURS = "in ('app'::regnamespace, 'public'::regnamespace)"


@pytest.fixture(scope="module")
def house(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    """Only the catalog is read: one database serves all."""
    with clone() as made:
        yield made


def test_schemas_are_open_to_these_roles_only(house: Database) -> None:
    rows = house.all(
        "select nspname as name, role, privilege from pg_namespace, unnest(%s::text[]) as role,"
        " unnest(array['USAGE', 'CREATE']) as privilege"
        " where oid " + OURS + " and has_schema_privilege(role, oid, privilege) order by privilege",
        (list(ROLES),),
    )
    assert matrix(rows, SCHEMAS) == SCHEMAS


def test_tables_views_and_sequences_are_open_to_these_roles_only(house: Database) -> None:
    everything = house.all(
        "select oid, nspname || '.' || relname as name, relkind from"
        " (select c.*, n.nspname from pg_class as c join pg_namespace as n on n.oid = relnamespace) as c"
        " where relkind in ('r', 'p', 'v', 'm', 'S', 'f') and relnamespace " + OURS
    )
    found: dict[str, dict[str, str]] = {}
    for relation in everything:
        allowed = {role: relation_privileges(house, relation["oid"], relation["relkind"], role) for role in ROLES}
        found[relation["name"]] = {role: privileges for role, privileges in allowed.items() if privileges}
    assert found == RELATIONS


def relation_privileges(house: Database, oid: int, kind: str, role: str) -> str:
    if kind == "S":
        rows = house.all(
            "select p from unnest(array['USAGE', 'SELECT', 'UPDATE']) as p"
            " where has_sequence_privilege(%s, %s::oid, p)",
            (role, oid),
        )
        return " ".join(row["p"] for row in rows)
    kinds = ["DELETE", "INSERT", "REFERENCES", "SELECT", "TRIGGER", "TRUNCATE", "UPDATE"]
    kinds += ["MAINTAIN"] if house.admin.info.server_version >= 170000 else []
    whole = house.all(
        "select p from unnest(%s::text[]) as p where has_table_privilege(%s, %s::oid, p)", (kinds, role, oid)
    )
    names = [row["p"] for row in whole]
    parts = house.all(
        "select p, string_agg(attname, ', ' order by attname) as columns"
        " from unnest(array['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) with ordinality as p (p, n), pg_attribute"
        " where attrelid = %(oid)s and attnum > 0 and not attisdropped and not p = any(%(whole)s::text[])"
        " and has_column_privilege(%(role)s, attrelid, attnum, p) group by p, n order by n",
        {"oid": oid, "role": role, "whole": names},
    )
    return " ".join([*sorted(names), *(f"{row['p']}({row['columns']})" for row in parts)])


def matrix(rows: list[dict[str, Any]], expected: dict[str, Any]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {name: {} for name in expected}
    for row in rows:
        before = found.setdefault(row["name"], {}).get(row["role"])
        found[row["name"]][row["role"]] = f"{before} {row['privilege']}" if before else row["privilege"]
    return found


def functions(house: Database) -> list[dict[str, Any]]:
    return house.all(
        "select p.*, n.nspname || '.' || p.proname as name, p.oid::regprocedure::text as signature,"
        " array(select role from unnest(%s::text[]) as role"
        "  where has_function_privilege(role, p.oid, 'EXECUTE')) as roles,"
        " p.prorettype = 'trigger'::regtype as returns_trigger"
        " from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace where p.pronamespace " + OURS,
        (list(ROLES),),
    )


def test_functions__no_overloads(house: Database) -> None:
    """PostgREST cannot choose between two functions of one name, and a list of names would hide the second."""
    counted = Counter(f["name"] for f in functions(house))
    assert [name for name, count in counted.items() if count > 1] == []


def test_functions__roles_are_those_of_the_file(house: Database) -> None:
    """The catalog holds what the files grant: a Supabase project grants everything new in `public` to everybody."""
    granted = {f["name"]: f["roles"] for f in functions(house)}
    declared = {}
    for file in function_files():
        text = file.read_text()
        [name] = re.findall(r"^create or replace function ([a-z_.0-9]+)", text, re.MULTILINE)
        roles = re.findall(r"^grant execute on function \S+ to ([a-z_, ]+);$", text, re.MULTILINE)
        declared[name] = sorted(roles[0].split(", ")) if roles else []
    assert {name: sorted(roles) for name, roles in granted.items()} == declared


def test_functions__roles_by_kind(house: Database) -> None:
    for f in functions(house):
        name, roles = f["name"], f["roles"]
        if name.startswith("public.worker_"):
            assert roles == ["service_role"], f"{name}: grant a worker's function to service_role alone, in its file"
        elif name.startswith("public."):
            assert roles == API_WITHOUT_KEY.get(name, AND_SERVERS), (
                f"{name} is granted to {roles}. Grant it to anon, authenticated, service_role in its file, or add a"
                f' line to API_WITHOUT_KEY in tests/sql/test_privileges.py: "{name}": {roles},'
            )
        elif f["returns_trigger"] or name in OWNER_ONLY:
            assert roles == [], f"{name}: remove the grant from its file, because only the owner calls it"
        else:
            assert ("anon" in roles) == (name in APP_FOR_ANON), (
                f"{name} is granted to {roles}. Remove anon in its file, or add the name to APP_FOR_ANON in"
                " tests/sql/test_privileges.py"
            )
            assert roles, f"{name}: nobody may execute it. Add a grant, or the name to OWNER_ONLY in this file"


def test_functions__search_path_is_fixed(house: Database) -> None:
    """Without pg_temp in it, pg_temp comes first: a caller's temporary type would stand for pg_catalog's."""
    loose = [
        f["signature"] for f in functions(house) if "search_path=pg_catalog, pg_temp" not in (f["proconfig"] or [])
    ]
    assert loose == [], "write `set search_path = pg_catalog, pg_temp` in each function's file"


SHADOWED_TYPES = ("text", "uuid", "jsonb", "bool", "int8", "int4", "timestamptz", "bytea", "interval")


def test_definers__caller_cannot_shadow_a_type(database: Database) -> None:
    """A domain in pg_temp named like a type of pg_catalog, whose check says as whom it runs."""
    user = database.member()
    secret = "gen_random_uuid()"
    calls = (
        "app.identify()", "app.agency_id()", "app.reserve_secret(repeat('a', 64))", f"app.secret_fingerprint({secret})",
        f"app.use_secret({secret})", f"app.exists_in_other_agency('connection', {secret})",
        f"app.copy_secret_for_check({secret}, {secret})", f"app.store_secret({secret}, '{{}}')", "app.caller()",
    )  # fmt: skip
    for type_ in SHADOWED_TYPES:
        with database.session(user.claims) as session:
            session.execute(
                f"create function pg_temp.steal(pg_catalog.{type_}) returns pg_catalog.bool language plpgsql as $$"
                " begin if current_user <> 'authenticated' then raise exception 'ran as %', current_user; end if;"
                " return true; end $$"
            )
            session.execute(f"create domain pg_temp.{type_} as pg_catalog.{type_} check (pg_temp.steal(value))")
            for call in calls:
                response = session.attempt(f"select {call}::pg_catalog.text")
                assert not isinstance(response, ErrorSpec) or not response.code.startswith("ran as"), (type_, call)


def test_definers__are_listed(house: Database) -> None:
    definers = {f["name"]: f["roles"] for f in functions(house) if f["prosecdef"]}
    assert definers == DEFINERS, (
        "A SECURITY DEFINER function bypasses row-level security. Make it an invoker, or add a line to DEFINERS in"
        " tests/sql/test_privileges.py and a case to tests/sql/test_definers.py"
    )
    of_anon = {f["name"]: f["pronargs"] for f in functions(house) if f["prosecdef"] and "anon" in f["roles"]}
    assert of_anon == {"app.identify": 0, "app.touch_api_key": 0}  # both read the request and take nothing


def test_every_call_of_the_api_asks_first_who_calls(house: Database) -> None:
    for f in functions(house):
        if f["name"].startswith("public.") and "authenticated" in f["roles"]:
            assert re.match(r"\s*declare\s+caller constant app\.caller := app\.caller\(\);", f["prosrc"]), f["name"]


def test_whoever_waits_for_a_lock_waits_a_bounded_time(house: Database) -> None:
    """Every worker call, and whatever locks or changes a row that is there; not what passes over locked ones."""
    bounded = {f["name"] for f in functions(house) if "lock_timeout=5s" in (f["proconfig"] or [])}
    names = "claim commit_batch fail complete complete_all complete_and_claim heartbeat reap release"
    workers = {f"public.worker_{name}" for name in names.split()}
    locking = {
        f["name"]
        for f in functions(house)
        if re.search(r"for (no key )?(update|share)\b(?! skip locked)|\bupdate app\.|\bon conflict \(", f["prosrc"])
    }
    # A row of the same transaction, rows under the execution's lock, a caller that sets it, and rows that skip locks.
    unbounded = {
        "app.complete_delivery", "app.copy_secret_for_check", "app.insert_new_records", "app.lock_leased_execution",
        "app.touch_api_key", "app.update_records", "app.upsert_records",
    }  # fmt: skip
    assert locking - unbounded <= bounded, "write `set lock_timeout = '5s'` in these functions' files"
    assert workers <= bounded


def test_everything_belongs_to_the_role_of_the_migrations(house: Database) -> None:
    owners = house.all(
        "select distinct relowner::regrole::text as owner from pg_class where relnamespace " + OURS + " union"
        " select proowner::regrole::text from pg_proc where pronamespace " + OURS
    )
    assert owners == [{"owner": "postgres"}]


def test_every_table_has_row_level_security(house: Database) -> None:
    assert names(house, "relkind in ('r', 'p') and not relrowsecurity") == []


def test_every_view_asks_as_its_caller(house: Database) -> None:
    assert names(house, "relkind in ('v', 'm') and not coalesce(reloptions @> '{security_invoker=true}', false)") == []


def names(house: Database, condition: str) -> list[str]:
    rows = house.all(f"select oid::regclass::text as name from pg_class where relnamespace {OURS} and {condition}")
    return [row["name"] for row in rows]


@pytest.mark.parametrize("who", ["anon", "authenticated", "service_role"])
def test_no_view_can_be_written(house: Database, who: str) -> None:
    writable = house.all(
        "select c.oid::regclass, p from pg_class as c, unnest(array['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) as p"
        " where relkind in ('v', 'm') and relnamespace " + OURS + " and has_table_privilege(%s, c.oid, p)",
        (who,),
    )
    assert writable == []


def test_every_policy_asks_for_the_agency_once_and_for_nothing_else(house: Database) -> None:
    policies = house.all("select * from pg_policies where schemaname in ('app', 'public')")
    allowed = {
        **dict.fromkeys({policy["tablename"] for policy in policies}, f"(agency_id = {THEIR_AGENCY})"),
        "agencies": f"(id = {THEIR_AGENCY})",
        # Within an agency everybody's answers are their own.
        "idempotency_keys": f"((agency_id = {THEIR_AGENCY}) AND (actor = ( SELECT (app.caller()).actor AS actor)))",
        "users": "(id = ( SELECT identity.user_id\n"
        "   FROM app.identify() identity(user_id, api_key_id, agency_id, is_live)\n  WHERE identity.is_live))",
    }
    for policy in policies:
        assert (policy["permissive"], policy["roles"]) == ("PERMISSIVE", ["authenticated"]), policy["policyname"]
        expressions = {policy["qual"], policy["with_check"]} - {None}
        assert expressions == {allowed[policy["tablename"]]}, policy["policyname"]


def test_every_table_that_a_user_may_read_has_a_policy_for_it(house: Database) -> None:
    """Of RLS without a policy nothing is seen: safe, and certainly not meant."""
    without = house.all(
        "select oid::regclass from pg_class as c where relkind in ('r', 'p') and relnamespace " + OURS + " and"
        " has_any_column_privilege('authenticated', oid, 'SELECT')"
        " and not exists (select from pg_policy where polrelid = c.oid and polcmd in ('r', '*'))"
    )
    assert without == []


def foreign_keys(house: Database) -> list[dict[str, Any]]:
    return house.all(
        "select conname, conrelid, confrelid, conkey, confrelid::regclass::text as target, confdeltype,"
        " array(select attname::text from unnest(conkey) with ordinality as k (n, i) join pg_attribute"
        "  on attrelid = conrelid and attnum = n order by i) as own,"
        " array(select attname::text from unnest(confkey) with ordinality as k (n, i) join pg_attribute"
        "  on attrelid = confrelid and attnum = n order by i) as theirs,"
        " exists (select from pg_attribute where attrelid = conrelid and attname = 'agency_id')"
        "  and exists (select from pg_attribute where attrelid = confrelid and attname = 'agency_id') as of_tenants"
        " from pg_constraint where contype = 'f' and connamespace " + OURS
    )


def test_foreign_keys_between_tenants_carry_the_agency(house: Database) -> None:
    between = [key for key in foreign_keys(house) if key["of_tenants"]]
    assert between != []
    for key in between:
        assert ("agency_id", "agency_id") in zip(key["own"], key["theirs"], strict=True), key["conname"]


def test_every_foreign_key_is_indexed(house: Database) -> None:
    """Else each delete or key change of its target reads the whole table, and holds its locks for as long."""
    prefixes = defaultdict(set)
    for index in house.all("select indrelid, indkey::int2[] as columns from pg_index where indisvalid"):
        for length in range(1, len(index["columns"]) + 1):
            prefixes[index["indrelid"]].add(frozenset(index["columns"][:length]))
    bare = [key["conname"] for key in foreign_keys(house) if frozenset(key["conkey"]) not in prefixes[key["conrelid"]]]
    assert bare == []


def test_nothing_but_a_users_row_and_what_an_execution_did_is_deleted_by_cascade(house: Database) -> None:
    cascades = {key["conname"] for key in foreign_keys(house) if key["confdeltype"] == "c"}
    assert cascades == {
        "users_id_fkey",
        "bulk_actions_agency_id_execution_id_fkey",
        "bulk_action_items_agency_id_execution_id_fkey",
        "deliveries_agency_id_execution_id_fkey",
        "execution_resources_agency_id_execution_id_fkey",
    }


def test_a_heartbeat_touches_no_index(house: Database) -> None:
    for column in ("lease_expires_at", "checkpoint", "progress", "records", "seq", "attempts"):
        indexes = house.all(
            "select indexdef from pg_indexes where tablename = 'executions' and indexdef ~ %s", (column,)
        )
        assert indexes == [], column


def function_files() -> list[Path]:
    return [file for file in schema.declared() if "create or replace function" in file.read_text()]


@pytest.mark.parametrize("file", function_files(), ids=lambda file: file.stem)
def test_a_file_holds_the_function_of_its_name_and_its_grants(file: Path) -> None:
    name = ("public" if file.parent.name == "public" else "app") + "." + re.sub(r"^\d+_", "", file.stem)
    shape = (
        rf"(--.*\n)+"
        rf"create or replace function {name}\((.|\n)*?\nas \$\$\n(.|\n)*?\$\$;\n\n"
        rf"revoke all on function {name} from public(, anon, authenticated, service_role)?;\n"
        rf"(grant execute on function {name} to [a-z_, ]+;\n)?"
    )
    text = file.read_text()
    assert re.fullmatch(shape, text)
    assert text.count("create or replace function") == 1


def test_the_apis_functions_are_those_in_folders_called_public(house: Database) -> None:
    declared = {f"public.{file.stem}" for file in function_files() if file.parent.name == "public"}
    assert declared == {f["name"] for f in functions(house) if f["name"].startswith("public.")}
