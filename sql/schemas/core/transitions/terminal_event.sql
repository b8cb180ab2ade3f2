-- Returns the event that reports an execution's end, with the family's public status: sync_job_run:stopped.
create or replace function app.terminal_event(execution app.executions)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select execution.family || ':' || case execution.status
      when 'completed' then f.completed when 'failed' then f.failed when 'cancelled' then f.cancelled end
    from app.families as f where f.family = execution.family);
end $$;

revoke all on function app.terminal_event from public, anon, authenticated, service_role;
grant execute on function app.terminal_event to service_role;
