-- Cancels the bulk sync's active execution (see app.cancel_definition).
create or replace function public.cancel_bulk_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return app.cancel_definition(caller, 'bulk_sync', sync_id);
end $$;

revoke all on function public.cancel_bulk_sync from public, anon, authenticated, service_role;
grant execute on function public.cancel_bulk_sync to anon, authenticated, service_role;
