-- Guards every change of an execution's status: it must be a transition, and its consequences for the row are set here.
-- It starts from the old row, so that a transition changes only the columns that it owns.
-- SECURITY INVOKER, so that current_user is the real one.
create or replace function app.guard_transition()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now constant timestamptz := clock_timestamp(); -- the row may have been locked long after the transaction began
  v_row app.executions := old;
begin
  -- The service role may fire every event but a cancel, so most transitions need no second question.
  if app.next_status(old.status, new.event) is distinct from new.status
     or (current_user <> 'service_role' or new.event in ('cancel', 'request_cancel'))
       and app.may_fire_event(tg_relid, old.family, new.event) is not true then
    perform app.raise_error(409, 'invalid_transition',
      'This transition is not allowed from the status ' || old.status || '.',
      jsonb_build_object('current_status', old.status));
  end if;

  v_row.status := new.status;
  v_row.event := new.event;
  v_row.reason := new.reason;
  v_row.request_id := app.request_id();
  -- The actor of a cancel is its caller, the reaper names itself, and everything else is done by the worker with the lease.
  v_row.actor := case
    when new.event in ('cancel', 'request_cancel') then app.resolve_actor(old.agency_id, nullif(new.actor, old.actor))
    when new.actor = 'reaper' and new.event in ('expire', 'fail', 'release') then 'reaper'
    else 'worker:' || case new.event when 'claim' then new.leased_by else old.leased_by end
  end;

  -- From here on, nothing that carries the old lease token is accepted.
  if new.event in ('claim', 'cancel', 'request_cancel', 'expire', 'release') and new.status <> 'cancelling' then
    v_row.lease_token := old.lease_token + 1;
  end if;

  if new.status = 'running' then
    v_row.started_at := coalesce(old.started_at, v_now);
    v_row.leased_by := new.leased_by;
    v_row.lease_seconds := new.lease_seconds;
    v_row.lease_expires_at := v_now + make_interval(secs => new.lease_seconds);
  elsif new.status <> 'cancelling' then
    v_row.leased_by := null;
    v_row.lease_seconds := null;
    v_row.lease_expires_at := null;
  end if;

  if new.event in ('complete', 'fail', 'release') then
    v_row.progress := new.progress;
    v_row.error := new.error;
    v_row.attempts := new.attempts;
    v_row.run_at := new.run_at;
  end if;

  if new.event in ('cancel', 'request_cancel') then
    v_row.cancel_requested_at := v_now;
    v_row.cancelled_by := v_row.actor;
    v_row.cancel_reason := new.reason;
    v_row.cancel_deadline := v_now + (select f.grace from app.families as f where f.family = old.family);
  end if;

  if new.status in ('completed', 'failed', 'cancelled') then
    v_row.finished_at := v_now;
  end if;
  return v_row;
end $$;

revoke all on function app.guard_transition from public, anon, authenticated, service_role;
