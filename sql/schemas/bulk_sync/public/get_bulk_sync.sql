-- Returns {data: the bulk sync}.
create or replace function public.get_bulk_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return jsonb_build_object('data', app.bulk_sync_object(app.find_definition('bulk_sync', sync_id)));
end $$;

revoke all on function public.get_bulk_sync from public, anon, authenticated, service_role;
grant execute on function public.get_bulk_sync to anon, authenticated, service_role;
