-- Cancels a pending or running historical sync. After it returns, no further write of that job is accepted.
-- Returns {job_id, status}. 400 not_cancellable has the current_status. Accepts an Idempotency-Key.
create or replace function public.cancel_sync_job(job_id uuid, reason text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job_id', job_id, 'reason', reason);
  response jsonb := app.get_idempotent_response(caller, 'cancel_sync_job', request);
  cancelled app.executions;
begin
  if response is not null then
    return response;
  end if;
  cancelled := app.cancel_execution('historical_sync', job_id, reason);
  response := jsonb_build_object('job_id', cancelled.id, 'status', app.public_status(cancelled));
  return app.save_idempotent_response(caller, 'cancel_sync_job', request, response);
end $$;

revoke all on function public.cancel_sync_job from public, anon, authenticated, service_role;
grant execute on function public.cancel_sync_job to authenticated, service_role;
