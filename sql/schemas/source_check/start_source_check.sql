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
  if connection.kind <> 'http' then
    perform app.raise_error(400, 'not_a_source', 'This connection receives records. Choose one that can be read from.');
  end if;
  if resource is not null and not connection.config -> 'resources' ? resource then
    perform app.raise_error(400, 'unknown_resource', 'The connection does not have this resource. Use one of `available`.', jsonb_build_object(
      'resource', left(resource, 200), 'available', array(select jsonb_object_keys(connection.config -> 'resources'))));
  end if;
  source_check.agency_id := connection.agency_id;
  source_check.family := 'source_check';
  source_check.connection_id := connection.id;
  source_check.spec := jsonb_build_object('resource', resource);
  return app.start_execution(source_check);
end $$;

revoke all on function app.start_source_check from public;
grant execute on function app.start_source_check to authenticated, service_role;
