-- Deletes a model. 422 model_in_use, with the model syncs that read it, if there are any. Returns null.
create or replace function public.delete_model(model_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  -- First, because a model sync that is being created locks the model and is visible after that.
  model constant app.definitions := app.delete_definition('model', model_id);
  used_by jsonb;
begin
  select jsonb_agg(jsonb_build_object('type', d.kind, 'id', d.id, 'name', d.name) order by d.name) into used_by
  from app.definitions as d
  where d.agency_id = model.agency_id and d.kind = 'model_sync' and d.deleted_at is null
    and d.settings ->> 'model_id' = model.id::text;
  if used_by is not null then
    perform app.raise_error(422, 'model_in_use',
      'Model syncs read this model. Delete them first.', jsonb_build_object('used_by', used_by));
  end if;
  return null;
end $$;

revoke all on function public.delete_model from public, anon, authenticated, service_role;
grant execute on function public.delete_model to anon, authenticated, service_role;
