-- Takes a look back that nobody waits for any longer: a worker that comes back has better to do. Answers as get_source_check, and
-- one that has ended already stays what it is.
create or replace function public.cancel_source_check(check_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  perform public.get_source_check(check_id); -- it is a look, and the caller's
  perform app.cancel_each(array[check_id], 'nobody waits');
  return public.get_source_check(check_id);
end $$;

revoke all on function public.cancel_source_check from public, anon, authenticated, service_role;
grant execute on function public.cancel_source_check to anon, authenticated, service_role;
