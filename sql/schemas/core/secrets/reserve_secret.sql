-- Reserves a name in the external store for a secret of the caller's agency. Unless a connection uses it, it is deleted
-- an hour later. SECURITY DEFINER, because callers cannot write secrets; it takes no agency.
create or replace function app.reserve_secret(fingerprint text)
returns app.secrets
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id constant uuid := app.uuid_v7();
  agency constant uuid := app.agency_id();
  reserved app.secrets;
begin
  insert into app.secrets (id, agency_id, storage, name, fingerprint, delete_at)
  values (v_id, agency, 'external', agency || '/' || v_id, reserve_secret.fingerprint, now() + interval '1 hour')
  returning * into reserved;
  return reserved;
end $$;

revoke all on function app.reserve_secret from public, anon, authenticated, service_role;
grant execute on function app.reserve_secret to authenticated;
