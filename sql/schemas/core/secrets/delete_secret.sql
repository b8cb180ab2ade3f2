-- Deletes the secret that a connection had, unless a live connection uses it too (a check borrows the stored
-- connection's). A trigger, so that it runs whatever deletes the connection.
-- SECURITY DEFINER, because callers cannot write secrets; it cannot be called directly.
create or replace function app.delete_secret()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  secret app.secrets;
begin
  if exists (
      select from app.connections as c
      where c.agency_id = old.agency_id and c.secret_id = old.secret_id and c.deleted_at is null) then
    return null;
  end if;
  update app.secrets as s set used_at = coalesce(s.used_at, now()), delete_at = now()
  where s.id = old.secret_id and s.storage = 'external';
  delete from app.secrets as s where s.id = old.secret_id and s.storage <> 'external' returning s.* into secret;
  if secret.vault_id is not null then
    delete from vault.secrets as v where v.id = secret.vault_id;
  end if;
  return null;
end $$;

revoke all on function app.delete_secret from public, anon, authenticated, service_role;
