-- Completes an execution: running or cancelling → completed. Returns {result: completed | lost}.
create or replace function public.worker_complete(execution_id uuid, lease_token bigint, progress jsonb default null)
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
  update app.executions as e
  set status = 'completed', event = 'complete', actor = 'worker:' || e.leased_by, reason = null,
      progress = coalesce(worker_complete.progress, e.progress), error = null
  where e.id = execution.id;
  return jsonb_build_object('result', 'completed');
end $$;

revoke all on function public.worker_complete from public, anon, authenticated, service_role;
grant execute on function public.worker_complete to service_role;
