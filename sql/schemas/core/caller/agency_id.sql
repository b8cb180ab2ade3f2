-- Returns the agency for the policies; null, which matches nothing, unless the caller is live and has an agency.
create or replace function app.agency_id()
returns uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (select identity.agency_id from app.identify() as identity where identity.is_live);
end $$;

revoke all on function app.agency_id from public, anon, authenticated, service_role;
grant execute on function app.agency_id to authenticated;
