-- Creates an API key for the user's agency. Returns {key, api_key}. The key is shown only this once.
create or replace function public.create_api_key(name text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  -- Two random uuids have 244 random bits.
  key constant text := 'sync_' || replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
  id uuid;
begin
  insert into app.api_keys (agency_id, name, hash, hint, created_by)
  values (caller.agency_id, create_api_key.name, sha256(convert_to(key, 'UTF8')), right(key, 4), caller.actor)
  returning api_keys.id into id;
  return jsonb_build_object('key', key, 'api_key', app.api_key_object(id));
end $$;

revoke all on function public.create_api_key from public, anon, authenticated, service_role;
grant execute on function public.create_api_key to authenticated;
