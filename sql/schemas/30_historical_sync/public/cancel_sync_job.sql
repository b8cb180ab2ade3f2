-- Cancels a historical sync that is pending or in progress; when it answers, nothing more of that job is accepted.
-- Answer: {job_id, status}. 400 not_cancellable names the current_status.
create or replace function public.cancel_sync_job(job_id uuid, reason text default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  cancelled constant app.executions := app.cancel_execution('historical_sync', job_id, reason);
begin
  return jsonb_build_object('job_id', cancelled.id, 'status', app.status_word(cancelled));
end $$;

revoke all on function public.cancel_sync_job from public, anon, authenticated, service_role;
grant execute on function public.cancel_sync_job to authenticated, service_role;
