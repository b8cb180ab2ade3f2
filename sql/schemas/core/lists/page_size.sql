-- Returns the number of rows of a page: `limit` if it is between 1 and `max_size`, otherwise `max_size`.
create or replace function app.page_size("limit" int, max_size int)
returns int
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case when "limit" between 1 and max_size then "limit" else max_size end;
end $$;

revoke all on function app.page_size from public, anon, authenticated, service_role;
grant execute on function app.page_size to authenticated, service_role;
