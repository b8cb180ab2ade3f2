-- Raises 403 for a trusted server, which has no agency, where a new row belongs to one. noun: connection, sync job, …
create or replace function app.require_agency(caller app.caller, noun text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if caller.agency_id is null then
    perform app.raise_error(403, 'no_agency', 'A ' || noun || ' requires an agency. Call this as one of its users.');
  end if;
end $$;

revoke all on function app.require_agency from public, anon, authenticated, service_role;
grant execute on function app.require_agency to authenticated, service_role;
