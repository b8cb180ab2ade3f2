-- Lists the agency's API keys, newest first, including revoked ones. Returns {api_keys}.
create or replace function public.list_api_keys()
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return jsonb_build_object('api_keys', (
    select coalesce(jsonb_agg(app.api_key_object(k.id) order by k.created_at desc, k.id), '[]')
    from (select recent.id, recent.created_at from app.api_keys as recent
          where recent.agency_id = caller.agency_id order by recent.created_at desc, recent.id limit 1000) as k));
end $$;

revoke all on function public.list_api_keys from public, anon, authenticated, service_role;
grant execute on function public.list_api_keys to authenticated;
