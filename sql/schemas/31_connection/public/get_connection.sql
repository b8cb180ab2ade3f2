-- One connection, without its secret. Answer: {data}.
create or replace function public.get_connection(connection_id uuid)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  connection constant app.connections := app.read_connection(connection_id);
begin
  if connection.id is null then
    perform app.refuse(404, 'connection_not_found', 'There is no connection with this id.');
  end if;
  return jsonb_build_object('data', app.connection_object(connection));
end $$;

revoke all on function public.get_connection from public, anon, authenticated, service_role;
grant execute on function public.get_connection to anon, authenticated, service_role;
