-- The work of several is done: those that their lease still holds go running or cancelling → completed, in one commit.
-- Waits for nobody: one that somebody else has locked is passed over.
-- leases: {execution_id: lease}, at most 100. Answer: JSON array of the ids that are completed now; `finish` says what
-- became of another.
create or replace function public.finish_all(leases jsonb)
returns jsonb
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan -- as in app.lease_queued
set lock_timeout = '5s'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  ids uuid[];
  completed jsonb;
begin
  if jsonb_typeof(leases) is distinct from 'object' then
    perform app.refuse(400, 'invalid_leases', 'leases is an object: each execution''s lease by its id.');
  end if;
  ids := array(select jsonb_object_keys(leases)::uuid);
  if cardinality(ids) > 100 then
    perform app.refuse(400, 'invalid_leases', 'At most 100 executions are finished at once.');
  end if;
  with done as (
    update app.executions as e
    set status = 'completed', event = 'complete', actor = 'worker:' || e.leased_by, reason = null, error = null
    where e.id = any(array(
      select q.id from app.executions as q
      where q.id = any(ids) and q.lease = (leases ->> q.id::text)::bigint and q.status in ('running', 'cancelling')
      order by q.id
      for update skip locked))
    returning e.id
  )
  select coalesce(jsonb_agg(d.id), '[]') into completed from done as d;
  return completed;
end $$;

revoke all on function public.finish_all from public, anon, authenticated, service_role;
grant execute on function public.finish_all to service_role;
