-- Defines a model: configuration {resource}, its fields those that a completed look (`check_id`, of this very resource) has
-- found, or of these the ones named. Without a look it has the worker begin one and answers {check_id}, for get_source_check: call
-- again with it. Answer: {data: the model}. Heeds an Idempotency-Key.
create or replace function public.create_model(
  name text, connection_id uuid, configuration jsonb, check_id uuid default null, fields jsonb default null,
  identifier text default null, organization_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  -- Not the look: who asks again has another.
  request constant jsonb := jsonb_build_object('name', name, 'connection_id', connection_id,
    'configuration', configuration, 'fields', fields, 'identifier', identifier);
  response jsonb := app.get_idempotent_response(caller, 'create_model', request);
  connection app.connections;
  look app.executions;
  seen jsonb;
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
  select * into look from app.executions as e
  where e.id = check_id and e.family = 'source_check' and e.status = 'completed' and e.agency_id = connection.agency_id
    and e.connection_id = connection.id and e.spec ->> 'resource' = configuration ->> 'resource';
  if not found then
    perform app.raise_error(400, 'not_looked_at', 'No completed look at this resource has this check_id.');
  end if;
  seen := look.progress -> 'fields';
  if identifier is not null then
    perform app.model_fields(seen, jsonb_build_array(identifier));
  end if;
  insert into app.definitions (agency_id, kind, name, source_id, settings, created_by, updated_by)
  values (
    connection.agency_id, 'model', create_model.name, connection.id,
    jsonb_build_object(
      'configuration', jsonb_build_object('resource', configuration -> 'resource'),
      'fields', app.model_fields(seen, create_model.fields),
      'identifier', identifier),
    caller.actor, caller.actor)
  returning * into model;
  response := jsonb_build_object('data', app.model_object(model));
  return app.save_idempotent_response(caller, 'create_model', request, response);
end $$;

revoke all on function public.create_model from public, anon, authenticated, service_role;
grant execute on function public.create_model to anon, authenticated, service_role;
