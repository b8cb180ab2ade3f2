-- Returns the chosen schemas of a source as [{id, output_name}]. Each schema is one resource of the connection.
-- wanted: [{id, enabled}], null for all. `namespace` is the prefix of the names in the destination.
create or replace function app.bulk_sync_schemas(source app.connections, wanted jsonb, namespace text)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  available constant jsonb := case jsonb_typeof(source.config -> 'resources')
    when 'object' then source.config -> 'resources' else '{}' end;
  names text[];
  unknown text;
begin
  if wanted is null then
    names := array(select jsonb_object_keys(available));
  else
    names := array(
      select w.value ->> 'id' from jsonb_array_elements(wanted) with ordinality as w (value, position)
      where coalesce((w.value ->> 'enabled')::boolean, true)
      group by 1 order by min(w.position));
  end if;
  select name into unknown from unnest(names) as name where not available ? name limit 1;
  if found then
    perform app.raise_error(400, 'unknown_schema', 'The source does not have this schema. Use one of `available`.',
      jsonb_build_object('schema', left(unknown, 200), 'available', array(select jsonb_object_keys(available))));
  end if;
  if cardinality(names) = 0 then
    perform app.raise_error(400, 'no_schemas', 'At least one schema must be enabled. Omit schemas for all.');
  end if;
  -- The limit of worker_commit_batch, or no batch could be stored.
  select name into unknown from unnest(names) as name
  where octet_length(concat_ws('.', namespace, name)) not between 1 and 200 limit 1;
  if found then
    perform app.raise_error(400, 'invalid_output_name',
      'The name in the destination, with its prefix, must have 1 to 200 bytes.',
      jsonb_build_object('schema', left(unknown, 200)));
  end if;
  return (
    select jsonb_agg(jsonb_build_object('id', name, 'output_name', concat_ws('.', namespace, name)) order by position)
    from unnest(names) with ordinality as n (name, position));
end $$;

revoke all on function app.bulk_sync_schemas from public, anon, authenticated, service_role;
grant execute on function app.bulk_sync_schemas to authenticated, service_role;
