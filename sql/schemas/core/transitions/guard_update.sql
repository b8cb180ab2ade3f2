-- Guards every update that leaves an execution's status as it is. A finished execution may be marked as deleted, and the
-- worker's calls advance a leased one. All other columns change only in a transition.
-- SECURITY INVOKER, so that current_user is the real one.
create or replace function app.guard_update()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  by_user constant boolean := current_user = 'authenticated';
  probe app.executions := new; -- `new` without the changes that are allowed
begin
  if not by_user and current_user <> 'service_role' then
    perform app.require_table_owner(tg_relid);
  end if;
  -- The foreign key sets retry_of to null when retention drops the execution that this one retried. The query is a
  -- statement of its own, because an expression with a query in it costs that query each time.
  if new.retry_of is null and old.retry_of is not null then
    if not exists (select from app.executions as e where e.id = old.retry_of) then
      probe.retry_of := old.retry_of;
    end if;
  end if;
  if old.finished_at is not null and by_user and old.deleted_at is null and new.deleted_at is not null then
    new.deleted_at := clock_timestamp();
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
    perform app.raise_error(403, 'not_a_transition', 'Executions change only through state transitions.',
      jsonb_build_object('current_status', old.status));
  end if;
  return new;
end $$;

revoke all on function app.guard_update from public, anon, authenticated, service_role;
