-- Records when an API key was last used, to the minute and without waiting for locks. Not called in read-only
-- transactions.
create or replace function app.touch_api_key()
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update app.api_keys as k set last_used_at = now()
  where k.id = (
    select used.id from app.api_keys as used
    where used.hash = sha256(convert_to(app.agency_key(), 'UTF8'))
      and coalesce(used.last_used_at, '-infinity') < now() - interval '1 minute'
    for update skip locked);
end $$;

revoke all on function app.touch_api_key from public, anon, authenticated, service_role;
grant execute on function app.touch_api_key to anon;
