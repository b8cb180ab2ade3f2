-- Raises 400 if the destination's object has rows with another identity. Rows of a connection of type records are found
-- by their key, so a sync that matches records must match them by the field that is their key. An empty object gets its
-- keys from the sync.
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
    perform app.raise_error(400, 'not_the_identity',
      'identity must be the field that identifies the rows that the object already has.',
      jsonb_build_object('object', object, 'target', identity -> 'target'));
  end if;
end $$;

revoke all on function app.require_identity from public, anon, authenticated, service_role;
grant execute on function app.require_identity to authenticated, service_role;
