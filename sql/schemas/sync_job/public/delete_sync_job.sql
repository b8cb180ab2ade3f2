-- Stops the active runs of a sync job and deletes it; its runs stay. Returns {id}.
create or replace function public.delete_sync_job(job_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  job constant app.definitions := app.delete_definition('sync_job', job_id);
begin
  perform app.cancel_each(array(
    select e.id from app.executions as e
    where e.agency_id = job.agency_id and e.definition_id = job.id and e.status in ('queued', 'running', 'cancelling')),
    'sync job deleted');
  return jsonb_build_object('id', job.id);
end $$;

revoke all on function public.delete_sync_job from public, anon, authenticated, service_role;
grant execute on function public.delete_sync_job to anon, authenticated, service_role;
