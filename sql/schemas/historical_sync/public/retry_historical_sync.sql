-- Continues a failed or cancelled historical sync from its checkpoint, as a new job with the same range.
-- Returns {job_id, status, retry_of}. 400 not_retryable has the current_status. Accepts an Idempotency-Key.
create or replace function public.retry_historical_sync(job_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job_id', job_id);
  response jsonb := app.get_idempotent_response(caller, 'retry_historical_sync', request);
  ended app.executions;
  started app.executions;
begin
  if response is not null then
    return response;
  end if;
  select * into ended from app.executions as e
  where e.id = retry_historical_sync.job_id and e.family = 'historical_sync' and e.deleted_at is null;
  if not found then
    perform app.raise_not_found('historical_sync', 'historical_sync', 'job', job_id);
  end if;
  if ended.status not in ('failed', 'cancelled') then
    perform app.raise_error(400, 'not_retryable', 'Only failed and cancelled jobs can be retried.',
      jsonb_build_object('current_status', app.public_status(ended)));
  end if;
  perform from app.connections as c where c.id = ended.connection_id and c.deleted_at is null for share;
  if not found and ended.connection_id is not null then
    perform app.raise_error(404, 'connection_not_found', 'The connection of this job was deleted. Start a new job.');
  end if;

  started := ended;
  started.retry_of := ended.id;
  started.run_at := null;
  if ended.progress ? 'windows_done' then
    started.progress := ended.progress || jsonb_build_object('windows_before', ended.progress -> 'windows_done');
  end if;
  started := app.start_execution(started);
  response := jsonb_build_object('job_id', started.id, 'status', app.public_status(started), 'retry_of', started.retry_of);
  return app.save_idempotent_response(caller, 'retry_historical_sync', request, response);
end $$;

revoke all on function public.retry_historical_sync from public, anon, authenticated, service_role;
grant execute on function public.retry_historical_sync to authenticated, service_role;
