-- Returns a page of a view whose `id` is time-ordered: its ids, newest first or, with sort `created_at`, oldest first,
-- and the cursors of the pages around it (null if there is none).
create or replace function app.filtered_page(
  listed regclass, filters jsonb, "limit" int, next_cursor text, prev_cursor text, sort text,
  out ids uuid[], out next_page text, out prev_page text, out size int)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_cursor constant text := coalesce(nullif(next_cursor, ''), nullif(prev_cursor, ''));
  backwards constant boolean := coalesce(next_cursor, '') = '' and coalesce(prev_cursor, '') <> '';
  newest_first constant boolean := coalesce(nullif(sort, ''), '-created_at') = '-created_at';
  descending constant boolean := newest_first <> backwards;
  conditions text;
begin
  if coalesce(nullif(sort, ''), '-created_at') not in ('-created_at', 'created_at') then
    perform app.raise_error(400, 'unknown_sort', 'sort must be created_at or -created_at.');
  end if;
  if v_cursor !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then
    perform app.raise_error(400, 'invalid_cursor', 'Invalid cursor. Start again without one.');
  end if;
  size := case when "limit" between 1 and 5000 then "limit" when "limit" > 5000 then 5000 else 100 end;
  select coalesce(string_agg(' and ' || app.filter_condition(listed, f), ''), '') into conditions
  from jsonb_array_elements(coalesce(filters, '[]')) as f;
  -- `nulls last` is the order of an agency's index.
  execute format('select array(select l.id from %s as l where true%s%s order by l.id %s limit $2)', listed, conditions,
    case when v_cursor is not null then case when descending then ' and l.id < $1' else ' and l.id > $1' end else '' end,
    case when descending then 'desc nulls last' else 'asc nulls first' end)
  into ids using v_cursor::uuid, size + 1;
  if backwards then
    prev_page := case when cardinality(ids) > size then ids[size] end;
    ids := array(select id from unnest(ids[:size]) with ordinality as i (id, position) order by position desc);
    next_page := ids[cardinality(ids)];
  else
    next_page := case when cardinality(ids) > size then ids[size] end;
    ids := ids[:size];
    prev_page := case when v_cursor is not null then ids[1] end;
  end if;
end $$;

revoke all on function app.filtered_page from public, anon, authenticated, service_role;
grant execute on function app.filtered_page to authenticated, service_role;
