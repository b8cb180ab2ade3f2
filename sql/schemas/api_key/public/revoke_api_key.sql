-- Revokes an API key. Calls with it are rejected from now on. Revoking it again changes nothing. Returns the API key.
create or replace function public.revoke_api_key(api_key_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
begin
  update app.api_keys as k set revoked_at = clock_timestamp(), revoked_by = caller.actor
  where k.id = api_key_id and k.agency_id = caller.agency_id and k.revoked_at is null;
  if not found and not exists (select from app.api_keys as k where k.id = api_key_id) then
    perform app.raise_error(404, 'api_key_not_found', 'There is no API key with this id.');
  end if;
  return app.api_key_object(api_key_id);
end $$;

revoke all on function public.revoke_api_key from public, anon, authenticated, service_role;
grant execute on function public.revoke_api_key to authenticated;
