-- Returns a sync job.
create or replace function public.get_sync_job(job_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return app.sync_job_object(app.find_definition('sync_job', job_id));
end $$;

revoke all on function public.get_sync_job from public, anon, authenticated, service_role;
grant execute on function public.get_sync_job to anon, authenticated, service_role;
