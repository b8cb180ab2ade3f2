-- Has the worker look at a resource of a connection, for create_model. Answer: {look_id}, for get_look.
create or replace function public.look_at_source(connection_id uuid, resource text)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
begin
  return jsonb_build_object('look_id', (app.start_look(app.find_connection(connection_id), resource)).id);
end $$;

revoke all on function public.look_at_source from public, anon, authenticated, service_role;
grant execute on function public.look_at_source to anon, authenticated, service_role;
