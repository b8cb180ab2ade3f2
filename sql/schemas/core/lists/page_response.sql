-- Returns a list in the format of the APIs that page in both directions.
create or replace function app.page_response(result jsonb, next_cursor text, prev_cursor text, size int)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'result', coalesce(result, '[]'), 'next_cursor', next_cursor, 'prev_cursor', prev_cursor, 'limit', size);
end $$;

revoke all on function app.page_response from public, anon, authenticated, service_role;
grant execute on function app.page_response to authenticated, service_role;
