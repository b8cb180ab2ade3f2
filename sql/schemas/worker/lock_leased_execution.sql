-- The fence of every worker call: locks the execution and returns it if this lease still holds it, otherwise null.
create or replace function app.lock_leased_execution(id uuid, lease_token bigint)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  execution app.executions;
begin
  select * into execution from app.executions as e where e.id = lock_leased_execution.id for update;
  if execution.lease_token = lock_leased_execution.lease_token and execution.status in ('running', 'cancelling') then
    return execution;
  end if;
  return null;
end $$;

revoke all on function app.lock_leased_execution from public, anon, authenticated, service_role;
grant execute on function app.lock_leased_execution to service_role;
