-- Returns the request's Idempotency-Key header, or null.
create or replace function app.idempotency_key()
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return nullif(nullif(current_setting('request.headers', true), '')::jsonb ->> 'idempotency-key', '');
end $$;

revoke all on function app.idempotency_key from public, anon, authenticated, service_role;
grant execute on function app.idempotency_key to authenticated, service_role;
