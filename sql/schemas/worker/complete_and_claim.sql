-- One turn of a worker in one statement and one commit: completes the executions that `leases` still hold, and claims
-- at most `limit` queued executions of these families, oldest first. It waits for no lock and skips rows that others
-- have locked.
-- leases: {execution_id: lease_token}, at most 100; families: JSON array of names.
-- A plan lives as long as its session and may be made while the table is empty. The settings below leave only the plan
-- that reads the queue's index in order, and no more of it than it takes.
create or replace function app.complete_and_claim(
  leases jsonb, worker text default null, families jsonb default '[]', "limit" int default 0, lease_seconds int default null,
  out completed uuid[], out claimed uuid[])
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan -- the settings below leave one plan: to make it anew takes longer than to run it
set lock_timeout = '5s'
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
  to_complete uuid[] := '{}';
  wanted text[];
  first_family text;
  last_family text;
begin
  if jsonb_typeof(leases) is distinct from 'object' then
    perform app.raise_error(400, 'invalid_leases', 'leases must be an object of lease tokens by execution id.');
  end if;
  if leases <> '{}' then
    to_complete := array(select jsonb_object_keys(leases)::uuid order by 1);
  end if;
  if cardinality(to_complete) > 100 then
    perform app.raise_error(400, 'invalid_leases', 'At most 100 executions can be completed in one call.');
  end if;
  -- Before Postgres 17 an index scan cannot use the list of families, but it can use their range, so that the claim of one
  -- family skips the others' entries without reading their rows.
  select array_agg(f.family), min(f.family), max(f.family) into wanted, first_family, last_family
  from jsonb_array_elements_text(families) as f (family);
  with changed as (
    -- The guard takes from this what the transition of each row owns.
    update app.executions as e
    set status = case e.status when 'queued' then 'running' else 'completed' end,
        event = case e.status when 'queued' then 'claim' else 'complete' end,
        reason = null, error = null, leased_by = worker, lease_seconds = complete_and_claim.lease_seconds
    where e.id = any(array(
      select q.id from app.executions as q
      where q.id = any(to_complete) and q.lease_token = (leases ->> q.id::text)::bigint and q.status in ('running', 'cancelling')
      for update skip locked) || array(
      select q.id from app.executions as q
      where q.status = 'queued' and q.run_at <= now() and q.family = any(wanted)
        and q.family between first_family and last_family
      order by q.run_at, q.id
      limit complete_and_claim."limit"
      for update skip locked))
    returning e.id, e.status
  )
  select coalesce(array_agg(c.id) filter (where c.status = 'completed'), '{}'),
    coalesce(array_agg(c.id) filter (where c.status = 'running'), '{}')
  into completed, claimed from changed as c;
end $$;

revoke all on function app.complete_and_claim from public, anon, authenticated, service_role;
grant execute on function app.complete_and_claim to service_role;
