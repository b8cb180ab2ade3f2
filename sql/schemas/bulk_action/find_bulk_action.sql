-- A bulk action of the caller's, or 404: another agency's is as unknown as none.
create or replace function app.find_bulk_action(id uuid)
returns app.executions
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  job app.executions;
begin
  select * into job from app.executions as e
  where e.id = find_bulk_action.id and e.family = 'bulk_action' and e.deleted_at is null;
  if not found then
    perform app.raise_error(404, 'bulk_action_not_found', 'There is no bulk action job with this id.');
  end if;
  return job;
end $$;

revoke all on function app.find_bulk_action from public;
grant execute on function app.find_bulk_action to authenticated, service_role;
