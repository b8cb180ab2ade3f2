-- Returns the one model that these mappings read, locked until the transaction ends. Every field that they name must be
-- one of the model's.
create or replace function app.model_sync_model(fields jsonb, identity jsonb)
returns app.definitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  sources constant jsonb := jsonb_path_query_array(fields, '$[*].source') || coalesce(identity -> 'source', '[]');
  ids constant text[] := array(select distinct s ->> 'model_id' from jsonb_array_elements(sources) as s);
  model app.definitions;
begin
  if cardinality(ids) > 1 then
    perform app.raise_error(422, 'unsupported_field', 'Not supported yet: fields of several models.',
      jsonb_build_object('fields', jsonb_build_array('fields.source.model_id')));
  end if;
  model := app.find_definition('model', ids[1]::uuid, for_share => true);
  perform app.model_fields(
    model.settings -> 'fields', (select jsonb_agg(distinct s -> 'field') from jsonb_array_elements(sources) as s));
  return model;
end $$;

revoke all on function app.model_sync_model from public, anon, authenticated, service_role;
grant execute on function app.model_sync_model to authenticated, service_role;
