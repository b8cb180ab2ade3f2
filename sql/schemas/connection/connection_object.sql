-- Returns a connection as callers see it, without its secret.
create or replace function app.connection_object(connection app.connections)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'id', connection.id,
    'name', connection.name,
    'organization_id', connection.agency_id,
    'type', jsonb_build_object('id', connection.kind, 'name', initcap(connection.kind)),
    'configuration', connection.config,
    'policies', '[]'::jsonb,
    'saved', true,
    'status', null,
    'status_error', null,
    'created_at', connection.created_at,
    'created_by', case when connection.created_by is not null then app.actor_object(connection.created_by) end,
    'updated_at', connection.updated_at);
end $$;

revoke all on function app.connection_object from public, anon, authenticated, service_role;
grant execute on function app.connection_object to authenticated, service_role;
