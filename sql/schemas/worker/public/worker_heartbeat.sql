-- Extends the lease by the `lease_seconds` of its claim. Returns what app.lease_result returns.
create or replace function public.worker_heartbeat(execution_id uuid, lease_token bigint)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_leased_execution(execution_id, lease_token);
begin
  if execution.id is not null then
    update app.executions as e
    set lease_expires_at = clock_timestamp() + make_interval(secs => e.lease_seconds)
    where e.id = execution.id;
  end if;
  return app.lease_result(execution);
end $$;

revoke all on function public.worker_heartbeat from public, anon, authenticated, service_role;
grant execute on function public.worker_heartbeat to service_role;
