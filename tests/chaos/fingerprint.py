"""Detects whether anything in the database has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

_TABLES = """
select c.oid::regclass::text as name, exists (
  select from pg_attribute a where a.attrelid = c.oid and a.attname = 'agency_id' and not a.attisdropped) as is_agencys
from pg_class c
where c.relkind in ('r', 'p') and c.relnamespace in ('app'::regnamespace, 'public'::regnamespace)
order by 1
"""
# The definitions of the schema, which no caller may change.
_SCHEMA = """
select 'schema' as name, count(*) as rows, sum(hashtextextended(o::text, 0)) as hash from (
  select proname::text, prosrc, proacl::text from pg_proc
  where pronamespace in ('app'::regnamespace, 'public'::regnamespace)
  union all
  select relname::text, relkind::text, relacl::text from pg_class
  where relnamespace in ('app'::regnamespace, 'public'::regnamespace)
) as o
"""


def fingerprint(admin: psycopg.Connection[dict[str, Any]], but: str | None = None) -> dict[str, tuple[Any, Any]]:
    """The number of rows and a hash of them for each table. Rows of the agency `but` are left out."""
    queries = [_SCHEMA]
    for table in admin.execute(_TABLES).fetchall():
        theirs = "where agency_id is distinct from %(but)s::uuid" if table["is_agencys"] else ""
        queries.append(
            f"select '{table['name']}', count(*), sum(hashtextextended(t::text, 0)) from {table['name']} as t {theirs}"
        )
    rows = admin.execute(" union all ".join(queries), {"but": but})
    return {row["name"]: (row["rows"], row["hash"]) for row in rows}
