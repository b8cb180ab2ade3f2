-- Cancels a bulk action that is scheduled or running: it acts on nothing more; what it has done stays. The answer waits for
-- the batch under way at most. Answer: {success, job_id, status}. 400 not_cancellable names the current_status. Heeds an
-- Idempotency-Key.
create or replace function public.cancel_bulk_action(job_id uuid, reason text default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job_id', job_id, 'reason', reason);
  answer jsonb := app.recall_answer(caller, 'cancel_bulk_action', request);
  cancelled app.executions;
begin
  if answer is not null then
    return answer;
  end if;
  perform app.find_bulk_action(job_id);
  cancelled := app.cancel_execution('bulk_action', job_id, reason);
  answer := jsonb_build_object('success', true, 'job_id', cancelled.id, 'status', app.status_word(cancelled));
  return app.remember_answer(caller, 'cancel_bulk_action', request, answer);
end $$;

revoke all on function public.cancel_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.cancel_bulk_action to anon, authenticated, service_role;
