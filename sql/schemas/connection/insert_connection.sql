-- Stores a connection; one that is only to be tested is deleted from the start. Its secret is in `configuration`, or was
-- reserved outside (`secret_id`). Answers it without its secret.
create or replace function app.insert_connection(
  caller app.caller, name text, kind text, configuration jsonb, secret_id uuid, only_test boolean default false)
returns app.connections
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  config_ constant jsonb := configuration - 'secret';
  secret_ constant jsonb := coalesce(nullif(configuration -> 'secret', 'null'), '{}');
  connection app.connections;
begin
  if caller.agency_id is null then
    perform app.raise_error(403, 'no_agency', 'A connection belongs to an agency: create it as one of its users.');
  end if;
  if kind not in ('http', 'records') then
    perform app.raise_error(400, 'unknown_type', 'type is http or records.');
  end if;
  if (jsonb_typeof(config_) = 'object' and jsonb_typeof(secret_) = 'object') is not true then
    perform app.raise_error(400, 'invalid_configuration', 'configuration is an object, and so is its secret.');
  end if;
  if secret_ <> '{}' and secret_id is not null then
    perform app.raise_error(400, 'invalid_configuration', 'The secret is in the configuration or secret_id names it, not both.');
  end if;
  if kind = 'http' and jsonb_typeof(config_ -> 'resources') is distinct from 'object' then
    perform app.raise_error(400, 'invalid_configuration', 'configuration.resources is an object, a member per resource.');
  end if;
  if kind = 'records' and (configuration <> '{}' or secret_id is not null) then
    perform app.raise_error(400, 'invalid_configuration', 'A connection of type records has no configuration.');
  end if;
  insert into app.connections as c (agency_id, kind, name, config, secret_id, created_by, deleted_at)
  values (caller.agency_id, insert_connection.kind, insert_connection.name, config_,
    case when secret_id is null then app.store_secret(caller.agency_id, secret_) else app.use_secret(secret_id) end,
    caller.actor, case when only_test then clock_timestamp() end)
  returning c.id, c.agency_id, c.kind, c.name, c.config, c.created_at, c.created_by, c.updated_at
  into connection.id, connection.agency_id, connection.kind, connection.name, connection.config, connection.created_at,
    connection.created_by, connection.updated_at;
  return connection;
end $$;

revoke all on function app.insert_connection from public;
grant execute on function app.insert_connection to authenticated, service_role;
