-- The only writer of the audit: a definer, because nobody holds INSERT on it.
create or replace function app.record_event()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  insert into app.execution_events
    (agency_id, execution_id, at, event, from_status, to_status, lease, actor, reason, request_id)
  values
    (new.agency_id, new.id, clock_timestamp(), new.event, case when tg_op = 'UPDATE' then old.status end, new.status,
     new.lease, new.actor, new.reason, new.request_id);
  return null;
end $$;

revoke all on function app.record_event from public;
