-- Returns the family's name for an execution's status. A queued execution that has started before is reported as
-- running.
create or replace function app.public_status(execution app.executions)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  names app.families;
begin
  select * into names from app.families as f where f.family = execution.family;
  return case execution.status
    when 'queued' then case
      when execution.started_at is not null then names.running
      when execution.run_at > now() then names.scheduled
      else names.queued end
    when 'running' then names.running
    when 'cancelling' then names.cancelling
    when 'completed' then names.completed
    when 'failed' then names.failed
    when 'cancelled' then names.cancelled
  end;
end $$;

revoke all on function app.public_status from public, anon, authenticated, service_role;
grant execute on function app.public_status to authenticated, service_role;
