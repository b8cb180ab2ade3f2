-- Cancels an execution for a caller, in every family. The lock is a statement of its own: the next statements see the
-- row as it is now, so that of a cancel and an outcome exactly one wins.
create or replace function app.cancel_execution(family text, id uuid, reason text)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  cancel_event constant text := (select f.cancel_event from app.families as f where f.family = cancel_execution.family);
  execution app.executions;
  was_running boolean;
  v_status text;
begin
  if length(reason) > 500 then
    perform app.raise_error(400, 'reason_too_long', 'reason must have at most 500 characters.');
  end if;
  select * into execution from app.executions as e
  where e.id = cancel_execution.id and e.family = cancel_execution.family and e.deleted_at is null
  for update;
  if not found then
    perform app.raise_not_found(family, family, 'job', id);
  end if;

  if execution.status = 'cancelling' then
    return execution; -- requested before: nothing changes, and the deadline stays
  end if;
  v_status := app.next_status(execution.status, cancel_event);
  if v_status is null then
    perform app.raise_error(400, 'not_cancellable',
      'This job is ' || app.public_status(execution) || ' and can no longer be cancelled.',
      jsonb_build_object('current_status', app.public_status(execution)));
  end if;

  was_running := execution.status = 'running';
  update app.executions as e
  set status = v_status, event = cancel_event, reason = cancel_execution.reason
  where e.id = execution.id
  returning * into execution;
  if was_running then
    -- Only a hint: the worker reads the row.
    perform pg_notify('execution_cancelled', execution.id::text);
  end if;
  return execution;
end $$;

revoke all on function app.cancel_execution from public, anon, authenticated, service_role;
grant execute on function app.cancel_execution to authenticated, service_role;
