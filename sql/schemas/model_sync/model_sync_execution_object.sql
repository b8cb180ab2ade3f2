-- Returns an execution as callers see it, with its counts, which worker_commit_batch keeps in the transaction of the
-- records.
create or replace function app.model_sync_execution_object(execution app.executions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  done app.execution_resources;
begin
  if execution.id is null then
    return null;
  end if;
  select * into done from app.execution_resources as r
  where r.agency_id = execution.agency_id and r.execution_id = execution.id and r.resource = execution.spec ->> 'object';
  return jsonb_build_object(
    'id', execution.id,
    'status', app.public_status(execution),
    'type', 'manual',
    'created_at', execution.created_at,
    'started_at', execution.started_at,
    'completed_at', execution.finished_at,
    'version', execution.seq::text,
    'counts', jsonb_build_object(
      'total', execution.records,
      'insert', coalesce(done.inserted, 0),
      'update', coalesce(done.updated, 0),
      'delete', 0,
      'upserts', 0,
      'error', coalesce(done.failed, 0),
      'warnings', 0),
    'errors', case when execution.error is null then '[]' else jsonb_build_array(execution.error -> 'message') end
      || coalesce(done.errors, '[]'),
    'cancel_requested_at', execution.cancel_requested_at,
    'cancel_deadline', case when execution.status = 'cancelling' then execution.cancel_deadline end,
    'cancelled_by', execution.cancelled_by);
end $$;

revoke all on function app.model_sync_execution_object from public, anon, authenticated, service_role;
grant execute on function app.model_sync_execution_object to authenticated, service_role;
