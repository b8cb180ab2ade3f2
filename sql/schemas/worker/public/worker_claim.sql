-- Hands at most `limit` queued executions of these families to a worker, oldest first, each with a new lease, its
-- connection and the connection's secret, as app.get_secret answers it. Where the queue holds fewer, what dead workers
-- left behind is released and handed out too; behind a longer queue that is the tick's to do (see reap).
-- families: JSON array of family names. Answer: JSON array of executions.
create or replace function public.worker_claim(worker text, families jsonb, max_executions int default 1, lease_seconds int default 30)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
  return public.worker_complete_and_claim('{}', worker, families, max_executions, lease_seconds) -> 'claimed';
end $$;

revoke all on function public.worker_claim from public, anon, authenticated, service_role;
grant execute on function public.worker_claim to service_role;
