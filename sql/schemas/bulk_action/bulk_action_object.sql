-- Returns a bulk action as callers see it, with its counts.
create or replace function app.bulk_action_object(job app.executions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  counts app.bulk_actions;
begin
  select * into counts from app.bulk_actions as b where b.agency_id = job.agency_id and b.execution_id = job.id;
  return jsonb_build_object(
    'job_id', job.id,
    'criteria_json', (job.spec -> 'criteria')::text,
    'action_type', job.spec -> 'action_type',
    'action_duration', null,
    'action_reason', job.spec -> 'action_reason',
    'scheduled_at', case when job.spec ->> 'scheduled_at' is not null then job.run_at end,
    'executed_at', job.started_at,
    'completed_at', job.finished_at,
    'max_limit', job.spec -> 'max_limit',
    'preview_count', job.spec -> 'preview_count',
    'affected_count', coalesce(counts.done, 0),
    'counts', jsonb_build_object(
      'matched', coalesce(counts.matched, 0), 'done', coalesce(counts.done, 0), 'failed', coalesce(counts.failed, 0),
      'skipped', coalesce(counts.skipped, 0), 'interrupted', coalesce(counts.interrupted, 0),
      'not_started', coalesce(counts.not_started, 0)),
    'status', app.public_status(job),
    'progress_percent', case when job.status = 'completed' then 100
      when counts.is_collected then 100 * (counts.matched - counts.not_started) / greatest(counts.matched, 1) else 0 end,
    'cancelled_by', job.cancelled_by,
    'cancel_reason', job.cancel_reason,
    'error', job.error,
    'created_by', job.created_by,
    'created_at', job.created_at,
    'updated_at', greatest(job.created_at, job.started_at, job.finished_at));
end $$;

revoke all on function app.bulk_action_object from public, anon, authenticated, service_role;
grant execute on function app.bulk_action_object to authenticated, service_role;
