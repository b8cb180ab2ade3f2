"""`make migration`: the next migration is written from what the declared schema has changed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import psycopg
import pytest

from functions._build import baseline, difference, migrations
from functions._build.dump import built, dump
from functions._local import schema

if TYPE_CHECKING:
    from pathlib import Path

    from functions._local.postgres import Postgres

pytestmark = pytest.mark.sql

# A schema in which everything depends on something else.
CONFIG = '[db.migrations]\nschema_paths = ["./schemas/*.sql"]\n'
SCHEMA = {
    "01_things.sql": """
create schema app;
grant usage on schema app to authenticated;
create table app.things (
  id uuid primary key,
  agency_id uuid not null,
  note text,
  spare text,
  name text not null,
  constraint name_is_short check (length(name) <= 100),
  constraint note_is_unique unique (note),
  constraint name_is_unique unique (agency_id, name)
);
create index things_name on app.things (name);
create index things_note on app.things (note);
alter table app.things enable row level security;
grant select on app.things to authenticated;
grant update (name) on app.things to authenticated;
""",
    "02_agency_id.sql": """
create or replace function app.agency_id(setting text)
returns uuid language plpgsql stable set search_path = '' as $$
begin
  return current_setting(setting, true);
end $$;
revoke all on function app.agency_id from public;
grant execute on function app.agency_id to authenticated;
""",
    "03_touch.sql": """
create or replace function app.touch() returns trigger language plpgsql set search_path = '' as $$
begin
  new.name := trim(new.name);
  return new;
end $$;
revoke all on function app.touch from public;
""",
    "04_policies.sql": """
create policy "Own things" on app.things for select to authenticated
  using (agency_id = (select app.agency_id('app.agency')));
create trigger touch before insert on app.things for each row execute function app.touch();
""",
    "05_named_things.sql": """
create view public.named_things with (security_invoker = true) as
select id, name, app.agency_id('app.agency') as mine from app.things where name <> '';
revoke all on public.named_things from public, anon, authenticated, service_role;
grant select on public.named_things to authenticated;
""",
    "06_first_thing.sql": """
create or replace function app.first_thing() returns public.named_things
language plpgsql stable set search_path = '' as $$
begin
  return (select t from public.named_things as t limit 1);
end $$;
revoke all on function app.first_thing from public;
""",
    "07_get_thing.sql": """
create or replace function public.get_thing(thing_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return (select to_jsonb(t) from app.things as t where t.id = thing_id);
end $$;
revoke all on function public.get_thing from public, anon, authenticated, service_role;
grant execute on function public.get_thing to authenticated;
""",
    "08_count_things.sql": """
create or replace function public.count_things("limit" int default 10) returns bigint
language plpgsql stable set search_path = '' as $$
begin
  return (select count(*) from app.things limit "limit");
end $$;
revoke all on function public.count_things from public, anon, authenticated, service_role;
""",
    "09_parts.sql": """
create table app.parts (id int);
""",
    "10_comments.sql": """
comment on view public.named_things is 'Shown';
comment on column app.things.name is 'A name';
comment on function app.touch() is 'Trims';
""",
}


class SqlFolder:
    """A folder like sql/ whose migrations build its declared schema, until the schema is edited."""

    def __init__(self, path: Path, server: Postgres) -> None:
        self.path = path
        self._server = server

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.path / "schemas" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def declare(self, file: str, text: str) -> None:
        (self.path / "schemas" / file).write_text(text)

    def remove(self, file: str) -> None:
        (self.path / "schemas" / file).unlink()

    def migrate(self, name: str = "change") -> str:
        """The complete migration that was written. Built apart from the generator, it makes the declared schema."""
        written = migrations.write_next(name, self._server, self.path)
        assert written
        path, migration = written
        assert migration.missing == []
        with (
            built(self._server, schema.migrations(self.path)) as migrated,
            built(self._server, schema.declared(self.path)) as declared,
        ):
            assert dump(self._server, migrated).splitlines() == dump(self._server, declared).splitlines()
            with psycopg.connect(self._server.url(migrated)) as connection:
                assert difference.overloads(connection) == []
        assert path.read_text().endswith("notify pgrst, 'reload schema';\n")
        return path.read_text()

    def stub(self, name: str = "change") -> tuple[str, str]:
        """The text of a migration that has to be completed by hand, and what is missing."""
        written = migrations.write_next(name, self._server, self.path)
        assert written
        path, migration = written
        assert migration.missing
        with (
            pytest.raises(psycopg.errors.RaiseException, match="not complete"),
            built(self._server, schema.migrations(self.path)),
        ):
            pass
        return path.read_text(), "\n".join(migration.missing)


@pytest.fixture
def folder(tmp_path: Path, postgres: Postgres) -> SqlFolder:
    """The small schema above, with a migration that has landed."""
    (tmp_path / "schemas").mkdir()
    (tmp_path / "migrations").mkdir()
    (tmp_path / "config.toml").write_text(CONFIG)
    made = SqlFolder(tmp_path, postgres)
    for file, text in SCHEMA.items():
        made.declare(file, text)
    (tmp_path / "migrations" / "20200101000000_first.sql").write_text("".join(SCHEMA.values()))
    migrations.freeze(tmp_path)
    return made


@pytest.fixture
def own_folder(tmp_path: Path, postgres: Postgres) -> SqlFolder:
    """A copy of sql/, as if its migrations had landed."""
    path = tmp_path / "sql"
    shutil.copytree(schema.SQL, path)
    if baseline.NAME not in migrations.frozen_hashes(path):
        migrations.write_baseline(path)
    migrations.freeze(path)
    return SqlFolder(path, postgres)


def test_migration__nothing_changed(folder: SqlFolder, postgres: Postgres) -> None:
    assert migrations.write_next("change", postgres, folder.path) is None
    assert len(schema.migrations(folder.path)) == 1


def test_migration__file_name_follows_the_newest(folder: SqlFolder) -> None:
    future = folder.path / "migrations" / "29990101000000_future.sql"
    future.write_text("select 1;")
    migrations.freeze(folder.path)
    folder.edit("03_touch.sql", "trim", "lower")
    folder.migrate("lower_names")
    assert schema.migrations(folder.path)[-1].name == "29990101000001_lower_names.sql"


@pytest.mark.parametrize("name", ["", "Add", "add-priority", "../x", "1st"])
def test_migration__bad_name(folder: SqlFolder, postgres: Postgres, name: str) -> None:
    with pytest.raises(ValueError, match="NAME must be in lower case, such as add_priority"):
        migrations.write_next(name, postgres, folder.path)


def test_function__changed_body_and_settings(folder: SqlFolder) -> None:
    folder.edit("07_get_thing.sql", "select to_jsonb(t)", "select jsonb_build_object('thing', t)")
    folder.edit("08_count_things.sql", "stable set search_path = ''", "volatile set lock_timeout = '5s'")
    text = folder.migrate()
    assert "CREATE OR REPLACE FUNCTION public.get_thing" in text
    assert "CREATE OR REPLACE FUNCTION public.count_things" in text
    assert "DROP" not in text
    assert "GRANT" not in text


def test_function__renamed_argument(folder: SqlFolder) -> None:
    folder.edit("07_get_thing.sql", "thing_id", "wanted")
    text = folder.migrate()
    assert "DROP FUNCTION public.get_thing(uuid);" in text
    assert (
        "REVOKE ALL ON FUNCTION public.get_thing(wanted uuid) FROM public, anon, authenticated, service_role;" in text
    )
    assert "GRANT ALL ON FUNCTION public.get_thing(wanted uuid) TO authenticated;" in text


def test_function__added_argument_with_default(folder: SqlFolder) -> None:
    folder.edit("07_get_thing.sql", "(thing_id uuid)", '(thing_id uuid, "limit" int default 1)')
    assert "DROP FUNCTION public.get_thing(uuid);" in folder.migrate()


def test_function__removed_default(folder: SqlFolder) -> None:
    folder.edit("08_count_things.sql", " default 10", "")
    assert "DROP FUNCTION public.count_things(integer);" in folder.migrate()


def test_function__changed_return_type(folder: SqlFolder) -> None:
    folder.edit("07_get_thing.sql", "returns jsonb", "returns json")
    assert "DROP FUNCTION public.get_thing(uuid);" in folder.migrate()


def test_function__new(folder: SqlFolder) -> None:
    text = SCHEMA["07_get_thing.sql"].replace("get_thing", "find_thing")
    folder.declare("11_find_thing.sql", text)
    assert "REVOKE ALL ON FUNCTION public.find_thing" in folder.migrate()


def test_function__new_and_public(folder: SqlFolder) -> None:
    """A dump does not contain the privileges that Postgres grants by default."""
    text = SCHEMA["07_get_thing.sql"].replace("get_thing", "find_thing").partition("revoke")[0]
    folder.declare(
        "11_find_thing.sql", text + "revoke all on function public.find_thing from anon, authenticated, service_role;"
    )
    folder.migrate()


def test_function__dropped(folder: SqlFolder) -> None:
    folder.remove("07_get_thing.sql")
    assert "DROP FUNCTION public.get_thing(uuid);" in folder.migrate()


def test_function__changed_grants(folder: SqlFolder) -> None:
    folder.edit("07_get_thing.sql", "to authenticated", "to service_role")
    text = folder.migrate()
    assert "CREATE" not in text
    assert "GRANT ALL ON FUNCTION public.get_thing(thing_id uuid) TO service_role;" in text


def test_function__what_depends_on_it_is_created_again(folder: SqlFolder) -> None:
    """A policy, a view and a function whose result is the view's row."""
    for file in ("02_agency_id.sql", "04_policies.sql", "05_named_things.sql"):
        folder.edit(
            file,
            "app.agency_id('app.agency')" if file[1] != "2" else "(setting text)",
            "app.agency_id('app.agency', true)" if file[1] != "2" else "(setting text, maybe boolean)",
        )
    text = folder.migrate()
    order = [
        'DROP POLICY "Own things"',
        "DROP FUNCTION app.first_thing()",
        'DROP VIEW public."named_things"',
        "DROP FUNCTION app.agency_id(text)",
        "CREATE FUNCTION app.agency_id(",
        "CREATE VIEW public.named_things",
        "CREATE FUNCTION app.first_thing",
        'CREATE POLICY "Own things"',
    ]
    assert [statement for statement in order if statement in text] == order


def test_function__dependents_that_did_not_change(folder: SqlFolder) -> None:
    """A new name for an argument changes no text of what depends on the function."""
    folder.edit("02_agency_id.sql", "(setting text)", "(name text)")
    folder.edit("02_agency_id.sql", "current_setting(setting,", "current_setting(name,")
    text = folder.migrate()
    assert 'CREATE POLICY "Own things"' in text
    assert "GRANT SELECT ON TABLE public.named_things TO authenticated;" in text


def test_function__a_default_depends_on_it(folder: SqlFolder) -> None:
    folder.edit("09_parts.sql", "id int", "agency_id uuid default app.agency_id('app.agency')")
    first = folder.path / "migrations" / "20200101000000_first.sql"
    first.write_text("".join(file.read_text() for file in schema.declared(folder.path)))
    (folder.path / migrations.FROZEN).unlink()
    migrations.freeze(folder.path)
    folder.edit("02_agency_id.sql", "(setting text)", "(name text)")
    folder.edit("02_agency_id.sql", "current_setting(setting,", "current_setting(name,")
    assert "default value for column agency_id of table app.parts depends on a function" in folder.stub()[1]


def test_trigger_function__changed_signature(folder: SqlFolder) -> None:
    folder.edit("03_touch.sql", "app.touch", "app.trim_name")
    folder.edit("04_policies.sql", "function app.touch()", "function app.trim_name()")
    folder.edit("10_comments.sql", "function app.touch()", "function app.trim_name()")
    text = folder.migrate()
    assert text.index("DROP TRIGGER") < text.index("DROP FUNCTION app.touch()") < text.index("CREATE TRIGGER")


def test_view__changed_columns(folder: SqlFolder) -> None:
    """Privileges and comments of what is dropped are written again."""
    folder.edit("05_named_things.sql", "select id, name,", "select name, id,")
    text = folder.migrate()
    assert "DROP VIEW" in text
    assert "GRANT SELECT ON TABLE public.named_things TO authenticated;" in text
    assert "COMMENT ON VIEW public.named_things IS 'Shown';" in text


def test_view__added_column(folder: SqlFolder) -> None:
    folder.edit("05_named_things.sql", "as mine from", "as mine, agency_id from")
    text = folder.migrate()
    assert "CREATE OR REPLACE VIEW" in text
    assert "DROP" not in text


def test_policy__changed(folder: SqlFolder) -> None:
    folder.edit("04_policies.sql", "for select", "for all")
    assert 'DROP POLICY "Own things" ON app."things";' in folder.migrate()


def test_trigger__changed(folder: SqlFolder) -> None:
    folder.edit("04_policies.sql", "before insert", "before insert or update")
    assert 'DROP TRIGGER "touch" ON app."things";' in folder.migrate()


def test_table__new(folder: SqlFolder) -> None:
    folder.declare(
        "11_parts.sql",
        """
create table public.parts (
  id bigint generated always as identity primary key,
  thing_id uuid not null references app.things,
  agency_id uuid default app.agency_id('app.agency'),
  check (id > 0)
);
create index on public.parts (thing_id);
alter table public.parts enable row level security;
create policy "Own parts" on public.parts to authenticated using (agency_id = (select app.agency_id('app.agency')));
revoke all on public.parts from public, anon, authenticated, service_role;
grant select (id), update (thing_id) on public.parts to authenticated;
comment on table public.parts is 'It''s what a thing is made of.';
comment on column public.parts.id is 'A number';
""",
    )
    folder.migrate()


def test_table__added_columns(folder: SqlFolder) -> None:
    folder.edit(
        "01_things.sql",
        "  constraint name_is_short",
        """  "order" int not null default 0,
  label text collate "C",
  size numeric(10, 2) check (size > 0),
  shown text generated always as (name || '!') stored,
  constraint name_is_short""",
    )
    assert 'ALTER TABLE app."things" ADD COLUMN "order" integer DEFAULT 0 NOT NULL;' in folder.migrate()


def test_table__added_column_grants(folder: SqlFolder) -> None:
    folder.edit("01_things.sql", "grant update (name)", "grant insert (id), update (name, agency_id)")
    assert "GRANT UPDATE(agency_id) ON TABLE app.things TO authenticated;" in folder.migrate()


def test_table__changed_check(folder: SqlFolder) -> None:
    folder.edit("01_things.sql", "<= 100", "<= 200")
    text = folder.migrate()
    assert 'DROP CONSTRAINT "name_is_short"' in text


def test_index__new_changed_and_dropped(folder: SqlFolder) -> None:
    folder.edit("01_things.sql", "on app.things (name)", "on app.things (name desc)")
    folder.edit("01_things.sql", "index things_note on app.things", "unique index things_agency on app.things")
    text = folder.migrate()
    assert 'DROP INDEX app."things_note";' in text
    assert "CREATE UNIQUE INDEX things_agency" in text


def test_constraint__new_changed_and_dropped(folder: SqlFolder) -> None:
    folder.edit("01_things.sql", "note_is_unique unique (note)", "id_is_unique unique (id, agency_id)")
    folder.edit("01_things.sql", "unique (agency_id, name)", "unique (name)")
    text = folder.migrate()
    assert 'ALTER TABLE app."things" DROP CONSTRAINT "note_is_unique";' in text


def test_comment__new_changed_and_dropped(folder: SqlFolder) -> None:
    folder.edit("10_comments.sql", "'Trims'", "E'Trims\\nnames; IS ''not'' more'")
    folder.edit("10_comments.sql", "comment on column app.things.name is 'A name';", "comment on schema app is 'Own';")
    text = folder.migrate()
    assert "COMMENT ON COLUMN app.things.name IS NULL;" in text


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("  spare text,\n", "", "columns have changed (spare)"),
        ("  spare text,", "  spare varchar,", "columns have changed (spare)"),
        ("  spare text,", "  spare text default '',", "columns have changed (spare)"),
        ("  note text,\n  spare text,", "  spare text,\n  note text,", "columns have changed (their order)"),
        ("  note text,", "  label text,\n  note text,", "Only new columns at the end of the table are added."),
        (
            "  constraint name_is_short",
            "  size int not null,\n  constraint name_is_short",
            "size is not null and has no default",
        ),
        ("\n);", "\n) with (fillfactor = 70);", "storage options have changed"),
        ("alter table app.things enable row level security;", "", "row security app.things is no longer declared"),
    ],
)
def test_table__what_a_migration_does_not_decide_alone(folder: SqlFolder, old: str, new: str, missing: str) -> None:
    folder.edit("01_things.sql", old, new)
    text, found = folder.stub()
    assert missing in found
    assert missing in text


def test_type_and_sequence__new(folder: SqlFolder) -> None:
    folder.declare("11_mood.sql", "create type app.mood as enum ('good'); create sequence app.numbers;")
    folder.migrate()


def test_rows__new(folder: SqlFolder) -> None:
    folder.declare(
        "11_rows.sql", "insert into app.things (id, agency_id, name) values (md5('')::uuid, md5('')::uuid, 'T');"
    )
    assert folder.stub()[1] == "table data app.things is new."


def test_table__dropped(folder: SqlFolder, postgres: Postgres) -> None:
    """The stub is complete once the missing statement is written."""
    folder.remove("09_parts.sql")
    text, missing = folder.stub()
    assert missing == "table app.parts is no longer declared. Dropping it loses what it holds."
    assert missing in text
    schema.migrations(folder.path)[-1].write_text("drop table app.parts;\n")
    assert migrations.from_difference(postgres, folder.path) is None


def test_overload__rejected(folder: SqlFolder) -> None:
    text = SCHEMA["07_get_thing.sql"].replace("(thing_id uuid)", "(thing_id text)").replace("t.id =", "t.name =")
    folder.declare("11_overload.sql", text.replace("function public.get_thing ", "function public.get_thing(text) "))
    assert "function public.get_thing has overloads." in folder.stub()[1]


def test_own_schema__renamed_argument_of_a_function_in_every_policy(own_folder: SqlFolder) -> None:
    """A policy on public.users depends on app.identify(): in a project that brought the table it is left out."""
    [file] = [f for f in schema.declared(own_folder.path) if "function app.identify(" in f.read_text()]
    file.write_text(file.read_text().replace("out user_id uuid,", "out user_id uuid, out at timestamptz,"))
    text = own_folder.migrate()
    assert 'CREATE POLICY "Users see themselves"' in text
    assert text.index("$unless_adopted$") < text.index('DROP POLICY "Users see themselves"')


def test_own_schema__adopted_tables_stay_as_they_are(own_folder: SqlFolder, postgres: Postgres) -> None:
    [file] = [f for f in schema.declared(own_folder.path) if "create table public.users" in f.read_text()]
    statements = """
alter table public.users add column locale text;
create index users_locale on public.users (locale);
alter table public.users add constraint locale_is_short check (length(locale) < 20);
grant update (locale) on public.users to authenticated;
comment on column public.users.locale is 'BCP 47';
"""
    file.write_text(file.read_text() + statements)
    own_folder.migrate()
    adopted = """
create table public.users (id uuid primary key references auth.users, agency_id uuid);
alter table public.users enable row level security;
revoke all on public.users from anon, authenticated;
"""
    brought = own_folder.path / "brought.sql"
    brought.write_text(adopted)
    with (
        built(postgres, [brought, *schema.migrations(own_folder.path)]) as name,
        psycopg.connect(postgres.url(name)) as connection,
    ):
        columns = connection.execute(
            "select attname from pg_attribute where attrelid = 'public.users'::regclass and attnum > 0"
        ).fetchall()
    assert columns == [("id",), ("agency_id",)]
