-- One step of a bulk action, a short transaction of its own: finds its next 5,000 items and, once all are found, acts
-- on the next 500. Its rows, the bulk action's own among them, are locked in id order, as in all code that locks
-- several executions.
-- Returns what app.lease_result returns, with `more` while work is left.
create or replace function public.worker_run_bulk_action_step(execution_id uuid, lease_token bigint)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  job app.executions;
  action app.bulk_actions;
  items uuid[];
  counts record;
begin
  items := array(
    select i.item_id from app.bulk_action_items as i
    where i.execution_id = worker_run_bulk_action_step.execution_id and i.outcome is null
      and exists (select from app.bulk_actions as b where b.agency_id = i.agency_id and b.execution_id = i.execution_id and b.is_collected)
    order by i.item_id limit 500);
  perform app.lock_referenced_rows(execution_id, items);
  perform from app.executions as e where e.id = any(items || execution_id) order by e.id for update;
  job := app.lock_leased_execution(execution_id, lease_token);
  if job.id is null or job.status <> 'running' then
    return app.lease_result(job);
  end if;
  -- A step whose response was lost is called again while the first may still run. Its items are done by now.
  items := array(
    select i.item_id from app.bulk_action_items as i
    where i.execution_id = job.id and i.item_id = any(items) and i.outcome is null
    order by i.item_id);

  select * into action from app.bulk_actions as b where b.agency_id = job.agency_id and b.execution_id = job.id;
  if not found then
    insert into app.bulk_actions (agency_id, execution_id, horizon) values (job.agency_id, job.id, app.uuid_v7())
    returning * into action;
  end if;
  if not action.is_collected then
    items := app.bulk_action_matches(job.agency_id, job.spec -> 'criteria', action.collected_to, action.horizon,
      least(5000, (job.spec ->> 'max_limit')::int - action.matched));
    insert into app.bulk_action_items (agency_id, execution_id, item_id)
    select job.agency_id, job.id, item from unnest(items) as item;
    update app.bulk_actions as b
    set matched = b.matched + cardinality(items), not_started = b.not_started + cardinality(items),
        collected_to = coalesce(items[cardinality(items)], b.collected_to),
        is_collected = cardinality(items) < 5000 or b.matched + cardinality(items) >= (job.spec ->> 'max_limit')::int
    where b.agency_id = job.agency_id and b.execution_id = job.id;
    return app.lease_result(job) || jsonb_build_object('more', true);
  end if;

  select * into counts from app.act_on_items(job, items);
  update app.bulk_actions as b
  set done = b.done + counts.done, skipped = b.skipped + counts.skipped, not_started = b.not_started - cardinality(items)
  where b.agency_id = job.agency_id and b.execution_id = job.id
  returning * into action;
  update app.executions as e
  set seq = e.seq + 1, attempts = 0, lease_expires_at = clock_timestamp() + make_interval(secs => e.lease_seconds)
  where e.id = job.id;
  return app.lease_result(job) || jsonb_build_object('more', action.not_started > 0);
end $$;

revoke all on function public.worker_run_bulk_action_step from public, anon, authenticated, service_role;
grant execute on function public.worker_run_bulk_action_step to service_role;
