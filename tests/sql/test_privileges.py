"""Privileges, read from the catalog. A new object has none until its file grants them, and RELATIONS lists them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from functions._local import schema
from functions._shared import registry
from tests.support.database import SqlError
from tests.support.definers import CALLERS, DEFINERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.support.database import Database

pytestmark = [pytest.mark.sql, pytest.mark.conventions]

# The privileges of each role on each object. Columns are named if a privilege is not on the whole table.
SCHEMAS = {
    "app": {"anon": "USAGE", "authenticated": "USAGE", "service_role": "USAGE"},
    "public": {"public": "USAGE", "anon": "USAGE", "authenticated": "USAGE", "service_role": "USAGE"},
}
RELATIONS = {
    "app.api_keys": {
        # The hash can be written and never read.
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
    # The agency and the place, never the value.
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
# Each function's file declares the roles that may execute it. The rules below hold for every function, with these
# exceptions.
AND_SERVERS = ["anon", *CALLERS]  # an agency's server calls as anon, with its API key
# API keys are managed by users, never by a key or a server.
USERS_ONLY = {"public.create_api_key", "public.list_api_keys", "public.revoke_api_key"}
API_WITHOUT_KEY = {
    f"public.{endpoint.rpc}": CALLERS for endpoint in registry.endpoints() if not endpoint.error_format.api_keys
} | {name: ["authenticated"] for name in USERS_ONLY}
# The functions of `app` that anon may execute, because they identify the caller of a request.
APP_FOR_ANON = {"app.agency_key", "app.caller", "app.identify", "app.raise_error", "app.touch_api_key"}
OWNER_ONLY = {"app.purge_executions", "app.require_table_owner"}  # and all trigger functions
# SECURITY DEFINER functions and the roles that may execute them: each bypasses row-level security.
THEIR_AGENCY = "( SELECT app.agency_id() AS agency_id)"

ROLES = ("public", "anon", "authenticated", "service_role")
OURS = "in ('app'::regnamespace, 'public'::regnamespace)"


@pytest.fixture(scope="module")
def catalog(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    """One database for all tests, because they only read the catalog."""
    with clone() as made:
        yield made


def test_schemas__privileges(catalog: Database) -> None:
    rows = catalog.all(
        "select nspname as name, role, privilege from pg_namespace, unnest(%s::text[]) as role,"
        " unnest(array['USAGE', 'CREATE']) as privilege"
        " where oid " + OURS + " and has_schema_privilege(role, oid, privilege) order by privilege",
        (list(ROLES),),
    )
    assert matrix(rows, SCHEMAS) == SCHEMAS, (
        "No role may create objects in app or public. Remove the grant from sql/schemas, or change SCHEMAS in"
        " tests/sql/test_privileges.py"
    )


def test_relations__privileges(catalog: Database) -> None:
    everything = catalog.all(
        "select oid, nspname || '.' || relname as name, relkind from"
        " (select c.*, n.nspname from pg_class as c join pg_namespace as n on n.oid = relnamespace) as c"
        " where relkind in ('r', 'p', 'v', 'm', 'S', 'f') and relnamespace " + OURS
    )
    found: dict[str, dict[str, str]] = {}
    for relation in everything:
        allowed = {role: relation_privileges(catalog, relation["oid"], relation["relkind"], role) for role in ROLES}
        found[relation["name"]] = {role: privileges for role, privileges in allowed.items() if privileges}
    changed = sorted(name for name in found.keys() | RELATIONS.keys() if found.get(name) != RELATIONS.get(name))
    assert found == RELATIONS, "\n".join(
        f"{name}: change the grants in its file of sql/schemas, or RELATIONS in tests/sql/test_privileges.py:\n   "
        + (f' "{name}": {found[name]},' if name in found else " remove its line")
        for name in changed
    )


def relation_privileges(catalog: Database, oid: int, kind: str, role: str) -> str:
    if kind == "S":
        rows = catalog.all(
            "select p from unnest(array['USAGE', 'SELECT', 'UPDATE']) as p"
            " where has_sequence_privilege(%s, %s::oid, p)",
            (role, oid),
        )
        return " ".join(row["p"] for row in rows)
    kinds = ["DELETE", "INSERT", "REFERENCES", "SELECT", "TRIGGER", "TRUNCATE", "UPDATE"]
    kinds += ["MAINTAIN"] if catalog.admin.info.server_version >= 170000 else []
    whole = catalog.all(
        "select p from unnest(%s::text[]) as p where has_table_privilege(%s, %s::oid, p)", (kinds, role, oid)
    )
    names = [row["p"] for row in whole]
    parts = catalog.all(
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


def functions(catalog: Database) -> list[dict[str, Any]]:
    return catalog.all(
        "select p.*, n.nspname || '.' || p.proname as name, p.oid::regprocedure::text as signature,"
        " array(select role from unnest(%s::text[]) as role"
        "  where has_function_privilege(role, p.oid, 'EXECUTE')) as roles,"
        " p.prorettype = 'trigger'::regtype as returns_trigger"
        " from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace where p.pronamespace " + OURS,
        (list(ROLES),),
    )


def test_functions__no_overloads(catalog: Database) -> None:
    """PostgREST cannot choose between two functions with one name, and the checks below go by name."""
    counted = Counter(f["name"] for f in functions(catalog))
    assert [name for name, count in counted.items() if count > 1] == [], "rename one of these functions, and its file"


def test_functions__roles_are_those_of_the_file(catalog: Database) -> None:
    """A Supabase project grants everything new in `public` to every role, so each file must revoke it."""
    granted = {f["name"]: f["roles"] for f in functions(catalog)}
    declared = {}
    for file in function_files():
        text = file.read_text()
        [name] = re.findall(r"^create or replace function ([a-z_.0-9]+)", text, re.MULTILINE)
        roles = re.findall(r"^grant execute on function \S+ to ([a-z_, ]+);$", text, re.MULTILINE)
        declared[name] = sorted(roles[0].split(", ")) if roles else []
    found = {name: sorted(roles) for name, roles in granted.items()}
    assert found == declared, "\n".join(
        f"{name} is granted to {found.get(name)}, and its file says {declared.get(name)}. Write `revoke all on function"
        f" {name} from public, anon, authenticated, service_role;` in its file, then the grants."
        for name in found.keys() | declared.keys()
        if found.get(name) != declared.get(name)
    )


def test_functions__roles_by_kind(catalog: Database) -> None:
    for f in functions(catalog):
        name, roles = f["name"], f["roles"]
        if name.startswith("public.worker_"):
            assert roles == ["service_role"], f"{name}: grant a worker's function to service_role alone, in its file"
        elif name.startswith("public."):
            assert roles == API_WITHOUT_KEY.get(name, AND_SERVERS), (
                f"{name} is granted to {roles}. Grant it to {', '.join(API_WITHOUT_KEY.get(name, AND_SERVERS))} in its"
                " file, or change error_format of its endpoint, which decides whether API keys are accepted"
            )
        elif f["returns_trigger"] or name in OWNER_ONLY:
            assert roles == [], f"{name}: remove the grant from its file, because only the owner calls it"
        else:
            assert ("anon" in roles) == (name in APP_FOR_ANON), (
                f"{name} is granted to {roles}. Remove anon in its file, or add the name to APP_FOR_ANON in"
                " tests/sql/test_privileges.py"
            )
            assert roles, (
                f"{name}: no role may execute it. Add a grant to its file, or the name to OWNER_ONLY in"
                " tests/sql/test_privileges.py"
            )


def test_functions__search_path_is_fixed(catalog: Database) -> None:
    """A search path without pg_temp begins with it, so a caller's temporary type would replace pg_catalog's."""
    loose = [
        f["signature"] for f in functions(catalog) if "search_path=pg_catalog, pg_temp" not in (f["proconfig"] or [])
    ]
    assert loose == [], "write `set search_path = pg_catalog, pg_temp` in each function's file"


SHADOWED_TYPES = ("text", "uuid", "jsonb", "bool", "int8", "int4", "timestamptz", "bytea", "interval")


def test_definers__caller_cannot_shadow_a_type(database: Database) -> None:
    """A domain in pg_temp has the name of a type of pg_catalog. Its check must never run as the function's owner."""
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
                assert not isinstance(response, SqlError) or not response.code.startswith("ran as"), (type_, call)


def test_definers__are_listed(catalog: Database) -> None:
    definers = {f["name"]: f["roles"] for f in functions(catalog) if f["prosecdef"]}
    assert definers == DEFINERS, (
        "A SECURITY DEFINER function bypasses row-level security. Make it an invoker, or add a line to DEFINERS in"
        " tests/support/definers.py and a case to tests/sql/test_definers.py"
    )
    of_anon = {f["name"]: f["pronargs"] for f in functions(catalog) if f["prosecdef"] and "anon" in f["roles"]}
    # Both read the request and have no arguments.
    assert of_anon == {"app.identify": 0, "app.touch_api_key": 0}, (
        "Revoke these SECURITY DEFINER functions from anon in their files: only identifying a caller needs one"
    )


def test_functions__api_calls_app_caller_first(catalog: Database) -> None:
    for f in functions(catalog):
        if f["name"].startswith("public.") and "authenticated" in f["roles"]:
            assert re.match(r"\s*declare\s+caller constant app\.caller := app\.caller\(\);", f["prosrc"]), (
                f"{f['name']}: write `caller constant app.caller := app.caller();` as the first declaration in its file"
            )


def test_functions__lock_timeout(catalog: Database) -> None:
    """For every worker call and for all code that locks or changes an existing row, unless it skips locked rows."""
    bounded = {f["name"] for f in functions(catalog) if "lock_timeout=5s" in (f["proconfig"] or [])}
    names = "claim commit_batch fail complete complete_all complete_and_claim heartbeat reap release"
    workers = {f"public.worker_{name}" for name in names.split()}
    locking = {
        f["name"]
        for f in functions(catalog)
        if re.search(r"for (no key )?(update|share)\b(?! skip locked)|\bupdate app\.|\bon conflict \(", f["prosrc"])
    }
    # They lock a row of the same transaction, rows under the execution's lock or rows that are not locked, or their
    # caller sets it.
    unbounded = {
        "app.complete_delivery", "app.copy_secret_for_check", "app.insert_new_records", "app.lock_leased_execution",
        "app.touch_api_key", "app.update_records", "app.upsert_records",
    }  # fmt: skip
    assert locking - unbounded <= bounded, "write `set lock_timeout = '5s'` in these functions' files"
    assert workers <= bounded, f"write `set lock_timeout = '5s'` in the files of {sorted(workers - bounded)}"


def test_objects__owner(catalog: Database) -> None:
    owners = catalog.all(
        "select distinct relowner::regrole::text as owner from pg_class where relnamespace " + OURS + " union"
        " select proowner::regrole::text from pg_proc where pronamespace " + OURS
    )
    assert owners == [{"owner": "postgres"}], "remove `alter … owner to` from sql/schemas: postgres owns everything"


def test_tables__row_level_security(catalog: Database) -> None:
    assert names(catalog, "relkind in ('r', 'p') and not relrowsecurity") == [], (
        "write `alter table … enable row level security;` in the files of these tables"
    )


def test_views__security_invoker(catalog: Database) -> None:
    owned = names(catalog, "relkind in ('v', 'm') and not coalesce(reloptions @> '{security_invoker=true}', false)")
    assert owned == [], "write `with (security_invoker = true)` in these views' files"


def names(catalog: Database, condition: str) -> list[str]:
    rows = catalog.all(f"select oid::regclass::text as name from pg_class where relnamespace {OURS} and {condition}")
    return [row["name"] for row in rows]


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_views__read_only(catalog: Database, role: str) -> None:
    writable = catalog.all(
        "select c.oid::regclass, p from pg_class as c, unnest(array['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) as p"
        " where relkind in ('v', 'm') and relnamespace " + OURS + " and has_table_privilege(%s, c.oid, p)",
        (role,),
    )
    assert writable == [], f"grant only select on these views to {role}, in their files"


def test_policies__agency_only(catalog: Database) -> None:
    policies = catalog.all("select * from pg_policies where schemaname in ('app', 'public')")
    allowed = {
        **dict.fromkeys({policy["tablename"] for policy in policies}, f"(agency_id = {THEIR_AGENCY})"),
        "agencies": f"(id = {THEIR_AGENCY})",
        # Within an agency each caller has its own responses.
        "idempotency_keys": f"((agency_id = {THEIR_AGENCY}) AND (actor = ( SELECT (app.caller()).actor AS actor)))",
        "users": "(id = ( SELECT identity.user_id\n"
        "   FROM app.identify() identity(user_id, api_key_id, agency_id, is_live)\n  WHERE identity.is_live))",
    }
    for policy in policies:
        assert (policy["permissive"], policy["roles"]) == ("PERMISSIVE", ["authenticated"]), (
            f"{policy['policyname']}: create it `to authenticated`, and not as restrictive"
        )
        expressions = {policy["qual"], policy["with_check"]} - {None}
        assert expressions == {allowed[policy["tablename"]]}, (
            f"{policy['policyname']}: compare the row's agency_id with (select app.agency_id()) only, or add the table"
            " to `allowed` in tests/sql/test_privileges.py"
        )


def test_policies__every_readable_table_has_one(catalog: Database) -> None:
    """With row-level security and no policy nothing is visible, which is safe but never intended."""
    without = catalog.all(
        "select oid::regclass from pg_class as c where relkind in ('r', 'p') and relnamespace " + OURS + " and"
        " has_any_column_privilege('authenticated', oid, 'SELECT')"
        " and not exists (select from pg_policy where polrelid = c.oid and polcmd in ('r', '*'))"
    )
    assert without == [], "create a policy for select `to authenticated` in these tables' files"


def foreign_keys(catalog: Database) -> list[dict[str, Any]]:
    return catalog.all(
        "select conname, conrelid, confrelid, conkey, confrelid::regclass::text as target, confdeltype,"
        " array(select attname::text from unnest(conkey) with ordinality as k (n, i) join pg_attribute"
        "  on attrelid = conrelid and attnum = n order by i) as own,"
        " array(select attname::text from unnest(confkey) with ordinality as k (n, i) join pg_attribute"
        "  on attrelid = confrelid and attnum = n order by i) as theirs,"
        " exists (select from pg_attribute where attrelid = conrelid and attname = 'agency_id')"
        "  and exists (select from pg_attribute where attrelid = confrelid and attname = 'agency_id') as of_tenants"
        " from pg_constraint where contype = 'f' and connamespace " + OURS
    )


def test_foreign_keys__include_the_agency(catalog: Database) -> None:
    between = [key for key in foreign_keys(catalog) if key["of_tenants"]]
    assert between != []
    for key in between:
        assert ("agency_id", "agency_id") in zip(key["own"], key["theirs"], strict=True), (
            f"{key['conname']}: begin the foreign key with agency_id on both sides, so that it cannot cross tenants"
        )


def test_foreign_keys__are_indexed(catalog: Database) -> None:
    """Otherwise each delete or key change of its target reads the whole table, and holds its locks meanwhile."""
    prefixes = defaultdict(set)
    for index in catalog.all("select indrelid, indkey::int2[] as columns from pg_index where indisvalid"):
        for length in range(1, len(index["columns"]) + 1):
            prefixes[index["indrelid"]].add(frozenset(index["columns"][:length]))
    bare = [
        key["conname"] for key in foreign_keys(catalog) if frozenset(key["conkey"]) not in prefixes[key["conrelid"]]
    ]
    assert bare == [], "create an index that begins with the columns of these foreign keys"


def test_foreign_keys__cascades(catalog: Database) -> None:
    cascades = {key["conname"] for key in foreign_keys(catalog) if key["confdeltype"] == "c"}
    assert cascades == {
        "users_id_fkey",
        "bulk_actions_agency_id_execution_id_fkey",
        "bulk_action_items_agency_id_execution_id_fkey",
        "deliveries_agency_id_execution_id_fkey",
        "execution_resources_agency_id_execution_id_fkey",
    }, "a cascade deletes rows unseen: remove `on delete cascade`, or add the key in tests/sql/test_privileges.py"


def test_indexes__none_on_heartbeat_columns(catalog: Database) -> None:
    for column in ("lease_expires_at", "checkpoint", "progress", "records", "seq", "attempts"):
        indexes = catalog.all(
            "select indexdef from pg_indexes where tablename = 'executions' and indexdef ~ %s", (column,)
        )
        assert indexes == [], f"drop the index: {column} changes at each heartbeat, which must stay a HOT update"


def function_files() -> list[Path]:
    return [file for file in schema.declared() if "create or replace function" in file.read_text()]


def test_files__one_function_with_its_name_and_grants() -> None:
    wrong = [str(file.relative_to(schema.ROOT)) for file in function_files() if not is_well_formed(file)]
    assert wrong == [], (
        "Each file has a comment, one `create or replace function` with the file's name, in public if its folder is"
        " public/ and else in app, then `revoke all on function … from public` and at most one `grant execute`."
    )


def is_well_formed(file: Path) -> bool:
    name = ("public" if file.parent.name == "public" else "app") + "." + re.sub(r"^\d+_", "", file.stem)
    shape = (
        rf"(--.*\n)+"
        rf"create or replace function {name}\((.|\n)*?\nas \$\$\n(.|\n)*?\$\$;\n\n"
        rf"revoke all on function {name} from public(, anon, authenticated, service_role)?;\n"
        rf"(grant execute on function {name} to [a-z_, ]+;\n)?"
    )
    text = file.read_text()
    return re.fullmatch(shape, text) is not None and text.count("create or replace function") == 1


def test_files__public_folders_hold_the_api(catalog: Database) -> None:
    declared = {f"public.{file.stem}" for file in function_files() if file.parent.name == "public"}
    found = {f["name"] for f in functions(catalog) if f["name"].startswith("public.")}
    assert declared == found, (
        f"move the files of {sorted(declared ^ found)} to a folder public/, or create the functions in the schema app"
    )
