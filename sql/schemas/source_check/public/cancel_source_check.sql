-- Cancels a source check whose caller no longer waits, so that no worker runs it later. Returns what get_source_check
-- returns. A finished check stays as it is.
create or replace function public.cancel_source_check(check_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  perform public.get_source_check(check_id); -- raises 404 unless it is one of the caller's
  perform app.cancel_each(array[check_id], 'no caller waits');
  return public.get_source_check(check_id);
end $$;

revoke all on function public.cancel_source_check from public, anon, authenticated, service_role;
grant execute on function public.cancel_source_check to anon, authenticated, service_role;
