-- Creates a connection. `configuration.secret` is for the worker only and is never returned.
-- type: http (see the connector's configuration) or records (the destination of syncs, configuration {}). If the secret
-- is in an external store, `secret_id` names it (see reserve_secret). Returns {data: the connection}.
-- With `validate` the source is checked first (see test_connection): the call returns {check_id}; call again without
-- `validate` once the check has completed.
-- Accepts an Idempotency-Key; an external secret is compared by its fingerprint.
create or replace function public.create_connection(
  name text, type text, configuration jsonb default '{}', organization_id uuid default null, secret_id uuid default null,
  validate boolean default false)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  fingerprint constant text := case when secret_id is not null then app.secret_fingerprint(secret_id) end;
  -- Stored for a day for comparison, so only as a hash. The key salts it, so that two stored requests do not reveal that
  -- they have the same secret.
  request constant jsonb := jsonb_build_object('name', name, 'type', type,
    'configuration', encode(sha256(convert_to(
      jsonb_build_array(app.idempotency_key(), configuration, fingerprint)::text, 'UTF8')), 'hex'));
  response jsonb := app.get_idempotent_response(caller, 'create_connection', request);
  connection app.connections;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_organization(caller, organization_id);
  if validate and type <> 'records' then
    return public.test_connection(type, configuration, secret_id => secret_id);
  end if;
  connection := app.insert_connection(caller, name, type, configuration, secret_id);
  response := jsonb_build_object('data', app.connection_object(connection));
  return app.save_idempotent_response(caller, 'create_connection', request, response);
end $$;

revoke all on function public.create_connection from public, anon, authenticated, service_role;
grant execute on function public.create_connection to anon, authenticated, service_role;
