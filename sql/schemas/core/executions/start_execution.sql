-- Queues an execution and notifies the workers. Only the columns that a caller may choose are taken from `wanted`. With
-- a concurrency key, at most one execution is active: otherwise 409 already_active with its id.
create or replace function app.start_execution(wanted app.executions)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  started app.executions;
  active uuid;
begin
  loop
    insert into app.executions
      (agency_id, family, definition_id, connection_id, destination_id, concurrency_key, spec, run_at, retry_of,
       checkpoint, progress)
    values
      (wanted.agency_id, wanted.family, wanted.definition_id, wanted.connection_id, wanted.destination_id,
       wanted.concurrency_key, wanted.spec, coalesce(wanted.run_at, now()), wanted.retry_of,
       wanted.checkpoint, coalesce(wanted.progress, '{}'))
    on conflict (agency_id, family, concurrency_key)
      where status in ('queued', 'running', 'cancelling') and concurrency_key is not null do nothing
    returning * into started;
    exit when found;

    select e.id into active from app.executions as e
    where e.agency_id = wanted.agency_id and e.family = wanted.family
      and e.concurrency_key = wanted.concurrency_key and e.status in ('queued', 'running', 'cancelling');
    if found then
      perform app.raise_error(409, 'already_active', 'Another job is active. Wait for it or cancel it first.',
        jsonb_build_object('job_id', active));
    end if;
    -- It ended between the two statements. Try again.
  end loop;
  perform pg_notify('execution_queued', wanted.family);
  return started;
end $$;

revoke all on function app.start_execution from public, anon, authenticated, service_role;
grant execute on function app.start_execution to authenticated, service_role;
