-- Returns a job as callers see it.
create or replace function app.historical_sync_object(job public.historical_sync_jobs)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'job_id', job.job_id,
    'status', job.status,
    'connection_id', job.connection_id,
    'date_from', job.date_from,
    'date_to', job.date_to,
    'resources', job.resources,
    'progress', jsonb_build_object(
      'records', job.records,
      'windows_done', job.windows_done,
      'windows_total', job.windows_total,
      'percent', job.percent,
      'eta_seconds', job.eta_seconds),
    'position', job.position,
    'error', job.error,
    'cancelled_by', job.cancelled_by,
    'cancel_reason', job.cancel_reason,
    'retry_of', job.retry_of,
    'created_by', job.created_by,
    'created_at', job.created_at,
    'started_at', job.started_at,
    'cancel_requested_at', job.cancel_requested_at,
    'finished_at', job.finished_at);
end $$;

revoke all on function app.historical_sync_object from public, anon, authenticated, service_role;
grant execute on function app.historical_sync_object to authenticated, service_role;
