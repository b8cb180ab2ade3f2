-- The published APIs call an agency an organization and let callers name it: it can only be their own.
create or replace function app.require_organization(caller app.caller, organization_id uuid)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if organization_id is not null and organization_id is distinct from caller.agency_id then
    perform app.raise_error(403, 'other_organization', 'You can only act in your own organization. Leave its id out.');
  end if;
end $$;

revoke all on function app.require_organization from public;
grant execute on function app.require_organization to authenticated, service_role;
