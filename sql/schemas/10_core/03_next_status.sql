-- The whole machine on one screen. Null: the move is not allowed. No move leaves completed, failed or cancelled.
create or replace function app.next_status(status text, event text)
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
begin
  return (
    select move.to_status
    from (values
      (null,         'start',          'queued'),
      ('queued',     'claim',          'running'),
      ('queued',     'cancel',         'cancelled'),
      ('running',    'cancel',         'cancelled'),
      ('queued',     'request_cancel', 'cancelled'),
      ('running',    'request_cancel', 'cancelling'),
      ('cancelling', 'acknowledge',    'cancelled'),
      ('cancelling', 'expire',         'cancelled'),
      ('running',    'complete',       'completed'),
      ('cancelling', 'complete',       'completed'),
      ('running',    'fail',           'failed'),
      ('cancelling', 'fail',           'failed'),
      ('running',    'release',        'queued')
    ) as move (from_status, event, to_status)
    where move.from_status is not distinct from next_status.status and move.event = next_status.event
  );
end $$;

revoke all on function app.next_status from public;
grant execute on function app.next_status to authenticated, service_role;
