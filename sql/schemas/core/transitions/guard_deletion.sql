-- Guards DELETE and TRUNCATE. Only retention (app.purge_executions, run by the tables' owner) deletes executions, and only
-- finished ones. SECURITY INVOKER, so that current_user is the real one.
create or replace function app.guard_deletion()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user not in ('authenticated', 'service_role') then
    perform app.require_table_owner(tg_relid);
  end if;
  if tg_op = 'TRUNCATE' or current_user in ('authenticated', 'service_role') or old.finished_at is null then
    perform app.raise_error(403, 'not_deletable', 'Only retention deletes executions, and only finished ones.');
  end if;
  return old;
end $$;

revoke all on function app.guard_deletion from public, anon, authenticated, service_role;
