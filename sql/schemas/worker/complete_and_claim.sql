-- A worker's turn, one statement and one commit: those that `leases` still hold go running or cancelling → completed, and
-- at most `limit` queued executions of these families are leased to it, oldest first. Waits for nobody: what somebody else
-- has locked is passed over.
-- leases: {execution_id: lease}, at most 100; families: JSON array of names.
-- A plan is kept for a session's life and may be made while the table is empty: whatever it promises then, this reads the
-- queue's index in its order and no more of it than it takes.
create or replace function app.complete_and_claim(
  leases jsonb, worker text default null, families jsonb default '[]', "limit" int default 0, lease_seconds int default null,
  out completed uuid[], out leased uuid[])
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan -- the settings below leave one plan: to make it anew takes longer than to run it
set lock_timeout = '5s'
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
  held uuid[] := '{}';
  wanted text[];
  first_family text;
  last_family text;
begin
  if jsonb_typeof(leases) is distinct from 'object' then
    perform app.raise_error(400, 'invalid_leases', 'leases is an object: each execution''s lease_token by its id.');
  end if;
  if leases <> '{}' then
    held := array(select jsonb_object_keys(leases)::uuid order by 1);
  end if;
  if cardinality(held) > 100 then
    perform app.raise_error(400, 'invalid_leases', 'At most 100 executions can be completed in one call.');
  end if;
  -- Before 17 the index knows no list of families, but it knows their range: one family's claim passes over the others'
  -- entries without reading their rows.
  select array_agg(f.family), min(f.family), max(f.family) into wanted, first_family, last_family
  from jsonb_array_elements_text(families) as f (family);
  with moved as (
    -- Of what is set here the guard takes for each what its move owns.
    update app.executions as e
    set status = case e.status when 'queued' then 'running' else 'completed' end,
        event = case e.status when 'queued' then 'claim' else 'complete' end,
        reason = null, error = null, leased_by = worker, lease_seconds = complete_and_claim.lease_seconds
    where e.id = any(array(
      select q.id from app.executions as q
      where q.id = any(held) and q.lease_token = (leases ->> q.id::text)::bigint and q.status in ('running', 'cancelling')
      for update skip locked) || array(
      select q.id from app.executions as q
      where q.status = 'queued' and q.run_at <= now() and q.family = any(wanted)
        and q.family between first_family and last_family
      order by q.run_at, q.id
      limit complete_and_claim."limit"
      for update skip locked))
    returning e.id, e.status
  )
  select coalesce(array_agg(m.id) filter (where m.status = 'completed'), '{}'),
    coalesce(array_agg(m.id) filter (where m.status = 'running'), '{}')
  into completed, leased from moved as m;
end $$;

revoke all on function app.complete_and_claim from public;
grant execute on function app.complete_and_claim to service_role;
