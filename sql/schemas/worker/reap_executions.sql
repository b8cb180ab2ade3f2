-- Takes back the executions of dead workers. After a lost lease an execution is queued again, or failed after the last
-- attempt. A cancel that was not acknowledged in time is forced. Rows that other transactions lock are alive and skipped.
-- Returns the counts {released, failed, cancelled}.
create or replace function app.reap_executions("limit" int)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  dead app.executions;
  v_event text;
  released int := 0;
  failed int := 0;
  cancelled int := 0;
begin
  for dead in
    select * from app.executions as e
    where e.status in ('running', 'cancelling')
      and (e.lease_expires_at < clock_timestamp() or e.status = 'cancelling' and e.cancel_deadline < clock_timestamp())
    order by e.id
    limit reap_executions."limit"
    for update skip locked
  loop
    v_event := case
      when dead.status = 'cancelling' then 'expire'
      when dead.attempts + 1 >= dead.max_attempts then 'fail'
      else 'release'
    end;
    update app.executions as e
    set status = app.next_status(e.status, v_event), event = v_event, actor = 'reaper',
        reason = case when dead.lease_expires_at < clock_timestamp() then 'lease_expired' else 'cancel_deadline' end,
        attempts = e.attempts + 1, run_at = now(), -- not clock_timestamp(): a claim that reaps may take it at once
        error = case v_event
          when 'fail' then jsonb_build_object('code', 'worker_lost', 'message', 'The worker stopped responding too often.')
          else e.error end
    where e.id = dead.id;
    released := released + (v_event = 'release')::int;
    failed := failed + (v_event = 'fail')::int;
    cancelled := cancelled + (v_event = 'expire')::int;
  end loop;
  return jsonb_build_object('released', released, 'failed', failed, 'cancelled', cancelled);
end $$;

revoke all on function app.reap_executions from public, anon, authenticated, service_role;
grant execute on function app.reap_executions to service_role;
