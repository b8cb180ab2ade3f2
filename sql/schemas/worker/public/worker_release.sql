-- Ends the worker's turn by its own decision: out of time, shutting down, or cancelled. The checkpoint is kept and
-- no attempt is counted. An execution that is being cancelled is cancelled now. Returns {result: queued | cancelled |
-- lost}.
create or replace function public.worker_release(execution_id uuid, lease_token bigint, reason text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_leased_execution(execution_id, lease_token);
  v_event constant text := case execution.status when 'cancelling' then 'acknowledge' else 'release' end;
begin
  if execution.id is null then
    return app.lease_result(execution);
  end if;
  update app.executions as e
  set status = app.next_status(e.status, v_event), event = v_event, actor = 'worker:' || e.leased_by,
      reason = left(worker_release.reason, 500), run_at = clock_timestamp()
  where e.id = execution.id
  returning * into execution;
  return jsonb_build_object('result', execution.status);
end $$;

revoke all on function public.worker_release from public, anon, authenticated, service_role;
grant execute on function public.worker_release to service_role;
