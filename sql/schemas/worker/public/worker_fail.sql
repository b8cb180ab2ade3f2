-- Reports a failure. With `retry`, the execution is queued again after a growing delay until its attempts are used up;
-- otherwise it is failed. An execution that is being cancelled is cancelled instead of retried.
-- error: {code, message}, shown to users. Returns {result: queued | failed | cancelled | lost}.
create or replace function public.worker_fail(execution_id uuid, lease_token bigint, error jsonb, retry boolean default true)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_leased_execution(execution_id, lease_token);
  v_event text;
begin
  if execution.id is null then
    return app.lease_result(execution);
  end if;
  v_event := case
    when not retry then 'fail'
    when execution.status = 'cancelling' then 'acknowledge'
    when execution.attempts + 1 >= execution.max_attempts then 'fail'
    else 'release'
  end;
  update app.executions as e
  set status = app.next_status(e.status, v_event), event = v_event, actor = 'worker:' || e.leased_by,
      reason = left(worker_fail.error ->> 'code', 500), error = worker_fail.error, attempts = e.attempts + 1,
      run_at = clock_timestamp() + app.retry_delay(e.attempts + 1)
  where e.id = execution.id
  returning * into execution;
  return jsonb_build_object('result', execution.status);
end $$;

revoke all on function public.worker_fail from public, anon, authenticated, service_role;
grant execute on function public.worker_fail to service_role;
