-- One filter of a list as a condition on its view: {field, op, value}. Fields are the view's columns of plain types.
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
  type_ text;
  condition text;
begin
  if not field = any(fields) then
    perform app.raise_error(400, 'unknown_filter', 'This list has no such field to filter by.', jsonb_build_object(
      'field', left(field, 200), 'available', fields));
  end if;
  select format_type(a.atttypid, null) into type_
  from pg_catalog.pg_attribute as a where a.attrelid = listed and a.attname = field;
  condition := case op
    when 'eq' then format('l.%I = %L', field, value)
    when 'ne' then format('l.%I is distinct from %L', field, value)
    when 'gt' then format('l.%I > %L', field, value)
    when 'gte' then format('l.%I >= %L', field, value)
    when 'lt' then format('l.%I < %L', field, value)
    when 'lte' then format('l.%I <= %L', field, value)
    when 'in' then format('l.%I = any(%L::%s[])', field, list, type_)
    when 'nin' then format('(l.%I = any(%L::%s[])) is not true', field, list, type_)
    when 'exists' then format('l.%I is %s null', field, case when value in ('true', '1', '') then 'not' else '' end)
    when 'like' then format('l.%I::text like %L', field, value)
    when 'ilike' then format('l.%I::text ilike %L', field, value)
  end;
  if condition is null then
    perform app.raise_error(400, 'unknown_operator',
      'A filter is field=value or field[op]=value, op one of eq, ne, gt, gte, lt, lte, in, nin, exists, like, ilike.',
      jsonb_build_object('operator', left(op, 50)));
  end if;
  return condition;
end $$;

revoke all on function app.filter_condition from public;
grant execute on function app.filter_condition to authenticated, service_role;
