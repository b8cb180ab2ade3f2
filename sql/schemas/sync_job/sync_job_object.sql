-- Returns a sync job as callers see it, also a deleted one whose run is shown.
create or replace function app.sync_job_object(job app.definitions)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'id', job.id,
    'label', job.name,
    'integration_name', job.settings -> 'integration_name',
    'environment_id', job.agency_id,
    'args_schema', job.settings -> 'args_schema',
    'resources', job.settings -> 'resources',
    'default_runtime_version', job.settings -> 'default_runtime_version',
    'created_at', job.created_at,
    'updated_at', job.updated_at);
end $$;

revoke all on function app.sync_job_object from public, anon, authenticated, service_role;
grant execute on function app.sync_job_object to authenticated, service_role;
