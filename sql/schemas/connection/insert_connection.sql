-- Stores a connection and returns it without its secret. With `only_test` it is deleted from the start. The secret is
-- part of `configuration`, or was reserved in the external store (`secret_id`).
create or replace function app.insert_connection(
  caller app.caller, name text, kind text, configuration jsonb, secret_id uuid, only_test boolean default false)
returns app.connections
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_config constant jsonb := configuration - 'secret';
  v_secret constant jsonb := coalesce(nullif(configuration -> 'secret', 'null'), '{}');
  connection app.connections;
begin
  perform app.require_agency(caller, 'connection');
  if kind not in ('http', 'records') then
    perform app.raise_error(400, 'unknown_type', 'type must be http or records.');
  end if;
  if (jsonb_typeof(v_config) = 'object' and jsonb_typeof(v_secret) = 'object') is not true then
    perform app.raise_error(400, 'invalid_configuration', 'configuration and configuration.secret must be objects.');
  end if;
  if v_secret <> '{}' and secret_id is not null then
    perform app.raise_error(400, 'invalid_configuration', 'Give either configuration.secret or secret_id, not both.');
  end if;
  if kind = 'http' and jsonb_typeof(v_config -> 'resources') is distinct from 'object' then
    perform app.raise_error(400, 'invalid_configuration',
      'configuration.resources must be an object with a member for each resource.');
  end if;
  if kind = 'records' and (configuration <> '{}' or secret_id is not null) then
    perform app.raise_error(400, 'invalid_configuration',
      'configuration must be empty for a connection of type records.');
  end if;
  insert into app.connections as c (agency_id, kind, name, config, secret_id, created_by, deleted_at)
  values (caller.agency_id, insert_connection.kind, insert_connection.name, v_config,
    case when secret_id is null then app.store_secret(caller.agency_id, v_secret) else app.use_secret(secret_id) end,
    caller.actor, case when only_test then clock_timestamp() end)
  returning c.id, c.agency_id, c.kind, c.name, c.config, c.created_at, c.created_by, c.updated_at
  into connection.id, connection.agency_id, connection.kind, connection.name, connection.config, connection.created_at,
    connection.created_by, connection.updated_at;
  return connection;
end $$;

revoke all on function app.insert_connection from public, anon, authenticated, service_role;
grant execute on function app.insert_connection to authenticated, service_role;
