-- Protects the audit from every role, its owner included. Events are written and deleted only by triggers of their
-- execution, so only from inside another trigger.
create or replace function app.reject_audit_change()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op in ('UPDATE', 'TRUNCATE') or pg_trigger_depth() < 2 then
    perform app.raise_error(403, 'audit_is_closed', 'The audit is written by state transitions only.');
  end if;
  return null;
end $$;

revoke all on function app.reject_audit_change from public, anon, authenticated, service_role;
