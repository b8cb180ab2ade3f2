-- Deletes a finished bulk action for its callers. The audit keeps it. Returns {success, job_id, status}. 400
-- not_deletable has the current_status of an unfinished one.
create or replace function public.delete_bulk_action(job_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  job constant app.executions := app.find_execution('bulk_action', job_id);
begin
  if job.finished_at is null then
    perform app.raise_error(400, 'not_deletable', 'This job has not ended. Cancel it first.',
      jsonb_build_object('current_status', app.public_status(job)));
  end if;
  update app.executions as e set deleted_at = clock_timestamp() where e.id = job.id and e.deleted_at is null;
  return jsonb_build_object('success', true, 'job_id', job.id, 'status', app.public_status(job));
end $$;

revoke all on function public.delete_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.delete_bulk_action to anon, authenticated, service_role;
