-- Rows of a connection of type records are found by their key. So where an object has rows already, a sync that matches
-- records must match them by the field that is their key; an empty object gets its keys from the sync.
create or replace function app.require_identity(destination app.connections, object text, identity jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  known app.records;
begin
  if identity is null then
    return;
  end if;
  select * into known from app.records as r
  where r.agency_id = destination.agency_id and r.connection_id = destination.id and r.resource = object
  limit 1;
  if found and (known.key not like '[%' or known.key::jsonb <> jsonb_build_array(known.data -> (identity ->> 'target'))) then
    perform app.raise_error(400, 'not_the_identity', 'The object has rows already, and this identity is not what they are told apart by.',
      jsonb_build_object('object', object, 'target', identity -> 'target'));
  end if;
end $$;

revoke all on function app.require_identity from public;
grant execute on function app.require_identity to authenticated, service_role;
