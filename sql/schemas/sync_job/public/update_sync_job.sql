-- Changes the given fields of a sync job. Runs that exist already keep theirs. Returns the sync job.
create or replace function public.update_sync_job(
  job_id uuid, resources jsonb default null, label text default null, integration_name text default null,
  args_schema jsonb default null, default_runtime_version int default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  job app.definitions;
begin
  -- Locked for the update at once, because two calls that first share the row would wait for each other.
  perform from app.definitions as d where d.id = job_id and d.kind = 'sync_job' and d.deleted_at is null for no key update;
  job := app.find_definition('sync_job', job_id);
  update app.definitions as d
  set name = coalesce(label, d.name),
      settings = app.sync_job_settings(
        coalesce(update_sync_job.integration_name, d.settings ->> 'integration_name'),
        coalesce(update_sync_job.resources, d.settings -> 'resources'),
        coalesce(update_sync_job.args_schema, d.settings -> 'args_schema'),
        coalesce(update_sync_job.default_runtime_version, (d.settings ->> 'default_runtime_version')::int)),
      updated_at = clock_timestamp(), updated_by = caller.actor
  where d.id = job.id
  returning * into job;
  return app.sync_job_object(job);
end $$;

revoke all on function public.update_sync_job from public, anon, authenticated, service_role;
grant execute on function public.update_sync_job to anon, authenticated, service_role;
