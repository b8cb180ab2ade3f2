"""Fills a database with finished executions and their audit, as many as years of use leave behind.

One execution is really run. The others are copies of it with their own ids and times, so that each row is what the
triggers would have written. Triggers and foreign keys are off meanwhile, or it would take an hour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    import psycopg

    from tests.bench.stack import BenchStack

# One execution a second until an hour ago. The id begins with the time, like those of app.uuid_v7().
AT = "now() - interval '1 hour' - make_interval(secs => {total} - number)"
ID = f"""
    (lpad(to_hex((extract(epoch from {AT}) * 1000)::bigint), 12, '0') || '7' || substr(md5(number::text), 1, 3)
     || '8' || substr(md5(number::text), 4, 15))::uuid
"""
OVER: dict[str, dict[str, str]] = {
    "executions": {"id": ID, "created_at": AT, "run_at": AT, "started_at": AT, "finished_at": AT},
    "execution_events": {"execution_id": ID, "at": AT},
}


def fill(stack: BenchStack, total: int) -> None:
    """Inserts `total` finished executions of the stack's agency."""
    admin = stack.admin
    job_id = _run_one(stack)
    with admin.transaction():
        admin.execute("set local session_replication_role = replica")
        admin.execute("set local synchronous_commit = off")
        indexes = _drop_indexes(admin)
        for table, key in (("executions", "id"), ("execution_events", "execution_id")):
            admin.execute(_copy(admin, table, key, total), (job_id,))
        admin.execute("set local maintenance_work_mem = '1GB'")
        for definition in indexes:
            admin.execute(definition)
    admin.execute("vacuum (freeze, analyze) app.executions, app.execution_events")
    admin.execute("checkpoint")


def _run_one(stack: BenchStack) -> str:
    [job_id] = stack.queue(1, run_at="2000-01-01")
    with stack.admin.transaction():
        stack.admin.execute("set local role service_role")
        stack.admin.execute("select public.worker_claim('bench', '[\"historical_sync\"]')")
        stack.admin.execute("select public.worker_complete(%s, 1)", (job_id,))
    return job_id


def _drop_indexes(admin: psycopg.Connection[Any]) -> list[bytes]:
    """Drops the indexes that no constraint needs, and returns the statements that create them again."""
    found = admin.execute(
        "select i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) from pg_index i"
        " where i.indrelid in ('app.executions'::regclass, 'app.execution_events'::regclass)"
        " and not exists (select from pg_constraint c where c.conindid = i.indexrelid)"
    ).fetchall()
    for name, _ in found:
        admin.execute(f"drop index {name}".encode())
    return [definition.encode() for _, definition in found]


def _copy(admin: psycopg.Connection[Any], table: str, key: str, total: int) -> bytes:
    rows = admin.execute(
        "select attname from pg_attribute where attrelid = format('app.%%I', %s::text)::regclass and attnum > 0"
        " and not attisdropped and attidentity = '' order by attnum",
        (table,),
    )
    columns = [row[0] for row in rows]
    values = [OVER[table].get(name, f"one.{name}").format(total=total) for name in columns]
    return (
        f"insert into app.{table} ({', '.join(columns)}) select {', '.join(values)}"
        f" from generate_series(1, {total}) as number, app.{table} as one where one.{key} = %s"
    ).encode()
