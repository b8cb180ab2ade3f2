-- Returns a historical sync: status, progress, position, error, who cancelled it and why, timestamps.
create or replace function public.get_historical_sync(job_id uuid)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  job public.historical_sync_jobs;
begin
  select * into job from public.historical_sync_jobs as j where j.job_id = get_historical_sync.job_id;
  if not found then
    perform app.raise_not_found('historical_sync', 'historical_sync', 'job', job_id);
  end if;
  return app.historical_sync_object(job);
end $$;

revoke all on function public.get_historical_sync from public, anon, authenticated, service_role;
grant execute on function public.get_historical_sync to authenticated, service_role;
