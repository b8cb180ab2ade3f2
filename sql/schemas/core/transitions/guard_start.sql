-- Guards the start of an execution. Every execution starts as queued. Status, actor and timestamps are set here, and the
-- statement's values are ignored. SECURITY INVOKER, so that current_user is the real one.
create or replace function app.guard_start()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user not in ('authenticated', 'service_role') then
    perform app.require_table_owner(tg_relid);
  end if;
  if not exists (select from app.families as f where f.family = new.family) then
    perform app.raise_error(400, 'unknown_family', 'Unknown family.');
  end if;
  new.status := 'queued';
  new.event := 'start';
  new.actor := app.resolve_actor(new.agency_id, new.actor);
  new.request_id := app.request_id();
  new.created_at := clock_timestamp();
  new.created_by := new.actor;
  -- Columns that transitions set start empty.
  select 0, null, null, null, 0, 0, 0, null, null, null, null, null, null, null, null
  into new.lease_token, new.leased_by, new.lease_seconds, new.lease_expires_at, new.attempts, new.seq, new.records,
    new.error, new.started_at, new.finished_at, new.deleted_at,
    new.cancel_requested_at, new.cancel_deadline, new.cancelled_by, new.cancel_reason;
  return new;
end $$;

revoke all on function app.guard_start from public, anon, authenticated, service_role;
