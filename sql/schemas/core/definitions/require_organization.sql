-- Raises 403 if the request names an organization (the published APIs' name for an agency) other than the caller's.
create or replace function app.require_organization(caller app.caller, organization_id uuid)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if organization_id is not null and organization_id is distinct from caller.agency_id then
    perform app.raise_error(403, 'other_organization', 'organization_id must be your own. Omit it.');
  end if;
end $$;

revoke all on function app.require_organization from public, anon, authenticated, service_role;
grant execute on function app.require_organization to authenticated, service_role;
