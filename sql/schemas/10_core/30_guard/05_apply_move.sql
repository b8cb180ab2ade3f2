-- A legal move's consequences for the row. Starting from the old row, so that a move changes nothing it does not own.
create or replace function app.apply_move(before app.executions, wanted app.executions, now_ timestamptz)
returns app.executions
language plpgsql
set search_path = ''
as $$
declare
  row_ app.executions := before;
begin
  row_.status := wanted.status;
  row_.event := wanted.event;
  row_.reason := wanted.reason;
  row_.request_id := app.request_id();
  -- Whoever cancels is asked who they are; the reaper names itself; all else is done by the worker with the lease.
  row_.actor := case
    when wanted.event in ('cancel', 'request_cancel') then app.acting(before.agency_id, nullif(wanted.actor, before.actor))
    when wanted.actor = 'reaper' and wanted.event in ('expire', 'fail', 'release') then 'reaper'
    else 'worker:' || case wanted.event when 'claim' then wanted.leased_by else before.leased_by end
  end;

  -- From here on nothing that carries the old lease is accepted.
  if wanted.event in ('claim', 'cancel', 'request_cancel', 'expire', 'release') and wanted.status <> 'cancelling' then
    row_.lease := before.lease + 1;
  end if;

  if wanted.status = 'running' then
    row_.started_at := coalesce(before.started_at, now_);
    row_.leased_by := wanted.leased_by;
    row_.lease_seconds := wanted.lease_seconds;
    row_.lease_expires_at := now_ + make_interval(secs => wanted.lease_seconds);
  elsif wanted.status <> 'cancelling' then
    row_.leased_by := null;
    row_.lease_seconds := null;
    row_.lease_expires_at := null;
  end if;

  if wanted.event in ('complete', 'fail', 'release') then
    row_.progress := wanted.progress;
    row_.error := wanted.error;
    row_.attempts := wanted.attempts;
    row_.run_at := wanted.run_at;
  end if;

  if wanted.event in ('cancel', 'request_cancel') then
    row_.cancel_requested_at := now_;
    row_.cancelled_by := row_.actor;
    row_.cancel_reason := wanted.reason;
    row_.cancel_deadline := now_ + (select f.grace from app.families as f where f.family = before.family);
  end if;

  if wanted.status in ('completed', 'failed', 'cancelled') then
    row_.finished_at := now_;
  end if;
  return row_;
end $$;

revoke all on function app.apply_move from public;
grant execute on function app.apply_move to authenticated, service_role;
