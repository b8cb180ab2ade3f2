-- Cancels the active execution and deletes the definition for its callers. Its executions and their audit stay.
create or replace function app.delete_definition(kind text, id uuid)
returns app.definitions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  definition app.definitions;
begin
  select * into definition from app.definitions as d
  where d.id = delete_definition.id and d.kind = delete_definition.kind and d.deleted_at is null
  for update;
  if not found then
    perform app.find_definition(kind, id);
  end if;
  perform app.cancel_active(definition, 'deleted');
  update app.definitions as d
  set deleted_at = clock_timestamp(), updated_at = clock_timestamp(), updated_by = caller.actor
  where d.id = definition.id;
  return definition;
end $$;

revoke all on function app.delete_definition from public, anon, authenticated, service_role;
grant execute on function app.delete_definition to authenticated, service_role;
