"""The invariants, checked in the tables by SQL that shares no code with the implementation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


INVARIANTS = _read("invariants.sql")
WITNESS = _read("witness.sql")

_PREPARE = """
create schema if not exists witness;
create table if not exists witness.ended (id uuid primary key, row jsonb not null, counts jsonb, events jsonb not null);
"""
_COPY = """
insert into witness.ended
select x.id, to_jsonb(x) - array['deleted_at', 'retry_of'],
  (select jsonb_agg(to_jsonb(r) order by r.resource, r.method) from app.execution_resources r
   where (r.agency_id, r.execution_id) = (x.agency_id, x.id)),
  (select jsonb_agg(to_jsonb(e) order by e.id) from app.execution_events e
   where (e.agency_id, e.execution_id) = (x.agency_id, x.id))
from app.executions x
where x.finished_at is not null
"""
# Retention runs as the owner and goes by age. Records belong to their connection, so they outlive an execution.
_DROP = """
select app.purge_executions(now() - max((row ->> 'finished_at')::timestamptz + interval '1 microsecond'), 1000000)
from witness.ended
"""


def check(admin: psycopg.Connection[dict[str, Any]]) -> list[str]:
    """The violations. Copies what has ended for the next check, and purges what the last check copied, so that a
    round does not read all earlier ones. `admin` is a superuser's connection.
    """
    admin.execute(_PREPARE)
    found = admin.execute(WITNESS).fetchall() + admin.execute(INVARIANTS).fetchall()
    with admin.transaction():
        admin.execute("delete from app.records using witness.ended as w where execution_id = w.id")
        admin.execute("grant usage on schema witness to postgres")
        admin.execute("grant select on witness.ended to postgres")
        admin.execute("set local role postgres")
        admin.execute(_DROP)
        admin.execute("reset role")
        admin.execute("truncate witness.ended")
        admin.execute(_COPY)
    return [f"{row['violation']}: {row['what']} ({row['execution_id']})" for row in found]
