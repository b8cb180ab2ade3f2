-- Returns an execution of this family that the caller may see, or raises 404. With `definition_id`, it must be one of that
-- definition's.
create or replace function app.find_execution(family text, id uuid, definition_id uuid default null)
returns app.executions
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  execution app.executions;
begin
  select * into execution from app.executions as e
  where e.id = find_execution.id and e.family = find_execution.family and e.deleted_at is null
    and (find_execution.definition_id is null or e.definition_id = find_execution.definition_id);
  if found then
    return execution;
  end if;
  if definition_id is not null then
    perform app.raise_error(404, 'execution_not_found', 'This sync has no execution with this id.');
  end if;
  perform app.raise_error(404, family || '_not_found', 'There is no ' || replace(family, '_', ' ') || ' with this id.');
end $$;

revoke all on function app.find_execution from public, anon, authenticated, service_role;
grant execute on function app.find_execution to authenticated, service_role;
