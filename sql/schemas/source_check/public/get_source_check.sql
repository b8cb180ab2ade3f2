-- Returns the result of a source check: {status, fields: [{name, type}], error: {code, message}}.
create or replace function public.get_source_check(check_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  source_check app.executions;
begin
  select * into source_check from app.executions as e where e.id = check_id and e.family = 'source_check';
  if not found then
    perform app.raise_error(404, 'source_check_not_found', 'There is no source check with this id.');
  end if;
  return jsonb_build_object('status', app.public_status(source_check), 'fields', source_check.progress -> 'fields', 'error', source_check.error);
end $$;

revoke all on function public.get_source_check from public, anon, authenticated, service_role;
grant execute on function public.get_source_check to anon, authenticated, service_role;
