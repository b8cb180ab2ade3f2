-- Cancels a historical sync that is pending or in progress; when it answers, nothing more of that job is accepted.
-- Answer: {job_id, status}. 400 not_cancellable names the current_status. Heeds an Idempotency-Key.
create or replace function public.cancel_sync_job(job_id uuid, reason text default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job_id', job_id, 'reason', reason);
  answer jsonb := app.recall_answer(caller, 'cancel_sync_job', request);
  cancelled app.executions;
begin
  if answer is not null then
    return answer;
  end if;
  cancelled := app.cancel_execution('historical_sync', job_id, reason);
  answer := jsonb_build_object('job_id', cancelled.id, 'status', app.status_word(cancelled));
  return app.remember_answer(caller, 'cancel_sync_job', request, answer);
end $$;

revoke all on function public.cancel_sync_job from public, anon, authenticated, service_role;
grant execute on function public.cancel_sync_job to authenticated, service_role;
