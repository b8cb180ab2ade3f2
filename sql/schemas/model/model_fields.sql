-- Returns the fields that a source check has found, all or the wanted ones: [{id, name, label, type}].
create or replace function app.model_fields(available jsonb, wanted jsonb)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  unknown text;
begin
  select name into unknown from jsonb_array_elements_text(wanted) as name
  where not available @> jsonb_build_array(jsonb_build_object('name', name)) limit 1;
  if unknown is not null then
    perform app.raise_error(400, 'unknown_field', 'The source''s records do not have this field.', jsonb_build_object(
      'field', left(unknown, 200), 'available', (select coalesce(jsonb_agg(f -> 'name'), '[]') from jsonb_array_elements(available) as f)));
  end if;
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', f.value -> 'name', 'name', f.value -> 'name', 'label', f.value -> 'name', 'type', f.value -> 'type'
    ) order by f.position), '[]')
    from jsonb_array_elements(available) with ordinality as f (value, position)
    where wanted is null or wanted ? (f.value ->> 'name'));
end $$;

revoke all on function app.model_fields from public, anon, authenticated, service_role;
grant execute on function app.model_fields to authenticated, service_role;
