-- A connection that the caller sees, without its secret; null when there is none. Holds nothing: who only looks keeps nobody
-- waiting.
create or replace function app.read_connection(id uuid)
returns app.connections
language plpgsql
stable
set search_path = ''
as $$
declare
  connection app.connections;
begin
  select c.id, c.agency_id, c.kind, c.name, c.config, c.created_at, c.created_by, c.updated_at
  into connection.id, connection.agency_id, connection.kind, connection.name, connection.config, connection.created_at,
    connection.created_by, connection.updated_at
  from app.connections as c
  where c.id = read_connection.id and c.deleted_at is null;
  return connection;
end $$;

revoke all on function app.read_connection from public;
grant execute on function app.read_connection to authenticated, service_role;
