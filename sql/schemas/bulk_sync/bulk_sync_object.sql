-- Returns a bulk sync as callers see it: a superset of what the published versions of the API return.
create or replace function app.bulk_sync_object(sync app.definitions)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  manual constant jsonb := jsonb_build_object('frequency', 'manual');
begin
  return jsonb_build_object(
    'id', sync.id,
    'name', sync.name,
    'organization_id', sync.agency_id,
    'active', sync.active,
    'mode', sync.settings -> 'mode',
    'source_connection_id', sync.source_id,
    'source_configuration', '{}'::jsonb,
    'destination_connection_id', sync.destination_id,
    'destination_configuration', sync.settings -> 'destination_configuration',
    'schemas', sync.settings -> 'schemas',
    'schedule', manual,
    'default_schedule', manual || jsonb_build_object('id', sync.id),
    'additional_schedules', '[]'::jsonb,
    'policies', '[]'::jsonb,
    'discover', false,
    'automatically_add_new_fields', 'all',
    'automatically_add_new_objects', 'none',
    'normalize_names', 'disabled',
    'disable_record_timestamps', false,
    'created_at', sync.created_at,
    'created_by', app.actor_object(sync.created_by),
    'updated_at', sync.updated_at,
    'updated_by', app.actor_object(sync.updated_by));
end $$;

revoke all on function app.bulk_sync_object from public, anon, authenticated, service_role;
grant execute on function app.bulk_sync_object to authenticated, service_role;
