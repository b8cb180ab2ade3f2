-- The audit is closed to its owner too: an event comes from a move's trigger and goes from its execution's, so either is
-- done from inside another trigger.
create or replace function app.reject_audit_change()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op in ('UPDATE', 'TRUNCATE') or pg_trigger_depth() < 2 then
    perform app.raise_error(403, 'audit_is_closed', 'The audit is written by moves alone.');
  end if;
  return null;
end $$;

revoke all on function app.reject_audit_change from public;
