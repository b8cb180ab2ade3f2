-- Cancels the active execution and deletes the bulk sync. Returns null.
create or replace function public.delete_bulk_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  perform app.delete_definition('bulk_sync', sync_id);
  return null;
end $$;

revoke all on function public.delete_bulk_sync from public, anon, authenticated, service_role;
grant execute on function public.delete_bulk_sync to anon, authenticated, service_role;
