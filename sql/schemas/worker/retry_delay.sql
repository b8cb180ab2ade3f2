-- Returns the delay after the nth failure in a row: 2 s, 4 s, 8 s … at most 5 minutes.
create or replace function app.retry_delay(attempts int)
returns interval
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return make_interval(secs => least(2 ^ least(attempts, 10), 300));
end $$;

revoke all on function app.retry_delay from public, anon, authenticated, service_role;
grant execute on function app.retry_delay to service_role;
