-- Hands out at most `max_executions` queued executions of these families, oldest first, each with a new lease token, its
-- connection and the connection's secret (see app.get_secret). If the queue has fewer, executions of dead workers are
-- released and handed out too; with a longer queue that is left to the tick (worker_reap).
-- families: JSON array of names. protocol: see worker_complete_and_claim. Returns a JSON array of executions.
create or replace function public.worker_claim(
  worker text, families jsonb, max_executions int default 1, lease_seconds int default 30, protocol int default 1)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
  return public.worker_complete_and_claim('{}', worker, families, max_executions, lease_seconds, protocol) -> 'claimed';
end $$;

revoke all on function public.worker_claim from public, anon, authenticated, service_role;
grant execute on function public.worker_claim to service_role;
