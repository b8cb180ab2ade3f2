-- Takes a reserved secret into use, once, or raises 400. SECURITY DEFINER, because callers cannot write secrets; it
-- finds only those of the caller's agency.
create or replace function app.use_secret(id uuid)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
  update app.secrets as s set used_at = now(), delete_at = null
  where s.id = use_secret.id and s.agency_id = app.agency_id() and s.storage = 'external' and s.used_at is null;
  if not found then
    perform app.raise_error(400, 'unknown_secret',
      'secret_id must be an unused secret of your agency. Reserve another one.');
  end if;
  return id;
end $$;

revoke all on function app.use_secret from public, anon, authenticated, service_role;
grant execute on function app.use_secret to authenticated;
