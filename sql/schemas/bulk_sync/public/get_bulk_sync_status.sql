-- Returns the newest execution, which stays current after its end until another starts, and the newest finished one:
-- {data: {current_execution, last_execution, next_execution_time, ingestion_status}}.
create or replace function public.get_bulk_sync_status(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  sync constant app.definitions := app.find_definition('bulk_sync', sync_id);
begin
  return jsonb_build_object('data', jsonb_build_object(
    'current_execution', app.bulk_sync_execution_object(app.newest_execution(sync)),
    'last_execution', app.bulk_sync_execution_object(app.newest_execution(sync, ended => true)),
    'next_execution_time', null,
    'ingestion_status', null));
end $$;

revoke all on function public.get_bulk_sync_status from public, anon, authenticated, service_role;
grant execute on function public.get_bulk_sync_status to anon, authenticated, service_role;
