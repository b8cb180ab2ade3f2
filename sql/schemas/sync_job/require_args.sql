-- Validates arguments against their schema, in either of its published forms: {type: object, properties: {name: …}}, or
-- {name: {type, format, required, description}} itself. 400 invalid_argument names the first invalid one.
create or replace function app.require_args(args_schema jsonb, args jsonb)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  properties constant jsonb := case
    when args_schema ->> 'type' = 'object' and jsonb_typeof(args_schema -> 'properties') = 'object' then args_schema -> 'properties'
    else args_schema end;
  also_required constant jsonb := case jsonb_typeof(args_schema -> 'required') when 'array' then args_schema -> 'required' else '[]' end;
  name text;
  rule jsonb;
  value jsonb;
  wrong text;
begin
  for name, rule in select key, p.value from jsonb_each(properties) as p where jsonb_typeof(p.value) = 'object' order by key loop
    value := nullif(args -> name, 'null');
    wrong := case
      when value is null and (rule -> 'required' = 'true' or also_required ? name) then 'is required'
      when value is null then null
      when rule ->> 'type' = 'integer' and not (jsonb_typeof(value) = 'number' and value::text !~ '[.eE]') then 'must be an integer'
      when rule ->> 'type' in ('string', 'number', 'boolean', 'array', 'object') and jsonb_typeof(value) <> rule ->> 'type' then
        'must be of type ' || (rule ->> 'type')
      when jsonb_typeof(rule -> 'enum') = 'array' and not rule -> 'enum' @> jsonb_build_array(value) then 'must be one of the allowed values'
      when rule ->> 'format' in ('integrated_account_id', 'webhook_id', 'datastore_id', 'uuid')
        and value #>> '{}' !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then 'must be a UUID'
      when rule ->> 'format' = 'date' and value #>> '{}' !~ '^\d{4}-\d{2}-\d{2}$' then 'must be a date like 2013-01-31'
      when rule ->> 'format' in ('date-time', 'updated_at') and value #>> '{}' !~ '^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$' then
        'must be a time like 2013-01-31T00:00:00Z'
    end;
    if wrong is not null then
      perform app.raise_error(400, 'invalid_argument',
        'args.' || left(name, 200) || ' ' || wrong || '.', jsonb_build_object('argument', left(name, 200)));
    end if;
  end loop;
end $$;

revoke all on function app.require_args from public, anon, authenticated, service_role;
grant execute on function app.require_args to authenticated, service_role;
