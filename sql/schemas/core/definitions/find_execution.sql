-- An execution of this definition, or 404.
create or replace function app.find_execution(definition app.definitions, id uuid)
returns app.executions
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  execution app.executions;
begin
  select * into execution from app.executions as e
  where e.id = find_execution.id and e.agency_id = definition.agency_id and e.definition_id = definition.id;
  if not found then
    perform app.raise_error(404, 'execution_not_found', 'This sync has no execution with this id.');
  end if;
  return execution;
end $$;

revoke all on function app.find_execution from public;
grant execute on function app.find_execution to authenticated, service_role;
