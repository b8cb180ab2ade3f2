-- A run of the caller's, or 404.
create or replace function app.find_run(id uuid)
returns app.executions
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  run app.executions;
begin
  select * into run from app.executions as e
  where e.id = find_run.id and e.family = 'sync_job_run' and e.deleted_at is null;
  if not found then
    perform app.raise_error(404, 'sync_job_run_not_found', 'There is no sync job run with this id.');
  end if;
  return run;
end $$;

revoke all on function app.find_run from public;
grant execute on function app.find_run to authenticated, service_role;
