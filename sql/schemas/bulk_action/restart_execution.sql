-- Creates a new execution of a finished one, for a bulk action. `retry` continues at the checkpoint, `start` starts
-- anew.
-- Returns null if that is impossible: it is not finished, another execution is active in its place, or its connection
-- or definition was deleted.
create or replace function app.restart_execution(ended app.executions, action text, actor text, reason text)
returns uuid
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  v_id uuid;
begin
  if ended.family in ('bulk_action', 'source_check') or ended.finished_at is null
     or action = 'retry' and ended.status = 'completed'
     or exists (select from app.connections as c where c.agency_id = ended.agency_id
                and c.id in (ended.connection_id, ended.destination_id) and c.deleted_at is not null)
     or exists (select from app.definitions as d where d.agency_id = ended.agency_id
                and d.id = ended.definition_id and d.deleted_at is not null) then
    return null;
  end if;
  insert into app.executions
    (agency_id, family, definition_id, connection_id, destination_id, concurrency_key, spec, retry_of, checkpoint, progress,
     actor, reason)
  values
    (ended.agency_id, ended.family, ended.definition_id, ended.connection_id, ended.destination_id, ended.concurrency_key,
     ended.spec, case when action = 'retry' then ended.id end, case when action = 'retry' then ended.checkpoint end,
     case when action = 'retry' then ended.progress || case when ended.progress ? 'windows_done'
       then jsonb_build_object('windows_before', ended.progress -> 'windows_done') else '{}' end else '{}' end, restart_execution.actor,
     restart_execution.reason)
  on conflict (agency_id, family, concurrency_key)
    where status in ('queued', 'running', 'cancelling') and concurrency_key is not null do nothing
  returning id into v_id;
  return v_id;
end $$;

revoke all on function app.restart_execution from public, anon, authenticated, service_role;
grant execute on function app.restart_execution to service_role;
