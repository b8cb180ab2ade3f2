-- Creates a model. configuration: {resource}. Its fields are those that a completed source check of this resource
-- (`check_id`) has found, or the ones among them that `fields` names. Without `check_id` the call starts a check and
-- returns {check_id} for get_source_check; call again with it. Returns {data: the model}. Accepts an Idempotency-Key.
create or replace function public.create_model(
  name text, connection_id uuid, configuration jsonb, check_id uuid default null, fields jsonb default null,
  identifier text default null, organization_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  -- Without check_id, because a repeated request has another.
  request constant jsonb := jsonb_build_object('name', name, 'connection_id', connection_id,
    'configuration', configuration, 'fields', fields, 'identifier', identifier);
  response jsonb := app.get_idempotent_response(caller, 'create_model', request);
  connection app.connections;
  source_check app.executions;
  found_fields jsonb;
  model app.definitions;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_organization(caller, organization_id);
  connection := app.find_connection(connection_id);
  if check_id is null then
    return jsonb_build_object('check_id', (app.start_source_check(connection, coalesce(configuration ->> 'resource', ''))).id);
  end if;
  select * into source_check from app.executions as e
  where e.id = check_id and e.family = 'source_check' and e.status = 'completed' and e.agency_id = connection.agency_id
    and e.connection_id = connection.id and e.spec ->> 'resource' = configuration ->> 'resource';
  if not found then
    perform app.raise_error(400, 'not_checked', 'check_id must be a completed source check of this resource.');
  end if;
  found_fields := source_check.progress -> 'fields';
  if identifier is not null then
    perform app.model_fields(found_fields, jsonb_build_array(identifier));
  end if;
  insert into app.definitions (agency_id, kind, name, source_id, settings, created_by, updated_by)
  values (
    connection.agency_id, 'model', create_model.name, connection.id,
    jsonb_build_object(
      'configuration', jsonb_build_object('resource', configuration -> 'resource'),
      'fields', app.model_fields(found_fields, create_model.fields),
      'identifier', identifier),
    caller.actor, caller.actor)
  returning * into model;
  response := jsonb_build_object('data', app.model_object(model));
  return app.save_idempotent_response(caller, 'create_model', request, response);
end $$;

revoke all on function public.create_model from public, anon, authenticated, service_role;
grant execute on function public.create_model to anon, authenticated, service_role;
