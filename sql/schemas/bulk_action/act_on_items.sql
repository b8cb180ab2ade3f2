-- Acts on one batch of a bulk action's items, which are locked already. Records the items' outcomes and returns the
-- counts.
create or replace function app.act_on_items(job app.executions, items uuid[], out done int, out skipped int)
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  v_actor constant text := 'bulk_action:' || job.id;
  action constant text := job.spec ->> 'action_type';
  changed uuid[];
  was_running boolean;
begin
  if action = 'cancel' then
    with cancelled as (
      update app.executions as e
      set status = app.next_status(e.status, f.cancel_event), event = f.cancel_event, reason = job.spec ->> 'action_reason',
          actor = v_actor
      from app.families as f
      where e.id = any(items) and e.agency_id = job.agency_id and e.id <> job.id and f.family = e.family
        and app.next_status(e.status, f.cancel_event) is not null
      returning e.id, e.started_at is not null as had_started
    )
    select array_agg(c.id), bool_or(c.had_started) into changed, was_running from cancelled as c;
    if was_running then
      perform pg_notify('execution_cancelled', '*'); -- once, for every worker that runs one of them
    end if;
  else
    select array_agg(e.id) into changed
    from app.executions as e
    where e.id = any(items) and e.agency_id = job.agency_id
      and app.restart_execution(e, action, v_actor, job.spec ->> 'action_reason') is not null;
    if changed is not null then
      perform pg_notify('execution_queued', 'bulk_action');
    end if;
  end if;
  update app.bulk_action_items as i
  set outcome = case when i.item_id = any(coalesce(changed, '{}')) then 'done' else 'skipped' end
  where i.agency_id = job.agency_id and i.execution_id = job.id and i.item_id = any(items);
  done := coalesce(cardinality(changed), 0);
  skipped := cardinality(items) - done;
end $$;

revoke all on function app.act_on_items from public, anon, authenticated, service_role;
grant execute on function app.act_on_items to service_role;
