-- Returns the fingerprint with which a secret of the caller's agency was reserved; null for any other.
-- SECURITY DEFINER, because callers cannot read secrets.
create or replace function app.secret_fingerprint(id uuid)
returns text
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select s.fingerprint from app.secrets as s
    where s.id = secret_fingerprint.id and s.agency_id = app.agency_id());
end $$;

revoke all on function app.secret_fingerprint from public, anon, authenticated, service_role;
grant execute on function app.secret_fingerprint to authenticated, service_role;
