-- Returns a bulk action with its counts.
create or replace function public.get_bulk_action(job_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return app.bulk_action_object(app.find_execution('bulk_action', job_id));
end $$;

revoke all on function public.get_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.get_bulk_action to anon, authenticated, service_role;
