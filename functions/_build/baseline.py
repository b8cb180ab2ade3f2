"""The first migration: a check of the project that it meets, then the whole declared schema.

A project's own public.users and public.agencies are adopted: the baseline checks them and leaves them as they are.
"""

from __future__ import annotations

import re
from textwrap import indent
from typing import TYPE_CHECKING

from functions._local import schema

if TYPE_CHECKING:
    from pathlib import Path

NAME = "20261201000000_baseline.sql"
ADOPTABLE = ("public.agencies", "public.users")
# The comment that the declared schema gives its own tables. An adopted table lacks it.
OWN_TABLE_COMMENT = "Created and managed by the sync control plane."
RELOAD = "notify pgrst, 'reload schema';\n"

_CHECK = "create or replace function app.check_adopted_tables()"
_ABOUT_ADOPTABLE = re.compile(
    r"^\s*(?:create|alter|drop|comment|grant|revoke)\b[^;]*?\b(?:table|on) (public\.(?:agencies|users))\b", re.MULTILINE
)

_HEADER = """\
-- The first release. Written by `python -m functions._build.migrations baseline` from sql/schemas; see sql/README.md.
"""

_PRECONDITIONS = """\
-- Nothing is changed before these conditions hold.
do $preconditions$
declare
  v_repairs text;
  v_functions text;
begin
  if to_regclass('app.executions') is not null then
    raise exception 'app.executions already exists, from a version before the first release. It cannot be upgraded.'
      ' Use a new project, or reset this database (supabase db reset) and push again.';
  elsif to_regnamespace('app') is not null then
    raise exception 'The schema "app" already exists and is not ours.'
      ' Rename it (alter schema app rename to ...) and push again.';
  end if;

  select string_agg(p.oid::regprocedure::text, ', ' order by p.oid) into v_functions
  from pg_proc as p
  where p.pronamespace = 'public'::regnamespace and p.proname = any(array[{functions}]);
  if v_functions is not null then
    raise exception 'The schema "public" already has functions with names that this migration creates: %.'
      ' Rename or drop them and push again.', v_functions;
  end if;

  execute $check$
{check}
  $check$;
  select string_agg(format('-- %s%s%s', problem, E'\\n', coalesce(remedy, '-- Change this by hand.')), E'\\n')
  into v_repairs from pg_temp.check_adopted_tables();
  drop function pg_temp.check_adopted_tables();
  if v_repairs is not null then
    raise exception using message =
      'This project has its own public.users or public.agencies, which cannot be adopted yet.'
      ' users.agency_id decides which agency a user belongs to, so no user may be able to change it.'
      ' Check that your application does not need what these statements revoke, run them, and push again:'
      || E'\\n' || v_repairs;
  end if;
end $preconditions$;
"""

_UNLESS_ADOPTED = """\
do $unless_adopted$
begin
  if to_regclass('{table}') is null or obj_description(to_regclass('{table}'), 'pg_class') = '{comment}' then
    execute $statements$
{statements}
    $statements$;
  end if;
end $unless_adopted$;
"""


def render(sql: Path = schema.SQL) -> str:
    """The text of the baseline for this declared schema."""
    files = schema.declared(sql)
    check = indent(_temporary_check(files), "    ")
    functions = ", ".join(f"'{file.stem}'" for file in files if file.parent.name == "public")
    parts = [_HEADER, _PRECONDITIONS.format(check=check, functions=functions)]
    parts += [f"-- {file.relative_to(sql / 'schemas')}\n{_declared_file(file)}" for file in files]
    return "\n".join([*parts, RELOAD])


def unless_adopted(table: str, statements: str) -> str:
    """Statements about a table that an existing project may have brought: they run only if the table is our own."""
    return _UNLESS_ADOPTED.format(
        table=table, comment=OWN_TABLE_COMMENT, statements=indent(statements.rstrip(), "      ")
    )


def adoptable_table(statements: str) -> str | None:
    """The adoptable table that these statements create or alter. Raises ValueError if they alter both."""
    if "create or replace function" in statements:
        return None  # whatever its body mentions
    tables = set(_ABOUT_ADOPTABLE.findall(statements))
    if not tables:
        return None
    if len(tables) > 1:
        raise ValueError(
            f"{' and '.join(sorted(tables))} belong in files of their own, because a project may have them."
        )
    return str(tables.pop())


def _declared_file(file: Path) -> str:
    text = file.read_text()
    try:
        table = adoptable_table(text)
    except ValueError as error:
        error.add_note(f"in {file}")
        raise
    return unless_adopted(table, text) if table else text


def _temporary_check(files: list[Path]) -> str:
    """The declared check as a temporary function, because the schema `app` does not exist yet."""
    [text] = [text for file in files if _CHECK in (text := file.read_text())]
    start = text.index(_CHECK)
    end = text.index("$$;", start) + len("$$;")
    return text[start:end].replace("function app.", "function pg_temp.")
