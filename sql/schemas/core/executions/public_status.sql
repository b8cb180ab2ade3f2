-- What the family calls this execution's status. One that has begun before reads as running while it waits again.
create or replace function app.public_status(execution app.executions)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  word app.families;
begin
  select * into word from app.families as f where f.family = execution.family;
  return case execution.status
    when 'queued' then case
      when execution.started_at is not null then word.running
      when execution.run_at > now() then word.scheduled
      else word.queued end
    when 'running' then word.running
    when 'cancelling' then word.cancelling
    when 'completed' then word.completed
    when 'failed' then word.failed
    when 'cancelled' then word.cancelled
  end;
end $$;

revoke all on function app.public_status from public;
grant execute on function app.public_status to authenticated, service_role;
