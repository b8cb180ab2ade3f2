-- What the database allows, whoever asks: authenticated users start and cancel, trusted roles make the other legal
-- moves, and nobody makes an illegal one. It alone sets lease, actor of a user, and timestamps; it runs after the
-- row is locked, hence clock_timestamp(). SECURITY INVOKER: current_user is whoever it really is.
create or replace function app.guard_execution()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  by_user constant boolean := current_user = 'authenticated';
  v_now constant timestamptz := clock_timestamp();
  owner name; -- of the table, where it is the owner who acts
  probe app.executions;
  is_legal boolean;
begin
  -- Queries stand in statements of their own: an expression that holds one costs a query even where it is not needed.
  if not by_user and current_user <> 'service_role' then
    owner := pg_catalog.pg_get_userbyid((select c.relowner from pg_catalog.pg_class as c where c.oid = tg_relid));
    if current_user <> owner then
      perform app.raise_error(403, 'role_not_allowed', 'This role may not change executions.');
    end if;
  end if;

  if tg_op = 'TRUNCATE' then
    perform app.raise_error(403, 'not_deletable', 'Only retention deletes executions, and only finished ones.');
  end if;

  if tg_op = 'DELETE' then
    if owner is null or old.finished_at is null then
      perform app.raise_error(403, 'not_deletable', 'Only retention deletes executions, and only finished ones.');
    end if;
    return old;
  end if;

  if tg_op = 'INSERT' then
    if not exists (select from app.families as f where f.family = new.family) then
      perform app.raise_error(400, 'unknown_family', 'There is no such family of executions.');
    end if;
    new.status := 'queued';
    new.event := 'start';
    new.actor := app.resolve_actor(new.agency_id, new.actor);
    new.request_id := app.request_id();
    new.created_at := v_now;
    new.created_by := new.actor;
    -- Everything that moves set begins empty, whatever the statement said.
    select 0, null, null, null, 0, 0, 0, null, null, null, null, null, null, null, null
    into new.lease_token, new.leased_by, new.lease_seconds, new.lease_expires_at, new.attempts, new.seq, new.records,
      new.error, new.started_at, new.finished_at, new.deleted_at,
      new.cancel_requested_at, new.cancel_deadline, new.cancelled_by, new.cancel_reason;
    return new;
  end if;

  if new.status = old.status then
    -- No move. A finished row may be marked as deleted; a leased one moves forward; anything else is refused,
    -- but for the foreign key's own update, when retention drops what this execution retried.
    probe := new;
    if new.retry_of is null and old.retry_of is not null
       and not exists (select from app.executions as e where e.id = old.retry_of) then
      probe.retry_of := old.retry_of;
    end if;
    if old.finished_at is not null and by_user and old.deleted_at is null and new.deleted_at is not null then
      new.deleted_at := v_now;
      probe.deleted_at := null;
    elsif old.finished_at is not null and not by_user then
      probe.deleted_at := old.deleted_at;
    elsif not by_user and old.leased_by is not null and new.seq >= old.seq and new.records >= old.records then
      probe.lease_expires_at := old.lease_expires_at;
      probe.attempts := old.attempts;
      probe.seq := old.seq;
      probe.checkpoint := old.checkpoint;
      probe.records := old.records;
      probe.progress := old.progress;
    end if;
    if probe is distinct from old then
      perform app.raise_error(403, 'not_a_transition', 'An execution changes by its moves alone.', jsonb_build_object('current_status', old.status));
    end if;
    return new;
  end if;

  is_legal := app.next_status(old.status, new.event) is not distinct from new.status;
  if new.event in ('cancel', 'request_cancel') then
    is_legal := is_legal and new.event = (select f.cancel_event from app.families as f where f.family = old.family);
  elsif by_user then
    is_legal := false;
  end if;
  if is_legal is not true then
    perform app.raise_error(409, 'invalid_transition', 'An execution that is ' || old.status || ' cannot do that.', jsonb_build_object('current_status', old.status));
  end if;
  return app.apply_transition(old, new, v_now);
end $$;

revoke all on function app.guard_execution from public;
