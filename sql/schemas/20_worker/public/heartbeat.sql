-- Keeps the lease for another `lease_seconds` of its claim. Answer: see app.lease_answer.
create or replace function public.heartbeat(execution_id uuid, lease bigint)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_lease(execution_id, lease);
begin
  if execution.id is not null then
    update app.executions as e
    set lease_expires_at = clock_timestamp() + make_interval(secs => e.lease_seconds)
    where e.id = execution.id;
  end if;
  return app.lease_answer(execution);
end $$;

revoke all on function public.heartbeat from public, anon, authenticated, service_role;
grant execute on function public.heartbeat to service_role;
