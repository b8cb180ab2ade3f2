-- Returns a time-ordered id (RFC 9562), which keeps the primary key's index warm. Postgres has its own from 18 on.
create or replace function app.uuid_v7()
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  milliseconds constant bytea := substring(
    pg_catalog.int8send((extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint) from 3);
  bytes bytea := overlay(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) placing milliseconds from 1 for 6);
begin
  -- A random uuid is version 4 (0100); 7 is 0111.
  bytes := pg_catalog.set_bit(pg_catalog.set_bit(bytes, 52, 1), 53, 1);
  return pg_catalog.encode(bytes, 'hex')::uuid;
end $$;

revoke all on function app.uuid_v7 from public, anon, authenticated, service_role;
grant execute on function app.uuid_v7 to authenticated, service_role;
