-- Returns a connection that the caller may use, without its secret, or raises 404. Webhooks belong to another API. With
-- `for_share`, it cannot be deleted before this transaction ends. Without `for_share`, the call waits for no lock.
create or replace function app.find_connection(id uuid, for_share boolean default true)
returns app.connections
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  connection app.connections;
begin
  if for_share then
    perform from app.connections as c where c.id = find_connection.id and c.deleted_at is null for share;
  end if;
  select c.id, c.agency_id, c.kind, c.name, c.config, c.created_at, c.created_by, c.updated_at
  into connection.id, connection.agency_id, connection.kind, connection.name, connection.config, connection.created_at,
    connection.created_by, connection.updated_at
  from app.connections as c
  where c.id = find_connection.id and c.deleted_at is null and c.kind <> 'webhook';
  if not found then
    perform app.raise_error(404, 'connection_not_found', 'There is no connection with this id.');
  end if;
  return connection;
end $$;

revoke all on function app.find_connection from public, anon, authenticated, service_role;
grant execute on function app.find_connection to authenticated, service_role;
