"""The statements that turn the schema of one database into that of another.

Both schemas are read as entries of a dump. What a migration should not decide alone is not written but named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from functions._build import baseline
from functions._build.dump import entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from functions._build.dump import Entries, Entry, Key

    Connection = psycopg.Connection[Any]

# PUBLIC and the roles that Supabase grants privileges by default.
_GRANTEES = "public, anon, authenticated, service_role"
_REPLACEABLE = {"FUNCTION": "CREATE FUNCTION ", "VIEW": "CREATE VIEW "}
# These hold no data, so they can be dropped and created again.
_RECREATABLE = {"FUNCTION", "VIEW", "TRIGGER", "POLICY", "INDEX", "CONSTRAINT", "FK CONSTRAINT"}
_CREATABLE = _RECREATABLE | {"TYPE", "TABLE", "SEQUENCE", "ROW SECURITY"}
_ATTACHED = {"ACL", "COMMENT"}  # dropped with the object they belong to
_ACL_TARGET = re.compile(r"^(?:GRANT|REVOKE) .*? ON ([A-Z]+ .*) (?:TO|FROM) [^ ]+;$", re.MULTILINE)
_COMMENT = re.compile(r"\A(COMMENT ON .*?) IS '.*';\s*\Z", re.DOTALL)
_IS_ADOPTABLE = re.compile(r"\b(?:table|on)(?: only| table| column)* (public\.(?:agencies|users))\b", re.IGNORECASE)


@dataclass
class Difference:
    """`statements` in order; `unsupported` names what has to be written by hand."""

    statements: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)


def structure(old: Connection, old_dump: str, new: Connection, new_dump: str) -> Difference:
    """Everything but privileges and comments."""
    return _Structure(old, entries(old_dump), new, entries(new_dump)).difference()


def attachments(old_dump: str, new_dump: str) -> Difference:
    """Privileges and comments, once the structures are equal."""
    old, new = entries(old_dump), entries(new_dump)
    return Difference([*_privileges(old, new), *_comments(old, new)])


class _Structure:
    def __init__(self, connection: Connection, old: Entries, new_connection: Connection, new: Entries) -> None:
        self._connection = connection
        self._new_connection = new_connection
        self._old = {key: entry for key, entry in old.items() if entry.type not in _ATTACHED}
        self._new = {key: entry for key, entry in new.items() if entry.type not in _ATTACHED}
        self._found = Difference()

    def difference(self) -> Difference:
        removed = [entry for key, entry in self._old.items() if key not in self._new]
        added = {key for key in self._new if key not in self._old}
        changed = {key for key, entry in self._new.items() if key in self._old and entry != self._old[key]}
        altered = {key: self._altered(self._new[key]) for key in changed}
        recreated = {key for key, statements in altered.items() if statements is None}
        dropped = self._with_dependents({entry.key for entry in removed} | recreated)
        self._drop(dropped)
        for key, entry in self._new.items():
            if key in added or key in dropped:
                self._create(entry)
            elif key in changed:
                self._found.statements += altered[key] or []
        return self._found

    def _altered(self, entry: Entry) -> list[str] | None:
        """The statements that change an entry in place; None if it has to be dropped and created again."""
        if entry.type == "TABLE":
            return self._altered_table(entry)
        if entry.type in _REPLACEABLE:
            create = _REPLACEABLE[entry.type]
            replace = entry.statements.replace(create, create.replace("CREATE", "CREATE OR REPLACE"), 1)
            return [replace] if self._succeeds(replace) else None
        if entry.type in _RECREATABLE:
            return None
        self._found.unsupported.append(f"{entry} has changed.")
        return []

    def _succeeds(self, statement: str) -> bool:
        """Whether Postgres accepts the statement now. It is rolled back."""
        try:
            with self._connection.transaction(force_rollback=True):
                self._connection.execute(statement.encode())
        except psycopg.Error:
            return False
        return True

    def _altered_table(self, entry: Entry) -> list[str]:
        before, after = _Table.read(self._connection, entry), _Table.read(self._new_connection, entry)
        self._found.unsupported += [f"{entry}: {reason}" for reason in _unsupported_changes(before, after)]
        changes = [*_column_changes(before, after), *_check_changes(before, after)]
        table = f"{entry.schema}.{_quoted(entry.name)}"
        return [_unless_adopted(entry, f"ALTER TABLE {table} {change};\n") for change in changes]

    def _with_dependents(self, keys: set[Key]) -> set[Key]:
        """The keys and everything that depends on them, which Postgres would not keep."""
        functions = [f"{schema}.{name}" for type_, schema, name in keys if type_ == "FUNCTION"]
        views = [f'"{schema}"."{name}"' for type_, schema, name in keys if type_ == "VIEW"]
        with self._connection.transaction(), self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute("set local search_path = ''")
            rows = cursor.execute(_DEPENDENTS, {"functions": functions, "views": views}).fetchall()
        for row in rows:
            if row["type"] is None:
                self._found.unsupported.append(f"{row['description']} depends on a function or view that is dropped.")
        found = {(row["type"], row["schema"], row["name"]) for row in rows if row["type"]}
        return keys | (found & self._old.keys())

    def _drop(self, keys: set[Key]) -> None:
        for key, entry in reversed(self._old.items()):
            if key in keys:
                if entry.type in _RECREATABLE | {"TYPE"}:
                    self._found.statements.append(_unless_adopted(entry, _drop_statement(entry)))
                else:
                    self._found.unsupported.append(f"{entry} is no longer declared. Dropping it loses what it holds.")

    def _create(self, entry: Entry) -> None:
        if entry.type in _CREATABLE:
            self._found.statements.append(_unless_adopted(entry, entry.statements))
        else:
            self._found.unsupported.append(f"{entry} is new.")


@dataclass(frozen=True)
class _Table:
    columns: dict[str, str]
    checks: dict[str, str]
    options: list[str] | None

    @classmethod
    def read(cls, connection: Connection, entry: Entry) -> _Table:
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute("set local search_path = ''")
            cursor.execute(_TABLE, {"table": f'"{entry.schema}"."{entry.name}"'})
            [row] = cursor.fetchall()
        return cls(dict(row["columns"]), dict(row["checks"]), row["options"])


def _unsupported_changes(before: _Table, after: _Table) -> Iterator[str]:
    changed = sorted(name for name in before.columns if after.columns.get(name) != before.columns[name])
    if changed or list(after.columns)[: len(before.columns)] != list(before.columns):
        yield (
            f"columns have changed ({', '.join(changed) or 'their order'})."
            " Only new columns at the end of the table are added."
        )
    for name, column in after.columns.items():
        can_be_added = "NOT NULL" not in column or "DEFAULT" in column or "GENERATED" in column
        if name not in before.columns and not can_be_added:
            yield f"the new column {name} is not null and has no default, so existing rows cannot have it."
    if before.options != after.options:
        yield "its storage options have changed."


def _column_changes(before: _Table, after: _Table) -> Iterator[str]:
    for name, definition in after.columns.items():
        if name not in before.columns:
            yield f"ADD COLUMN {_quoted(name)} {definition}"


def _check_changes(before: _Table, after: _Table) -> Iterator[str]:
    for name, definition in before.checks.items():
        if after.checks.get(name) != definition:
            yield f"DROP CONSTRAINT {_quoted(name)}"
    for name, definition in after.checks.items():
        if before.checks.get(name) != definition:
            yield f"ADD CONSTRAINT {_quoted(name)} {definition}"


def _drop_statement(entry: Entry) -> str:
    table, _, name = entry.name.partition(" ")
    table = f"{entry.schema}.{_quoted(table)}"
    if entry.type == "FUNCTION":  # its name holds the arguments, quoted where that is needed
        return f"DROP FUNCTION {entry.schema}.{entry.name};\n"
    if entry.type in ("TRIGGER", "POLICY"):
        return f"DROP {entry.type} {_quoted(name)} ON {table};\n"
    if entry.type.endswith("CONSTRAINT"):
        return f"ALTER TABLE {table} DROP CONSTRAINT {_quoted(name)};\n"
    return f"DROP {entry.type} {entry.schema}.{_quoted(entry.name)};\n"


def _privileges(old: Entries, new: Entries) -> Iterator[str]:
    before, after = _by_target(old), _by_target(new)
    for target in sorted(before.keys() | after.keys(), key=_alike):
        if before.get(target) == after.get(target):
            continue
        grants = [line for line in after.get(target, []) if not line.endswith(" FROM PUBLIC;")]
        if target.startswith("FUNCTION ") and not after.get(target):
            grants = [f"GRANT ALL ON {target} TO PUBLIC;"]  # a dump omits the default
        statements = "\n".join([f"REVOKE ALL ON {target} FROM {_GRANTEES};", *grants]) + "\n"
        yield _unless_adopted(None, statements)


def _by_target(found: Entries) -> dict[str, list[str]]:
    """The statements about privileges, by what they grant something on; those on columns are on their table."""
    targets: dict[str, list[str]] = {}
    for entry in found.values():
        if entry.type == "ACL":
            [target] = set(_ACL_TARGET.findall(entry.statements))
            targets.setdefault(target, []).extend(entry.statements.splitlines())
    return targets


def _alike(target: str) -> tuple[str, str]:
    kind, _, name = target.partition(" ")
    return kind, name


def _comments(old: Entries, new: Entries) -> Iterator[str]:
    before = {key: entry for key, entry in old.items() if entry.type == "COMMENT"}
    after = {key: entry for key, entry in new.items() if entry.type == "COMMENT"}
    for key, entry in before.items():
        if key not in after:
            yield _unless_adopted(entry, _COMMENT.sub(r"\1 IS NULL;\n", entry.statements))
    for key, entry in after.items():
        if before.get(key) != entry:
            yield _unless_adopted(entry, entry.statements)


def _unless_adopted(entry: Entry | None, statements: str) -> str:
    """Statements about a table that a project may have brought do nothing where it has."""
    if entry and entry.type in _REPLACEABLE:
        return statements  # its body may mention the tables
    table = _IS_ADOPTABLE.search(entry.statements if entry else statements)
    return baseline.unless_adopted(table[1], statements) if table else statements


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


def overloads(connection: Connection) -> list[str]:
    """Functions of the API that PostgREST could not tell apart."""
    rows: Iterable[tuple[str]] = connection.execute(
        "select proname from pg_proc where pronamespace = 'public'::regnamespace"
        " group by proname having count(*) > 1 order by proname"
    )
    return [name for (name,) in rows]


_DEPENDENTS = """
with recursive affected (classid, objid) as (
  select 'pg_proc'::regclass::oid, to_regprocedure(name)::oid from unnest(%(functions)s::text[]) as name
  union
  select 'pg_class'::regclass::oid, to_regclass(name)::oid from unnest(%(views)s::text[]) as name
  union
  select further.classid, further.objid
  from affected
  cross join lateral (
    select d.classid, d.objid from pg_depend as d
    where d.refclassid = affected.classid and d.refobjid = affected.objid
    union all
    -- What depends is the rule of a view, never the view.
    select 'pg_class'::regclass::oid, r.ev_class from pg_rewrite as r
    where affected.classid = 'pg_rewrite'::regclass and r.oid = affected.objid
  ) as further
)
select found.type, found.schema, found.name, pg_describe_object(classid, objid, 0) as description
from affected
cross join lateral (
  select 'FUNCTION', p.pronamespace::regnamespace::text,
    quote_ident(p.proname) || '(' || oidvectortypes(p.proargtypes) || ')'
  from pg_proc as p where classid = 'pg_proc'::regclass and p.oid = objid
  union all
  select case c.relkind when 'v' then 'VIEW' end, c.relnamespace::regnamespace::text, c.relname
  from pg_class as c where classid = 'pg_class'::regclass and c.oid = objid
  union all
  select 'TRIGGER', c.relnamespace::regnamespace::text, c.relname || ' ' || t.tgname
  from pg_trigger as t join pg_class as c on c.oid = t.tgrelid where classid = 'pg_trigger'::regclass and t.oid = objid
  union all
  select 'POLICY', c.relnamespace::regnamespace::text, c.relname || ' ' || p.polname
  from pg_policy as p join pg_class as c on c.oid = p.polrelid where classid = 'pg_policy'::regclass and p.oid = objid
  union all
  select null, null, null
  where classid not in ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass,
    'pg_rewrite'::regclass, 'pg_type'::regclass) -- those of views
) as found (type, schema, name)
"""

_TABLE = """
select
  coalesce((
    select json_agg(json_build_array(a.attname,
      format_type(a.atttypid, a.atttypmod)
      || case when a.attcollation <> t.typcollation then ' COLLATE ' || a.attcollation::regcollation::text else '' end
      || case
        when a.attgenerated = 's' then ' GENERATED ALWAYS AS (' || pg_get_expr(d.adbin, d.adrelid) || ') STORED'
        else coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '') end
      || case when a.attnotnull then ' NOT NULL' else '' end) order by a.attnum)
    from pg_attribute as a
    join pg_type as t on t.oid = a.atttypid
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '[]') as columns,
  coalesce((
    select json_agg(json_build_array(k.conname, pg_get_constraintdef(k.oid)) order by k.conname)
    from pg_constraint as k where k.conrelid = c.oid and k.contype = 'c'), '[]') as checks,
  c.reloptions as options
from pg_class as c where c.oid = %(table)s::regclass
"""
