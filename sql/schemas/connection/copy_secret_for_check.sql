-- Lets the check of a changed connection use the stored secret, but only if the secret goes to the same address in the
-- same way. Otherwise a caller who does not know the secret could have it sent to themselves.
-- SECURITY DEFINER, because callers cannot read secret_id. Both connections must belong to the caller's agency, and
-- `tested` must have been created for a check.
create or replace function app.copy_secret_for_check(stored uuid, tested uuid)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  agency constant uuid := app.agency_id();
begin
  update app.connections as t set secret_id = s.secret_id
  from app.connections as s
  where s.id = stored and s.agency_id = agency and s.deleted_at is null
    and t.id = tested and t.agency_id = agency and t.deleted_at is not null and t.secret_id is null
    and t.config -> 'base_url' = s.config -> 'base_url'
    and t.config -> 'auth' -> 'type' = s.config -> 'auth' -> 'type';
end $$;

revoke all on function app.copy_secret_for_check from public, anon, authenticated, service_role;
grant execute on function app.copy_secret_for_check to authenticated;
