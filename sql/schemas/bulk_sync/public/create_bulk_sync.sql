-- Creates a bulk sync, which copies schemas (resources of the source) to a connection of type records.
-- schemas: [{id, enabled}], null for all that exist now. destination_configuration: {schema}, a prefix of the names
-- there.
-- Returns {data: the bulk sync}. Accepts an Idempotency-Key.
create or replace function public.create_bulk_sync(
  name text, source_connection_id uuid, destination_connection_id uuid, destination_configuration jsonb default '{}',
  schemas jsonb default null, mode text default 'replicate', active boolean default true, organization_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object(
    'name', name, 'source', source_connection_id, 'destination', destination_connection_id,
    'configuration', destination_configuration, 'schemas', schemas, 'mode', mode, 'active', active);
  response jsonb := app.get_idempotent_response(caller, 'create_bulk_sync', request);
  source app.connections;
  destination app.connections;
  sync app.definitions;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_organization(caller, organization_id);
  source := app.find_connection(source_connection_id);
  destination := app.find_connection(destination_connection_id);
  perform app.require_source(source);
  if destination.kind <> 'records' then
    perform app.raise_error(400, 'not_a_destination', 'The destination must be a connection of type records.');
  end if;
  if source.agency_id <> destination.agency_id then
    perform app.raise_error(404, 'connection_not_found', 'There is no connection with this id.');
  end if;
  if mode not in ('replicate', 'append') then
    perform app.raise_error(422, 'unsupported_field',
      'mode must be replicate or append.', jsonb_build_object('fields', jsonb_build_array('mode')));
  end if;
  insert into app.definitions (agency_id, kind, name, source_id, destination_id, active, settings, created_by, updated_by)
  values (
    source.agency_id, 'bulk_sync', create_bulk_sync.name, source.id, destination.id, create_bulk_sync.active,
    jsonb_build_object(
      'mode', mode,
      'destination_configuration', destination_configuration,
      'schemas', app.bulk_sync_schemas(source, schemas, destination_configuration ->> 'schema')),
    caller.actor, caller.actor)
  returning * into sync;
  response := jsonb_build_object('data', app.bulk_sync_object(sync));
  return app.save_idempotent_response(caller, 'create_bulk_sync', request, response);
end $$;

revoke all on function public.create_bulk_sync from public, anon, authenticated, service_role;
grant execute on function public.create_bulk_sync to anon, authenticated, service_role;
