-- What a look has found: {status, fields: [{name, type}], error: {code, message}}.
create or replace function public.get_source_check(check_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  look app.executions;
begin
  select * into look from app.executions as e where e.id = check_id and e.family = 'source_check';
  if not found then
    perform app.raise_error(404, 'look_not_found', 'There is no look with this id.');
  end if;
  return jsonb_build_object('status', app.public_status(look), 'fields', look.progress -> 'fields', 'error', look.error);
end $$;

revoke all on function public.get_source_check from public, anon, authenticated, service_role;
grant execute on function public.get_source_check to anon, authenticated, service_role;
