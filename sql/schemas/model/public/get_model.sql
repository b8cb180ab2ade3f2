-- Returns {data: the model}.
create or replace function public.get_model(model_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return jsonb_build_object('data', app.model_object(app.find_definition('model', model_id)));
end $$;

revoke all on function public.get_model from public, anon, authenticated, service_role;
grant execute on function public.get_model to anon, authenticated, service_role;
