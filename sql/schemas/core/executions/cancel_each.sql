-- Cancels the active ones among these executions. Locks them in id order, as all code that locks several executions
-- does.
create or replace function app.cancel_each(ids uuid[], reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  active app.executions;
begin
  for active in
    select * from app.executions as e
    where e.id = any(ids) and e.status in ('queued', 'running', 'cancelling')
    order by e.id for update
  loop
    perform app.cancel_execution(active.family, active.id, reason);
  end loop;
end $$;

revoke all on function app.cancel_each from public, anon, authenticated, service_role;
grant execute on function app.cancel_each to authenticated, service_role;
