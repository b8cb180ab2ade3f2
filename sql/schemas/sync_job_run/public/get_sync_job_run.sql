-- Returns a run, with its sync job and its counts so far.
create or replace function public.get_sync_job_run(run_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return app.sync_job_run_object(app.find_execution('sync_job_run', run_id));
end $$;

revoke all on function public.get_sync_job_run from public, anon, authenticated, service_role;
grant execute on function public.get_sync_job_run to anon, authenticated, service_role;
