-- A connection that the caller may use, without its secret, or 404. Held until the transaction ends: nobody deletes it.
create or replace function app.find_connection(id uuid)
returns app.connections
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
begin
  perform from app.connections as c where c.id = find_connection.id and c.deleted_at is null for share;
  if not found then
    perform app.refuse(404, 'connection_not_found', 'There is no connection with this id.');
  end if;
  return app.read_connection(id);
end $$;

revoke all on function app.find_connection from public;
grant execute on function app.find_connection to authenticated, service_role;
