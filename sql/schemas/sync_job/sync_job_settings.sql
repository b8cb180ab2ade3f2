-- Returns the settings of a sync job, validated, as they are stored.
create or replace function app.sync_job_settings(
  integration_name text, resources jsonb, args_schema jsonb, default_runtime_version int)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app.resource_nodes(resources);
  if default_runtime_version not between 1 and 3 then
    perform app.raise_error(422, 'unsupported_field', 'Not supported yet: versions other than 1 to 3.',
      jsonb_build_object('fields', jsonb_build_array('default_runtime_version')));
  end if;
  return jsonb_build_object(
    'integration_name', coalesce(integration_name, ''),
    'resources', resources,
    'args_schema', coalesce(args_schema, '{}'),
    'default_runtime_version', coalesce(default_runtime_version, 3));
end $$;

revoke all on function app.sync_job_settings from public, anon, authenticated, service_role;
grant execute on function app.sync_job_settings to authenticated, service_role;
