-- Raises 403 unless the current role owns the table. Called by the guards for roles that are neither users nor the service.
create or replace function app.require_table_owner(guarded oid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user <> pg_get_userbyid((select c.relowner from pg_class as c where c.oid = guarded)) then
    perform app.raise_error(403, 'role_not_allowed', 'This role must not change executions.');
  end if;
end $$;

revoke all on function app.require_table_owner from public, anon, authenticated, service_role;
