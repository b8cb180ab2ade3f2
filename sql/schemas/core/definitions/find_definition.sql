-- Returns a definition of this kind, or raises 404, also for another agency's. With `for_share`, it cannot be deleted
-- before this transaction ends.
create or replace function app.find_definition(kind text, id uuid, for_share boolean default false)
returns app.definitions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  definition app.definitions;
begin
  if for_share then
    select * into definition from app.definitions as d
    where d.id = find_definition.id and d.kind = find_definition.kind and d.deleted_at is null
    for share;
  else
    select * into definition from app.definitions as d
    where d.id = find_definition.id and d.kind = find_definition.kind and d.deleted_at is null;
  end if;
  if not found then
    perform app.raise_error(404, kind || '_not_found', 'There is no ' || replace(kind, '_', ' ') || ' with this id.');
  end if;
  return definition;
end $$;

revoke all on function app.find_definition from public, anon, authenticated, service_role;
grant execute on function app.find_definition to authenticated, service_role;
