-- Returns an execution as callers see it, with the status of each schema: created until its first batch, completed
-- after its last, and the status of the execution if that ended earlier.
create or replace function app.bulk_sync_execution_object(execution app.executions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  schemas jsonb;
begin
  if execution.id is null then
    return null;
  end if;
  select jsonb_agg(jsonb_build_object(
    'schema', s.value -> 'id',
    'output_name', s.value -> 'output_name',
    'status', case
      when r.finished_at is not null then 'completed'
      when execution.finished_at is not null then app.public_status(execution)
      when r.started_at is not null then 'running'
      else 'created' end,
    'status_message', case when r.finished_at is null and execution.finished_at is not null then execution.error ->> 'message' end,
    'record_count', coalesce(r.records, 0),
    'error_count', coalesce(r.failed, 0),
    'warning_count', 0,
    'created_at', execution.created_at,
    'started_at', r.started_at,
    'completed_at', coalesce(r.finished_at, execution.finished_at),
    'updated_at', coalesce(r.finished_at, execution.finished_at, r.started_at, execution.created_at)
  ) order by s.position)
  into schemas
  from jsonb_array_elements(execution.spec -> 'schemas') with ordinality as s (value, position)
  left join app.execution_resources as r
    on r.agency_id = execution.agency_id and r.execution_id = execution.id and r.resource = s.value ->> 'output_name';

  return jsonb_build_object(
    'id', execution.id,
    'status', app.public_status(execution),
    'status_message', execution.error -> 'message',
    'type', 'manual',
    'created_at', execution.created_at,
    'started_at', execution.started_at,
    'completed_at', execution.finished_at,
    'updated_at', greatest(execution.created_at, execution.started_at, execution.cancel_requested_at, execution.finished_at),
    'is_test', false,
    'is_resync', false,
    'is_partial', execution.spec -> 'is_partial',
    'fetch_mode', 'full',
    'output_disposition', 'retain',
    'version', execution.seq::text,
    'record_count', execution.records,
    'error_count', (select coalesce(sum((s ->> 'error_count')::bigint), 0) from jsonb_array_elements(schemas) as s),
    'warning_count', 0,
    'cancel_requested_at', execution.cancel_requested_at,
    'cancel_deadline', case when execution.status = 'cancelling' then execution.cancel_deadline end,
    'cancelled_by', execution.cancelled_by,
    'schemas', schemas);
end $$;

revoke all on function app.bulk_sync_execution_object from public, anon, authenticated, service_role;
grant execute on function app.bulk_sync_execution_object to authenticated, service_role;
