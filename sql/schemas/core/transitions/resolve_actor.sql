-- Returns the actor of a start or a cancel: the caller, or the bulk action that a worker names (`claimed`), if it belongs to
-- the same agency and is running.
create or replace function app.resolve_actor(agency uuid, claimed text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  uuid_pattern constant text := '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}';
begin
  -- The query is a statement of its own, because an expression with a query in it costs that query each time.
  if claimed ~ ('^bulk_action:' || uuid_pattern || '$') and current_user = 'service_role' then
    perform from app.executions as e
    where e.id = right(claimed, 36)::uuid and e.family = 'bulk_action' and e.status = 'running' and e.agency_id = agency;
    if found then
      return claimed;
    end if;
  end if;
  return (app.caller()).actor;
end $$;

revoke all on function app.resolve_actor from public, anon, authenticated, service_role;
grant execute on function app.resolve_actor to authenticated, service_role;
