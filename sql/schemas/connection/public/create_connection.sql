-- Creates a connection: `configuration.secret` is for the worker alone and in no answer.
-- type: http (see the connector's config) or records (where syncs land, configuration {}). A door that has put the secret
-- into a store outside names it by `secret_id` (reserve_secret) instead. Answer: {data: the connection}.
-- With `validate` a source is tested (test_connection) and {check_id} answered: once the look is completed, call it without.
-- Heeds an Idempotency-Key; of a secret outside, its fingerprint tells whether it is the same.
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
  -- Kept for a day to compare with: so of the secret only that it is the same. The key salts it: whoever reads two
  -- answers does not learn that they are of one secret.
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
