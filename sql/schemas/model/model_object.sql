-- Returns a model as callers see it: a query over a resource of a connection, and the fields that a source check has
-- found.
create or replace function app.model_object(model app.definitions)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'id', model.id,
    'name', model.name,
    'organization_id', model.agency_id,
    'connection_id', model.source_id,
    'configuration', model.settings -> 'configuration',
    'fields', model.settings -> 'fields',
    'identifier', model.settings -> 'identifier',
    'type', 'http',
    'version', 1,
    'labels', '[]'::jsonb,
    'policies', '[]'::jsonb,
    'relations', '[]'::jsonb,
    'tracking_columns', '[]'::jsonb,
    'created_at', model.created_at,
    'created_by', app.actor_object(model.created_by),
    'updated_at', model.updated_at,
    'updated_by', app.actor_object(model.updated_by));
end $$;

revoke all on function app.model_object from public, anon, authenticated, service_role;
grant execute on function app.model_object to authenticated, service_role;
