-- Returns the id of this request for the audit (header x-request-id, set by the endpoint).
create or replace function app.request_id()
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return left(nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-request-id', 100);
end $$;

revoke all on function app.request_id from public, anon, authenticated, service_role;
grant execute on function app.request_id to authenticated, service_role;
