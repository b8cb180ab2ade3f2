-- Raises 400 unless the connection can be read from.
create or replace function app.require_source(connection app.connections)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if connection.kind <> 'http' then
    perform app.raise_error(400, 'not_a_source', 'The source must be a connection of type http.');
  end if;
end $$;

revoke all on function app.require_source from public, anon, authenticated, service_role;
grant execute on function app.require_source to authenticated, service_role;
