-- Retention: drops finished executions with their events, at most `limit_` of them, and definitions and connections that
-- were deleted before then and that nothing names any more. For the owner alone. Answer: how many executions.
create or replace function app.purge_executions(older_than interval, v_max_rows int default 1000)
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
    -- What ended before then began before then, and an id begins with the time: no index on the end is needed. The
    -- minute is for clocks that are set.
    where f.finished_at < now() - older_than and f.id < app.uuid_v7_floor(now() - older_than + interval '1 minute')
    order by f.id limit v_max_rows for update skip locked));
  get diagnostics dropped = row_count;
  delete from app.definitions as d
  where d.id = any(array(
    select gone.id from app.definitions as gone
    where gone.deleted_at < now() - older_than
      and not exists (select from app.executions as e where (e.agency_id, e.definition_id) = (gone.agency_id, gone.id))
    order by gone.deleted_at limit v_max_rows for update skip locked));
  delete from app.connections as c
  where c.id = any(array(
    select gone.id from app.connections as gone
    where gone.deleted_at < now() - older_than
      and not exists (select from app.executions as e where (e.agency_id, e.connection_id) = (gone.agency_id, gone.id))
      and not exists (select from app.executions as e where (e.agency_id, e.destination_id) = (gone.agency_id, gone.id))
      and not exists (select from app.definitions as d where (d.agency_id, d.source_id) = (gone.agency_id, gone.id))
      and not exists (select from app.definitions as d where (d.agency_id, d.destination_id) = (gone.agency_id, gone.id))
    order by gone.deleted_at limit v_max_rows for update skip locked));
  return dropped;
end $$;

revoke all on function app.purge_executions from public;
