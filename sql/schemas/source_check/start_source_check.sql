-- Queues a check of a source: one page of a resource (null: of any). A caller waits for it, so it should run before
-- everything else.
create or replace function app.start_source_check(connection app.connections, resource text)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  source_check app.executions;
begin
  perform app.require_source(connection);
  if resource is not null then
    perform app.require_resources(connection, array[resource]);
  end if;
  source_check.agency_id := connection.agency_id;
  source_check.family := 'source_check';
  source_check.connection_id := connection.id;
  source_check.spec := jsonb_build_object('resource', resource);
  return app.start_execution(source_check);
end $$;

revoke all on function app.start_source_check from public, anon, authenticated, service_role;
grant execute on function app.start_source_check to authenticated, service_role;
