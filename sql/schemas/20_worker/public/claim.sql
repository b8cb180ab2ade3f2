-- Hands at most `limit` queued executions of these families to a worker, oldest first, each with a new lease, its
-- connection and the connection's secret, as app.reveal_secret answers it. Where the queue holds fewer, what dead workers
-- left behind is released and handed out too; behind a longer queue that is the tick's to do (see reap).
-- families: JSON array of family names. Answer: JSON array of executions.
create or replace function public.claim(worker text, families jsonb, "limit" int default 1, lease_seconds int default 30)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
begin
  return public.finish_and_claim('{}', worker, families, "limit", lease_seconds) -> 'claimed';
end $$;

revoke all on function public.claim from public, anon, authenticated, service_role;
grant execute on function public.claim to service_role;
