-- Stops a queued or running run at once. After it returns, nothing more is stored and no delivery begins. The run
-- stays.
-- Returns the run. 400 not_cancellable has the current_status. Accepts an Idempotency-Key.
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
  -- Two statements, so that the second sees what was stored by a batch that the first waited for.
  run := app.cancel_execution('sync_job_run', run_id, null);
  response := app.sync_job_run_object(run);
  return app.save_idempotent_response(caller, 'stop_sync_job_run', request, response);
end $$;

revoke all on function public.stop_sync_job_run from public, anon, authenticated, service_role;
grant execute on function public.stop_sync_job_run to anon, authenticated, service_role;
