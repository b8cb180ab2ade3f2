-- Leases at most `limit` queued executions of these families to a worker, oldest first. Answer: their ids.
-- A plan is kept for a session's life and may be made while the table is empty: whatever it promises then, this reads the
-- queue's index in its order and no more of it than it takes.
create or replace function app.lease_queued(worker text, families text[], "limit" int, lease_seconds int)
returns uuid[]
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan -- the settings below leave one plan: to make it anew takes longer than to run it
set lock_timeout = '5s'
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
  first_family text;
  last_family text;
  leased uuid[];
begin
  -- Before 17 the index knows no list of families, but it knows their range: one family's claim passes over the others'
  -- entries without reading their rows.
  select min(f.family), max(f.family) into first_family, last_family from unnest(families) as f (family);
  with taken as (
    update app.executions as e
    set status = 'running', event = 'claim', actor = 'worker:' || worker, reason = null,
        leased_by = worker, lease_seconds = lease_queued.lease_seconds
    where e.id = any(array(
      select q.id from app.executions as q
      where q.status = 'queued' and q.run_at <= now() and q.family = any(families)
        and q.family between first_family and last_family
      order by q.run_at, q.id
      limit lease_queued."limit"
      for update skip locked))
    returning e.id
  )
  select coalesce(array_agg(t.id), '{}') into leased from taken as t;
  return leased;
end $$;

revoke all on function app.lease_queued from public;
grant execute on function app.lease_queued to service_role;
