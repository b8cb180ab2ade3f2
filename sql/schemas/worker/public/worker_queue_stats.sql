-- Counts the executions of these families that can be claimed now, up to `limit`, and returns for how long the oldest
-- has been claimable. families: JSON array of names. Returns {executions, oldest_seconds}.
create or replace function public.worker_queue_stats(families jsonb, "limit" int default 20)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  wanted text[];
begin
  if ("limit" between 1 and 100 and jsonb_typeof(families) = 'array') is not true then
    perform app.raise_error(400, 'invalid_limit', 'limit must be 1 to 100, and families a list.');
  end if;
  wanted := array(select jsonb_array_elements_text(families));
  return (
    select jsonb_build_object('executions', count(*),
      'oldest_seconds', coalesce(round(extract(epoch from now() - min(q.run_at))), 0))
    from (
      select e.run_at from app.executions as e
      where e.status = 'queued' and e.run_at <= now() and e.family = any(wanted)
      order by e.run_at, e.id limit worker_queue_stats."limit") as q);
end $$;

revoke all on function public.worker_queue_stats from public, anon, authenticated, service_role;
grant execute on function public.worker_queue_stats to service_role;
