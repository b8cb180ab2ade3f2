-- Returns one filter of a list, {field, op, value}, as a condition on its view. Fields are the view's columns of plain
-- types.
create or replace function app.filter_condition(listed regclass, filter jsonb)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  fields constant text[] := array(
    select a.attname::text from pg_catalog.pg_attribute as a
    where a.attrelid = listed and a.attnum > 0
      and a.atttypid in ('uuid'::regtype, 'text'::regtype, 'timestamptz'::regtype, 'int'::regtype, 'boolean'::regtype));
  field constant text := filter ->> 'field';
  op constant text := coalesce(filter ->> 'op', 'eq');
  value constant text := filter ->> 'value';
  list constant text[] := string_to_array(value, ',');
  v_type text;
  condition text;
begin
  if not field = any(fields) then
    perform app.raise_error(400, 'unknown_filter', 'Unknown filter field. Use one of `available`.', jsonb_build_object(
      'field', left(field, 200), 'available', fields));
  end if;
  select format_type(a.atttypid, null) into v_type
  from pg_catalog.pg_attribute as a where a.attrelid = listed and a.attname = field;
  condition := case op
    when 'eq' then format('l.%I = %L', field, value)
    when 'ne' then format('l.%I is distinct from %L', field, value)
    when 'gt' then format('l.%I > %L', field, value)
    when 'gte' then format('l.%I >= %L', field, value)
    when 'lt' then format('l.%I < %L', field, value)
    when 'lte' then format('l.%I <= %L', field, value)
    when 'in' then format('l.%I = any(%L::%s[])', field, list, v_type)
    when 'nin' then format('(l.%I = any(%L::%s[])) is not true', field, list, v_type)
    when 'exists' then format('l.%I is %s null', field, case when value in ('true', '1', '') then 'not' else '' end)
    when 'like' then format('l.%I::text like %L', field, value)
    when 'ilike' then format('l.%I::text ilike %L', field, value)
  end;
  if condition is null then
    perform app.raise_error(400, 'unknown_operator',
      'Unknown filter operator. Use eq, ne, gt, gte, lt, lte, in, nin, exists, like or ilike.',
      jsonb_build_object('operator', left(op, 50)));
  end if;
  return condition;
end $$;

revoke all on function app.filter_condition from public, anon, authenticated, service_role;
grant execute on function app.filter_condition to authenticated, service_role;
