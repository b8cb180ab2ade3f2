-- Cancels an execution on behalf of its webhook, which does not want it, at once. Returns {result: cancelled | lost}.
create or replace function public.worker_stop(execution_id uuid, lease_token bigint, reason text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_leased_execution(execution_id, lease_token);
begin
  if execution.id is null then
    return app.lease_result(execution);
  end if;
  execution := app.cancel_execution(execution.family, execution.id, reason);
  return jsonb_build_object('result', execution.status);
end $$;

revoke all on function public.worker_stop from public, anon, authenticated, service_role;
grant execute on function public.worker_stop to service_role;
