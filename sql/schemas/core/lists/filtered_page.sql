-- A page of a view (with an `id` in the order of time), the newest first or with sort `created_at` the oldest:
-- its ids, and the cursors of the pages around it, null where there is none.
create or replace function app.filtered_page(
  listed regclass, filters jsonb, "limit" int, next_cursor text, prev_cursor text, sort text,
  out ids uuid[], out next_ text, out prev_ text, out size int)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  cursor_ constant text := coalesce(nullif(next_cursor, ''), nullif(prev_cursor, ''));
  backwards constant boolean := coalesce(next_cursor, '') = '' and coalesce(prev_cursor, '') <> '';
  newest_first constant boolean := coalesce(nullif(sort, ''), '-created_at') = '-created_at';
  descending constant boolean := newest_first <> backwards;
  conditions text;
begin
  if coalesce(nullif(sort, ''), '-created_at') not in ('-created_at', 'created_at') then
    perform app.raise_error(400, 'unknown_sort', 'sort is created_at or -created_at.');
  end if;
  if cursor_ !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then
    perform app.raise_error(400, 'invalid_cursor', 'This cursor is not one that a list has given. Begin without it.');
  end if;
  size := case when "limit" between 1 and 5000 then "limit" when "limit" > 5000 then 5000 else 100 end;
  select coalesce(string_agg(' and ' || app.filter_condition(listed, f), ''), '') into conditions
  from jsonb_array_elements(coalesce(filters, '[]')) as f;
  -- `nulls last` is the order of an agency's index.
  execute format('select array(select l.id from %s as l where true%s%s order by l.id %s limit $2)', listed, conditions,
    case when cursor_ is not null then case when descending then ' and l.id < $1' else ' and l.id > $1' end else '' end,
    case when descending then 'desc nulls last' else 'asc nulls first' end)
  into ids using cursor_::uuid, size + 1;
  if backwards then
    prev_ := case when cardinality(ids) > size then ids[size] end;
    ids := array(select id from unnest(ids[:size]) with ordinality as i (id, position) order by position desc);
    next_ := ids[cardinality(ids)];
  else
    next_ := case when cardinality(ids) > size then ids[size] end;
    ids := ids[:size];
    prev_ := case when cursor_ is not null then ids[1] end;
  end if;
end $$;

revoke all on function app.filtered_page from public;
grant execute on function app.filtered_page to authenticated, service_role;
