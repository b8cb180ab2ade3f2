-- Deletes an execution's events with it. Only retention deletes executions (see app.guard_deletion).
create or replace function app.drop_events()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from app.execution_events as e where (e.agency_id, e.execution_id) = (old.agency_id, old.id);
  return null;
end $$;

revoke all on function app.drop_events from public, anon, authenticated, service_role;
