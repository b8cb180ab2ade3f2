"""The baseline adopts a project's own public.users and public.agencies under conditions, and never alters them."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row

from functions._build import baseline
from functions._build.dump import built, dump_table
from functions._local import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from functions._local.postgres import Postgres

pytestmark = pytest.mark.sql

BASELINE = schema.SQL / "migrations" / baseline.NAME

# Tables that meet every condition. Nothing else about them is as ours are.
AGENCIES = """
create table public.agencies (id uuid unique, title text, brand_colour text);
alter table public.agencies enable row level security;
"""
USERS = """
create table public.users (
  id uuid primary key references auth.users, agency_id uuid references public.agencies (id),
  full_name text, "avatar URL" text);
alter table public.users enable row level security;
"""
REVOKED = """
revoke all on public.users, public.agencies from anon, authenticated;
grant select on public.users to authenticated;
grant update (full_name, "avatar URL") on public.users to authenticated;
"""
GOOD = AGENCIES + USERS + REVOKED

# As Supabase's guide for user profiles sets them up: table grants by default, and one policy per verb.
STANDARD_PROFILES = """
create table public.agencies (id uuid primary key default gen_random_uuid(), title text);
alter table public.agencies enable row level security;
create table public.users (
  id uuid not null references auth.users on delete cascade primary key,
  agency_id uuid references public.agencies,
  updated_at timestamptz, username text unique, full_name text, website text);
alter table public.users enable row level security;
create policy "Public profiles are viewable by everyone." on public.users for select using (true);
create policy "Users can insert their own profile." on public.users
  for insert with check ((select auth.uid()) = id);
create policy "Users can update own profile." on public.users for update using ((select auth.uid()) = id);
"""


class AdoptingProject:
    """A Supabase-like database in which the project has created tables before the baseline."""

    def __init__(self, url: str) -> None:
        self.connection: psycopg.Connection[dict[str, Any]] = psycopg.connect(
            url, autocommit=True, row_factory=dict_row
        )
        self.connection.execute("set role postgres")

    def run(self, statements: str) -> None:
        self.connection.execute(statements.encode())

    def push(self) -> None:
        """Applies the baseline in a transaction, as the Supabase CLI does."""
        with self.connection.transaction():
            self.connection.execute(BASELINE.read_bytes())

    def error(self) -> str:
        """The message with which the baseline's first statement stops; nothing is changed then."""
        with pytest.raises(psycopg.errors.RaiseException) as caught:
            self.push()
        assert not self.all("select from pg_namespace where nspname = 'app'")
        return caught.value.diag.message_primary or ""

    def repairs(self) -> str:
        """What the error prints below its first line."""
        return self.error().partition("\n")[2]

    def all(self, query: str, parameters: Any = None) -> list[dict[str, Any]]:
        return self.connection.execute(query, parameters).fetchall()

    @contextlib.contextmanager
    def calling_as(self, role: str, claims: dict[str, Any]) -> Iterator[None]:
        with self.connection.transaction():
            self.connection.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(claims),))
            self.connection.execute(f"set local role {role}")
            yield


@pytest.fixture
def project_url(postgres: Postgres) -> Iterator[str]:
    with built(postgres, []) as name:
        yield postgres.url(name)


@pytest.fixture
def project(project_url: str) -> Iterator[AdoptingProject]:
    made = AdoptingProject(project_url)
    with contextlib.closing(made.connection):
        yield made


def test_baseline__fresh_project(project: AdoptingProject) -> None:
    project.push()
    assert project.all("select * from app.check_adopted_tables()") == []
    [users] = project.all("select obj_description('public.users'::regclass) as comment")
    assert users["comment"] == baseline.OWN_TABLE_COMMENT


def test_baseline__good_tables_stay_as_they_are(project: AdoptingProject, project_url: str) -> None:
    project.run(GOOD)
    before = [dump_table(project_url, table) for table in baseline.ADOPTABLE]
    project.push()
    assert [dump_table(project_url, table) for table in baseline.ADOPTABLE] == before


def test_baseline__only_users_adopted(project: AdoptingProject) -> None:
    project.run("create table public.users (id uuid primary key references auth.users, agency_id uuid);")
    project.run(
        "alter table public.users enable row level security; revoke all on public.users from anon, authenticated;"
    )
    project.push()
    comments = project.all(
        "select relname, obj_description(oid) as comment from pg_class where relkind = 'r'"
        " and relnamespace = 'public'::regnamespace order by relname"
    )
    assert [row["comment"] for row in comments] == [baseline.OWN_TABLE_COMMENT, None]


def test_baseline__only_agencies_adopted(project: AdoptingProject) -> None:
    project.run(AGENCIES)
    project.push()
    project.run("insert into public.agencies values (gen_random_uuid(), 'North', 'red')")
    project.run("insert into app.connections (agency_id, kind, name) select id, 'records', 'R' from public.agencies")


def test_adopted_project__works_end_to_end(project: AdoptingProject) -> None:
    """A user of an adopted table starts a sync, a worker claims it, and the user cancels it."""
    project.run(GOOD)
    project.push()
    agency, user = str(uuid.uuid4()), str(uuid.uuid4())
    project.run("reset role")
    project.connection.execute("insert into auth.users (id) values (%s)", (user,))
    project.connection.execute("insert into public.agencies values (%s, 'North', 'red')", (agency,))
    project.connection.execute("insert into public.users values (%s, %s, 'Ada')", (user, agency))
    [connection] = project.all(
        "insert into app.connections (agency_id, kind, name, config) values"
        " (%s, 'http', 'C', '{\"resources\": {\"flights\": {}}}') returning id",
        (agency,),
    )
    member = {"sub": user, "role": "authenticated"}
    with project.calling_as("authenticated", member):
        [started] = project.all(
            "select public.start_historical_sync(%s, '2013-01-01', '2013-01-31') as job", (connection["id"],)
        )
    with project.calling_as("service_role", {"role": "service_role"}):
        [claimed] = project.all("""select public.worker_claim('w', '["historical_sync"]') as executions""")
        [reaped] = project.all("select public.worker_reap() as counts")
    assert [execution["agency_id"] for execution in claimed["executions"]] == [agency]
    assert "warnings" not in reaped["counts"]
    with project.calling_as("authenticated", member):
        [cancelled] = project.all("select public.cancel_sync_job(%s, 'enough') as job", (started["job"]["job_id"],))
    assert cancelled["job"]["status"] == "cancelled"


def test_standard_profiles__rejected_with_the_exact_statements(project: AdoptingProject) -> None:
    project.run(STANDARD_PROFILES)
    others = "updated_at, username, full_name, website"
    assert project.repairs().splitlines() == [
        "-- anon, authenticated may insert id and agency_id of public.users, through a grant on the table.",
        "revoke insert on public.users from anon, authenticated;",
        f"grant insert ({others}) on public.users to anon, authenticated;",
        "-- anon, authenticated may update id and agency_id of public.users, through a grant on the table.",
        "revoke update on public.users from anon, authenticated;",
        f"grant update ({others}) on public.users to anon, authenticated;",
    ]


def test_standard_profiles__accepted_after_these_statements(project: AdoptingProject) -> None:
    project.run(STANDARD_PROFILES)
    project.run(project.repairs())
    project.push()
    user = str(uuid.uuid4())
    project.run("reset role")
    project.connection.execute("insert into auth.users (id) values (%s)", (user,))
    project.connection.execute("insert into public.users (id) values (%s)", (user,))
    with project.calling_as("authenticated", {"sub": user, "role": "authenticated"}):
        assert project.connection.execute("update public.users set full_name = 'Ada'").rowcount == 1
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        project.calling_as("authenticated", {"sub": user, "role": "authenticated"}),
    ):
        project.connection.execute("update public.users set agency_id = gen_random_uuid()")


# One condition violated at a time: what the project did, and the statement that repairs it.
VIOLATIONS = {
    "users without row-level security": (
        "alter table public.users disable row level security",
        "alter table public.users enable row level security;",
    ),
    "agencies without row-level security": (
        "alter table public.agencies disable row level security",
        "alter table public.agencies enable row level security;",
    ),
    "users.id not unique": (
        "alter table public.users drop constraint users_pkey",
        "alter table public.users add unique (id);",
    ),
    "users.id unique for some rows only": (
        (
            "alter table public.users drop constraint users_pkey;"
            " create unique index on public.users (id) where full_name is not null"
        ),
        "alter table public.users add unique (id);",
    ),
    "users.id unique together with another column": (
        "alter table public.users drop constraint users_pkey; alter table public.users add unique (id, full_name)",
        "alter table public.users add unique (id);",
    ),
    "users.id checked at commit": (
        (
            "alter table public.users drop constraint users_pkey;"
            " alter table public.users add unique (id) deferrable initially deferred"
        ),
        "alter table public.users add unique (id);",
    ),
    "users.id references nothing": (
        "alter table public.users drop constraint users_id_fkey",
        "alter table public.users add foreign key (id) references auth.users (id) on delete cascade;",
    ),
    "users.id references auth.users without validation": (
        (
            "alter table public.users drop constraint users_id_fkey;"
            " alter table public.users add foreign key (id) references auth.users not valid"
        ),
        "alter table public.users add foreign key (id) references auth.users (id) on delete cascade;",
    ),
    "users.id is text": (
        "alter table public.users drop constraint users_id_fkey, alter column id type text",
        "alter table public.users alter column id type uuid using id::text::uuid;",
    ),
    "users.agency_id is text": (
        "alter table public.users drop constraint users_agency_id_fkey, alter column agency_id type text",
        "alter table public.users alter column agency_id type uuid using agency_id::text::uuid;",
    ),
    "users.agency_id is missing": (
        "alter table public.users drop column agency_id",
        "alter table public.users add column agency_id uuid;",
    ),
    "agencies.id not unique": (
        (
            "alter table public.users drop constraint users_agency_id_fkey;"
            " alter table public.agencies drop constraint agencies_id_key"
        ),
        "alter table public.agencies add unique (id);",
    ),
    "agencies.id is text": (
        (
            "alter table public.users drop constraint users_agency_id_fkey;"
            " alter table public.agencies alter column id type text"
        ),
        "alter table public.agencies alter column id type uuid using id::text::uuid;",
    ),
    "update by a table grant to authenticated": (
        "grant update on public.users to authenticated",
        (
            "revoke update on public.users from authenticated;\n"
            'grant update (full_name, "avatar URL") on public.users to authenticated;'
        ),
    ),
    "insert by a table grant to anon": (
        "grant insert on public.users to anon",
        'revoke insert on public.users from anon;\ngrant insert (full_name, "avatar URL") on public.users to anon;',
    ),
    "update by a table grant to PUBLIC": (
        "grant update on public.users to public",
        'revoke update on public.users from public;\ngrant update (full_name, "avatar URL") on public.users to public;',
    ),
    "update of agency_id by a column grant": (
        "grant update (full_name, agency_id) on public.users to authenticated",
        "revoke update (agency_id) on public.users from authenticated;",
    ),
    "update of id by a column grant": (
        "grant update (id) on public.users to authenticated",
        "revoke update (id) on public.users from authenticated;",
    ),
    "insert of agency_id by a column grant to PUBLIC": (
        "grant insert (agency_id) on public.users to public",
        "revoke insert (agency_id) on public.users from public;",
    ),
    "insert of id by a column grant to anon": (
        "grant insert (id) on public.users to anon",
        "revoke insert (id) on public.users from anon;",
    ),
}


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_condition__violated_alone(project: AdoptingProject, violation: str) -> None:
    statement, repair = VIOLATIONS[violation]
    project.run(GOOD)
    project.run(statement)
    repairs = project.repairs()
    assert [line for line in repairs.splitlines() if not line.startswith("--")][: repair.count("\n") + 1] == (
        repair.splitlines()
    )
    project.run(repairs)
    project.push()


@pytest.fixture
def members(project: AdoptingProject) -> Iterator[str]:
    """A role whose privileges `authenticated` has. Roles belong to the server, so it goes with the test."""
    grant = "grant adoption_members to authenticated with inherit true"
    if project.connection.info.server_version < 160000:
        grant = "alter role authenticated inherit; grant adoption_members to authenticated"
    project.run(f"reset role; create role adoption_members; {grant}; set role postgres")
    yield "adoption_members"
    project.run(
        "reset role; drop owned by adoption_members; drop role adoption_members; alter role authenticated noinherit"
    )


def test_condition__granted_through_another_role(project: AdoptingProject, members: str) -> None:
    project.run(GOOD)
    project.run(f"grant update on public.users to {members}")
    project.run(project.repairs())
    project.push()


def test_condition__users_is_a_view(project: AdoptingProject) -> None:
    project.run("create table public.people (id uuid primary key, agency_id uuid);")
    project.run("create view public.users as select * from public.people")
    assert "-- public.users is not a table.\n-- Change this by hand." in project.error()


CHILD_TABLES = {
    "partitions": (
        "create table public.users (id uuid primary key references auth.users, agency_id uuid)"
        " partition by hash (id); create table public.users_0 partition of public.users"
        " for values with (modulus 1, remainder 0);"
    ),
    "child table": (
        "create table public.users (id uuid primary key references auth.users, agency_id uuid);"
        " create table public.staff () inherits (public.users);"
    ),
}


@pytest.mark.parametrize("tables", CHILD_TABLES)
def test_condition__users_has_other_tables_below_it(project: AdoptingProject, tables: str) -> None:
    project.run(CHILD_TABLES[tables])
    project.run(
        "alter table public.users enable row level security; revoke all on public.users from anon, authenticated"
    )
    assert "-- public.users has partitions or child tables" in project.error()


def test_condition__agency_id_is_generated(project: AdoptingProject) -> None:
    project.run(
        "create table public.users (id uuid primary key references auth.users, profile jsonb,"
        " agency_id uuid generated always as ((profile ->> 'agency_id')::uuid) stored);"
        " alter table public.users enable row level security; revoke all on public.users from anon, authenticated;"
        " grant update (profile) on public.users to authenticated"
    )
    assert "-- public.users.agency_id is generated from other columns" in project.error()


def test_condition__users_writable_through_a_view(project: AdoptingProject) -> None:
    project.run(GOOD)
    project.run("create view public.profiles as select id, agency_id, full_name from public.users")
    assert "alter view profiles set (security_invoker = true);" in project.repairs().replace(
        "public.profiles", "profiles"
    )
    project.run(project.repairs())
    project.push()


def test_baseline__function_of_the_project_has_one_of_our_names(project: AdoptingProject) -> None:
    project.run("create function public.cancel_sync_job(page int) returns int language sql as 'select 1'")
    assert "cancel_sync_job(integer)" in project.error()


PRIVILEGES = """
select c.oid::regclass::text as name, acl.grantee::regrole::text as role, acl.privilege_type as privilege
from pg_class as c, aclexplode(c.relacl) as acl where c.relnamespace = 'app'::regnamespace
union all
select p.oid::regprocedure::text, acl.grantee::regrole::text, acl.privilege_type
from pg_proc as p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as acl
where p.pronamespace in ('app'::regnamespace, 'public'::regnamespace)
order by 1, 2, 3
"""


def test_baseline__default_privileges_of_the_project_reach_nothing_of_ours(
    postgres: Postgres, project: AdoptingProject
) -> None:
    project.run("alter default privileges grant all on tables to anon, authenticated, service_role")
    project.run("alter default privileges grant all on functions to public, anon, authenticated, service_role")
    project.push()
    with built(postgres, [BASELINE]) as name, psycopg.connect(postgres.url(name), row_factory=dict_row) as usual:
        assert project.all(PRIVILEGES) == usual.execute(PRIVILEGES).fetchall()


def test_baseline__older_schema_present(project: AdoptingProject) -> None:
    project.run("create schema app; create table app.executions (id uuid);")
    with pytest.raises(psycopg.errors.RaiseException, match=r"app\.executions already exists.*Use a new project"):
        project.push()


def test_baseline__foreign_app_schema_present(project: AdoptingProject) -> None:
    project.run("create schema app")
    with pytest.raises(psycopg.errors.RaiseException, match='schema "app" already exists and is not ours'):
        project.push()


def test_baseline__preconditions_are_its_first_statement() -> None:
    statements = "".join(line for line in BASELINE.read_text().splitlines(True) if not line.startswith("--")).lstrip()
    assert statements.startswith("do $preconditions$")


def test_reap__reports_what_was_granted_since(project: AdoptingProject) -> None:
    project.run(GOOD)
    project.push()
    project.run("grant update on public.users to authenticated")
    with project.calling_as("service_role", {"role": "service_role"}):
        [reaped] = project.all("select public.worker_reap() as counts")
    assert reaped["counts"]["warnings"] == [
        "authenticated may update id and agency_id of public.users, through a grant on the table."
    ]
