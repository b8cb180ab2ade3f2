-- Returns a connection's secret for the worker: {secret}, or {secret_ref} if it is in the external store. An unreadable
-- secret is returned empty, which the connector rejects, because an error here would fail the claims of all other
-- executions.
-- SECURITY DEFINER: nothing else reads a value.
create or replace function app.get_secret(id uuid)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  secret app.secrets;
begin
  if id is null then
    return '{"secret": {}}';
  end if;
  select * into secret from app.secrets as s where s.id = get_secret.id;
  if secret.storage = 'external' then
    return jsonb_build_object('secret_ref', secret.name);
  end if;
  if secret.storage = 'vault' then
    begin
      select d.decrypted_secret::jsonb into secret.value from vault.decrypted_secrets as d where d.id = secret.vault_id;
    exception when others then
      raise warning 'cannot read secret % in the Vault: %', id, sqlstate;
    end;
  end if;
  return jsonb_build_object('secret', case when jsonb_typeof(secret.value) = 'object' then secret.value else '{}' end);
end $$;

revoke all on function app.get_secret from public, anon, authenticated, service_role;
grant execute on function app.get_secret to service_role;
