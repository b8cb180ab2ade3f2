-- A legal move's consequences for the row. Starting from the old row, so that a move changes nothing it does not own.
create or replace function app.apply_transition(before app.executions, wanted app.executions, v_now timestamptz)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_row app.executions := before;
begin
  v_row.status := wanted.status;
  v_row.event := wanted.event;
  v_row.reason := wanted.reason;
  v_row.request_id := app.request_id();
  -- Whoever cancels is asked who they are; the reaper names itself; all else is done by the worker with the lease.
  v_row.actor := case
    when wanted.event in ('cancel', 'request_cancel') then app.resolve_actor(before.agency_id, nullif(wanted.actor, before.actor))
    when wanted.actor = 'reaper' and wanted.event in ('expire', 'fail', 'release') then 'reaper'
    else 'worker:' || case wanted.event when 'claim' then wanted.leased_by else before.leased_by end
  end;

  -- From here on nothing that carries the old lease is accepted.
  if wanted.event in ('claim', 'cancel', 'request_cancel', 'expire', 'release') and wanted.status <> 'cancelling' then
    v_row.lease_token := before.lease_token + 1;
  end if;

  if wanted.status = 'running' then
    v_row.started_at := coalesce(before.started_at, v_now);
    v_row.leased_by := wanted.leased_by;
    v_row.lease_seconds := wanted.lease_seconds;
    v_row.lease_expires_at := v_now + make_interval(secs => wanted.lease_seconds);
  elsif wanted.status <> 'cancelling' then
    v_row.leased_by := null;
    v_row.lease_seconds := null;
    v_row.lease_expires_at := null;
  end if;

  if wanted.event in ('complete', 'fail', 'release') then
    v_row.progress := wanted.progress;
    v_row.error := wanted.error;
    v_row.attempts := wanted.attempts;
    v_row.run_at := wanted.run_at;
  end if;

  if wanted.event in ('cancel', 'request_cancel') then
    v_row.cancel_requested_at := v_now;
    v_row.cancelled_by := v_row.actor;
    v_row.cancel_reason := wanted.reason;
    v_row.cancel_deadline := v_now + (select f.grace from app.families as f where f.family = before.family);
  end if;

  if wanted.status in ('completed', 'failed', 'cancelled') then
    v_row.finished_at := v_now;
  end if;
  return v_row;
end $$;

revoke all on function app.apply_transition from public;
grant execute on function app.apply_transition to authenticated, service_role;
