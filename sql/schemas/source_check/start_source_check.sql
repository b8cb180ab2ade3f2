-- Queues a look at a source: one page of a resource (null: of any). It goes before everything else, somebody is waiting.
create or replace function app.start_source_check(connection app.connections, resource text)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  look app.executions;
begin
  if connection.kind <> 'http' then
    perform app.raise_error(400, 'not_a_source', 'This connection receives records. Choose one that can be read from.');
  end if;
  if resource is not null and not connection.config -> 'resources' ? resource then
    perform app.raise_error(400, 'unknown_resource', 'This connection has no resource of that name.', jsonb_build_object(
      'resource', left(resource, 200), 'available', array(select jsonb_object_keys(connection.config -> 'resources'))));
  end if;
  look.agency_id := connection.agency_id;
  look.family := 'source_check';
  look.connection_id := connection.id;
  look.spec := jsonb_build_object('resource', resource);
  return app.start_execution(look);
end $$;

revoke all on function app.start_source_check from public;
grant execute on function app.start_source_check to authenticated, service_role;
