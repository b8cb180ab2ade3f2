-- Creates a model sync, which writes fields of a model to the rows of an object (a resource of a connection of type
-- records).
--   fields    [{source: {model_id, field}, target}], at least one, each target once
--   identity  {source: {model_id, field}, target, function: Equality}: how a record finds its row; not for mode append
--   mode      create, update, updateOrCreate or append; with sync_all_records false, unchanged rows are not written
-- Returns {data: the model sync}. Accepts an Idempotency-Key.
create or replace function public.create_model_sync(
  name text, mode text, target jsonb, fields jsonb, identity jsonb default null, active boolean default true,
  sync_all_records boolean default true, organization_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('name', name, 'mode', mode, 'target', target, 'fields', fields,
    'identity', identity, 'active', active, 'all', sync_all_records);
  response jsonb := app.get_idempotent_response(caller, 'create_model_sync', request);
  destination app.connections;
  model app.definitions;
  sync app.definitions;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_organization(caller, organization_id);
  if (mode in ('create', 'update', 'updateOrCreate', 'append')) is not true then
    perform app.raise_error(422, 'unsupported_field', 'mode must be create, update, updateOrCreate or append.',
      jsonb_build_object('fields', jsonb_build_array('mode')));
  end if;
  if mode <> 'append' and identity is null then
    perform app.raise_error(400, 'identity_required', 'identity is required unless mode is append.');
  end if;
  if jsonb_array_length(fields) <> (select count(distinct f ->> 'target') from jsonb_array_elements(fields) as f)
     or exists (select from jsonb_array_elements(fields) as f
                where f ->> 'target' = identity ->> 'target' and f -> 'source' <> identity -> 'source') then
    perform app.raise_error(400, 'ambiguous_target', 'Each target must be used by one field only.');
  end if;
  model := app.model_sync_model(fields, identity);
  destination := app.find_connection((target ->> 'connection_id')::uuid);
  if destination.kind <> 'records' then
    perform app.raise_error(400, 'not_a_destination', 'target.connection_id must be a connection of type records.');
  end if;
  if destination.agency_id <> model.agency_id then
    perform app.raise_error(404, 'connection_not_found', 'There is no connection with this id.');
  end if;
  perform app.require_identity(destination, target ->> 'object', case when mode <> 'append' then identity end);
  insert into app.definitions (agency_id, kind, name, source_id, destination_id, active, settings, created_by, updated_by)
  values (
    model.agency_id, 'model_sync', create_model_sync.name, model.source_id, destination.id, create_model_sync.active,
    jsonb_build_object(
      'mode', mode,
      'model_id', model.id,
      'resource', model.settings -> 'configuration' -> 'resource',
      'object', target -> 'object',
      'fields', fields,
      'identity', identity,
      'sync_all_records', sync_all_records),
    caller.actor, caller.actor)
  returning * into sync;
  response := jsonb_build_object('data', app.model_sync_object(sync));
  return app.save_idempotent_response(caller, 'create_model_sync', request, response);
end $$;

revoke all on function public.create_model_sync from public, anon, authenticated, service_role;
grant execute on function public.create_model_sync to anon, authenticated, service_role;
