-- Who starts or cancels: the caller; or, where a worker says so, a bulk action of the same agency that runs right now.
create or replace function app.resolve_actor(agency uuid, claimed text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  uuid_ constant text := '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}';
begin
  if claimed ~ ('^bulk_action:' || uuid_ || '$') and current_user = 'service_role' and exists (
      select from app.executions as e
      where e.id = right(claimed, 36)::uuid and e.family = 'bulk_action' and e.status = 'running' and e.agency_id = agency) then
    return claimed;
  end if;
  return (app.caller()).actor;
end $$;

revoke all on function app.resolve_actor from public;
grant execute on function app.resolve_actor to authenticated, service_role;
