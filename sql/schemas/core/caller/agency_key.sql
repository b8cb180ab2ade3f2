-- Returns the agency's API key that this request carries, or null.
create or replace function app.agency_key()
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return nullif(nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-agency-key', '');
end $$;

revoke all on function app.agency_key from public, anon, authenticated, service_role;
grant execute on function app.agency_key to anon;
