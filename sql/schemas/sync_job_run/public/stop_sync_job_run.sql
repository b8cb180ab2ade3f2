-- Stops a run that waits or runs, at once: when it answers nothing more is stored, and no delivery begins. The record stays.
-- Answer: the run. 400 not_cancellable names the current_status. Heeds an Idempotency-Key.
create or replace function public.stop_sync_job_run(run_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('run_id', run_id);
  response jsonb := app.get_idempotent_response(caller, 'stop_sync_job_run', request);
  run app.executions;
begin
  if response is not null then
    return response;
  end if;
  perform app.find_execution('sync_job_run', run_id);
  -- Two statements: the second sees what a batch has stored that the first waited for.
  run := app.cancel_execution('sync_job_run', run_id, null);
  response := app.sync_job_run_object(run);
  return app.save_idempotent_response(caller, 'stop_sync_job_run', request, response);
end $$;

revoke all on function public.stop_sync_job_run from public, anon, authenticated, service_role;
grant execute on function public.stop_sync_job_run to anon, authenticated, service_role;
