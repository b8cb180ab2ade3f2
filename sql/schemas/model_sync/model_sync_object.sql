-- Returns a model sync as callers see it: a superset of what the published versions of the API return.
create or replace function app.model_sync_object(sync app.definitions)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'id', sync.id,
    'name', sync.name,
    'organization_id', sync.agency_id,
    'active', sync.active,
    'mode', sync.settings -> 'mode',
    'model_ids', jsonb_build_array(sync.settings -> 'model_id'),
    'fields', sync.settings -> 'fields',
    'identity', sync.settings -> 'identity',
    'target', jsonb_build_object(
      'connection_id', sync.destination_id, 'object', sync.settings -> 'object', 'configuration', '{}'::jsonb),
    'target_connection_id', sync.destination_id,
    'target_object', sync.settings -> 'object',
    'schedule', jsonb_build_object('frequency', 'manual'),
    'sync_all_records', sync.settings -> 'sync_all_records',
    'override_fields', '[]'::jsonb,
    'overrides', '[]'::jsonb,
    'filters', '[]'::jsonb,
    'filter_logic', '',
    'only_enrich_updates', false,
    'skip_initial_backfill', false,
    'policies', '[]'::jsonb,
    'problems', '[]'::jsonb,
    'created_at', sync.created_at,
    'created_by', app.actor_object(sync.created_by),
    'updated_at', sync.updated_at,
    'updated_by', app.actor_object(sync.updated_by));
end $$;

revoke all on function app.model_sync_object from public, anon, authenticated, service_role;
grant execute on function app.model_sync_object to authenticated, service_role;
