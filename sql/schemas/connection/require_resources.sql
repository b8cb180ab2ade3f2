-- Raises 400 with the first of these resources that the connection does not have.
create or replace function app.require_resources(connection app.connections, names text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  available constant jsonb := case jsonb_typeof(connection.config -> 'resources')
    when 'object' then connection.config -> 'resources' else '{}' end;
  unknown text;
begin
  select name into unknown from unnest(names) as name where (available ? name) is not true limit 1;
  if found then
    perform app.raise_error(400, 'unknown_resource',
      'The connection does not have this resource. Use one of `available`.',
      jsonb_build_object('resource', left(unknown, 200), 'available', array(select jsonb_object_keys(available))));
  end if;
end $$;

revoke all on function app.require_resources from public, anon, authenticated, service_role;
grant execute on function app.require_resources to authenticated, service_role;
