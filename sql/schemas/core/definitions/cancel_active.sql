-- Cancels the definition's active execution and returns it. If there is none, returns the newest execution if that was
-- cancelled, so that a repeated cancel returns the same however fast the worker was; otherwise null.
create or replace function app.cancel_active(definition app.definitions, reason text default null)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  active app.executions;
begin
  select * into active from app.executions as e
  where e.agency_id = definition.agency_id and e.family = definition.kind and e.concurrency_key = definition.id::text
    and e.status in ('queued', 'running', 'cancelling')
  for update;
  if found then
    return app.cancel_execution(active.family, active.id, reason);
  end if;
  active := app.newest_execution(definition);
  return case when active.status = 'cancelled' then active end;
end $$;

revoke all on function app.cancel_active from public, anon, authenticated, service_role;
grant execute on function app.cancel_active to authenticated, service_role;
