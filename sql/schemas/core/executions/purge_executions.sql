-- Retention, run by the tables' owner: deletes finished executions with their events, at most `max_rows`, and
-- definitions and connections that were deleted before that time and that nothing refers to. Returns the number of
-- executions.
create or replace function app.purge_executions(older_than interval, max_rows int default 1000)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  dropped int;
begin
  delete from app.executions as e
  where e.id = any(array(
    select f.id from app.executions as f
    -- Ids are time-ordered and an execution ends after its start, so no index on the end is needed. The minute allows for
    -- clocks that are adjusted.
    where f.finished_at < now() - older_than and f.id < app.uuid_v7_floor(now() - older_than + interval '1 minute')
    order by f.id limit max_rows for update skip locked));
  get diagnostics dropped = row_count;
  delete from app.definitions as d
  where d.id = any(array(
    select deleted.id from app.definitions as deleted
    where deleted.deleted_at < now() - older_than
      and not exists (select from app.executions as e where (e.agency_id, e.definition_id) = (deleted.agency_id, deleted.id))
    order by deleted.deleted_at limit max_rows for update skip locked));
  delete from app.connections as c
  where c.id = any(array(
    select deleted.id from app.connections as deleted
    where deleted.deleted_at < now() - older_than
      and not exists (select from app.executions as e where (e.agency_id, e.connection_id) = (deleted.agency_id, deleted.id))
      and not exists (select from app.executions as e where (e.agency_id, e.destination_id) = (deleted.agency_id, deleted.id))
      and not exists (select from app.definitions as d where (d.agency_id, d.source_id) = (deleted.agency_id, deleted.id))
      and not exists (select from app.definitions as d where (d.agency_id, d.destination_id) = (deleted.agency_id, deleted.id))
    order by deleted.deleted_at limit max_rows for update skip locked));
  return dropped;
end $$;

revoke all on function app.purge_executions from public, anon, authenticated, service_role;
