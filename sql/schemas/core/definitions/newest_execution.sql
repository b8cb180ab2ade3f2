-- Returns the newest execution of a definition, or the newest finished one; null if there is none.
create or replace function app.newest_execution(definition app.definitions, ended boolean default false)
returns app.executions
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  execution app.executions;
begin
  -- At most one is active, so this reads at most two rows.
  select * into execution from app.executions as e
  where e.agency_id = definition.agency_id and e.definition_id = definition.id
    and (not ended or e.finished_at is not null)
  order by e.id desc limit 1;
  return execution;
end $$;

revoke all on function app.newest_execution from public, anon, authenticated, service_role;
grant execute on function app.newest_execution to authenticated, service_role;
