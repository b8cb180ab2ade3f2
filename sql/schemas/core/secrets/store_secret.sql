-- Stores a secret of the caller's agency, in Supabase Vault if that is installed. Returns its id; null for an empty
-- secret.
-- SECURITY DEFINER, because callers can neither read nor write secrets; it rejects every agency but the caller's.
create or replace function app.store_secret(agency uuid, value jsonb)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id constant uuid := app.uuid_v7();
begin
  if (agency = app.agency_id()) is not true then
    perform app.raise_error(403, 'forbidden', 'The secret must belong to your agency.');
  end if;
  if coalesce(value, '{}') = '{}' then
    return null;
  end if;
  if to_regprocedure('vault.create_secret(text,text,text,uuid)') is null then
    insert into app.secrets (id, agency_id, storage, value, used_at) values (v_id, agency, 'database', value, now());
  else
    insert into app.secrets (id, agency_id, storage, vault_id, used_at)
    values (v_id, agency, 'vault', vault.create_secret(value::text, agency || '/' || v_id, 'A connection''s secret'), now());
  end if;
  return v_id;
end $$;

revoke all on function app.store_secret from public, anon, authenticated, service_role;
grant execute on function app.store_secret to authenticated;
