-- The tick: runs app.reap_executions, deletes idempotent responses after a day, and detaches the secrets of connections
-- under test after five minutes.
-- Returns the counts {released, failed, cancelled}, and `warnings` if users could change their agency (see
-- app.check_adopted_tables).
create or replace function public.worker_reap("limit" int default 100)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  warnings constant jsonb := (select jsonb_agg(problem) from app.check_adopted_tables());
begin
  if ("limit" between 1 and 1000) is not true then
    perform app.raise_error(400, 'invalid_limit', 'limit must be 1 to 1000.');
  end if;
  delete from app.idempotency_keys as k
  where k.id = any(array(
    select old.id from app.idempotency_keys as old
    where old.created_at < now() - interval '24 hours'
    order by old.created_at limit 1000 for update skip locked));
  update app.connections as c set secret_id = null
  where c.id = any(array(
    select tested.id from app.connections as tested
    where tested.deleted_at < now() - interval '5 minutes' and tested.secret_id is not null
    order by tested.id limit 1000 for update skip locked));
  return app.reap_executions("limit") || jsonb_strip_nulls(jsonb_build_object('warnings', warnings));
end $$;

revoke all on function public.worker_reap from public, anon, authenticated, service_role;
grant execute on function public.worker_reap to service_role;
