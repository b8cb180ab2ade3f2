-- How many rows a page has: at most `most`, which it is too when nothing sensible was asked for.
create or replace function app.page_size("limit" int, most int)
returns int
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case when "limit" between 1 and most then "limit" else most end;
end $$;

revoke all on function app.page_size from public;
grant execute on function app.page_size to authenticated, service_role;
