-- Creates a sync job: the resources to read, how they depend on each other, and their arguments. Returns the sync job.
-- Accepts an Idempotency-Key.
create or replace function public.create_sync_job(
  resources jsonb, label text default 'Untitled', integration_name text default '', args_schema jsonb default '{}',
  default_runtime_version int default 3, environment_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('resources', resources, 'label', label, 'integration', integration_name,
    'args_schema', args_schema, 'version', default_runtime_version);
  response jsonb := app.get_idempotent_response(caller, 'create_sync_job', request);
  job app.definitions;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_organization(caller, environment_id);
  perform app.require_agency(caller, 'sync job');
  insert into app.definitions (agency_id, kind, name, settings, created_by, updated_by)
  values (caller.agency_id, 'sync_job', label,
    app.sync_job_settings(integration_name, resources, args_schema, default_runtime_version), caller.actor, caller.actor)
  returning * into job;
  response := app.sync_job_object(job);
  return app.save_idempotent_response(caller, 'create_sync_job', request, response);
end $$;

revoke all on function public.create_sync_job from public, anon, authenticated, service_role;
grant execute on function public.create_sync_job to anon, authenticated, service_role;
