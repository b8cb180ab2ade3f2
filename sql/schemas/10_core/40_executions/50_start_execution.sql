-- Queues an execution and wakes a worker. With a concurrency key, the active one is the answer: 409 and its id.
create or replace function app.start_execution(
  agency_id uuid, family text, connection_id uuid, concurrency_key text, spec jsonb, progress jsonb)
returns app.executions
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
#variable_conflict use_column
declare
  started app.executions;
  active uuid;
begin
  loop
    insert into app.executions (agency_id, family, connection_id, concurrency_key, spec, progress)
    values (start_execution.agency_id, start_execution.family, start_execution.connection_id,
            start_execution.concurrency_key, start_execution.spec, start_execution.progress)
    on conflict (agency_id, family, concurrency_key) where status in ('queued', 'running', 'cancelling') do nothing
    returning * into started;
    exit when found;

    select e.id into active from app.executions as e
    where e.agency_id = start_execution.agency_id and e.family = start_execution.family
      and e.concurrency_key = start_execution.concurrency_key and e.status in ('queued', 'running', 'cancelling');
    if found then
      perform app.refuse(409, 'already_active', 'A job is already active here. Wait for it, or cancel it first.',
        jsonb_build_object('job_id', active));
    end if;
    -- It ended between the two statements: try again.
  end loop;
  perform pg_notify('execution_queued', family);
  return started;
end $$;

revoke all on function app.start_execution from public;
grant execute on function app.start_execution to authenticated, service_role;
