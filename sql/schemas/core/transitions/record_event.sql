-- The only writer of the audit; SECURITY DEFINER, because no role holds INSERT on it. When the lease ends, the delivery
-- in progress under it is marked as unknown in the same commit, and counted. The end of an execution that delivers is
-- itself an event to deliver.
create or replace function app.record_event()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  delivers constant boolean := coalesce(new.spec -> 'write' ->> 'mode' = 'deliver', false);
  unknown_deliveries int;
begin
  if delivers and tg_op = 'UPDATE' and old.leased_by is not null and new.leased_by is null then
    update app.deliveries as d set status = 'unknown', finished_at = clock_timestamp()
    where d.execution_id = new.id and d.status = 'sending';
    get diagnostics unknown_deliveries = row_count;
  end if;
  if delivers and new.finished_at is not null and app.is_subscribed(new, app.terminal_event(new)) then
    insert into app.deliveries (agency_id, execution_id, number, event, status, due_at)
    values (new.agency_id, new.id, -1, app.terminal_event(new), 'queued', clock_timestamp());
  end if;
  insert into app.execution_events
    (agency_id, execution_id, at, event, from_status, to_status, lease_token, actor, reason, request_id, in_flight)
  values
    (new.agency_id, new.id, clock_timestamp(), new.event, case when tg_op = 'UPDATE' then old.status end, new.status,
     new.lease_token, new.actor, new.reason, new.request_id, unknown_deliveries);
  return null;
end $$;

revoke all on function app.record_event from public, anon, authenticated, service_role;
