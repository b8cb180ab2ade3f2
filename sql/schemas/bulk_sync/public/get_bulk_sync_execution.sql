-- Returns {data: an execution of the bulk sync}, with the status and counts of each schema.
create or replace function public.get_bulk_sync_execution(sync_id uuid, execution_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  sync constant app.definitions := app.find_definition('bulk_sync', sync_id);
begin
  return jsonb_build_object('data', app.bulk_sync_execution_object(app.find_execution(sync.kind, execution_id, sync.id)));
end $$;

revoke all on function public.get_bulk_sync_execution from public, anon, authenticated, service_role;
grant execute on function public.get_bulk_sync_execution to anon, authenticated, service_role;
