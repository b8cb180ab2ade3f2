-- Returns {data: the connection}, without its secret.
create or replace function public.get_connection(connection_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return jsonb_build_object('data', app.connection_object(app.find_connection(connection_id, for_share => false)));
end $$;

revoke all on function public.get_connection from public, anon, authenticated, service_role;
grant execute on function public.get_connection to anon, authenticated, service_role;
