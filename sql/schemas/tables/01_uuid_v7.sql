-- Returns a time-ordered id (RFC 9562), which keeps the primary key's index warm. Postgres has its own from 18 on.
create or replace function app.uuid_v7()
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  -- The twelve bits behind the milliseconds are a fraction of one, so that ids of the same millisecond are ordered too.
  microseconds constant bigint := (extract(epoch from pg_catalog.clock_timestamp()) * 1000000)::bigint;
  fraction constant int := (microseconds % 1000 * 4096 / 1000)::int;
  milliseconds constant bytea := substring(pg_catalog.int8send(microseconds / 1000) from 3);
  bytes bytea := overlay(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) placing milliseconds from 1 for 6);
begin
  bytes := pg_catalog.set_byte(pg_catalog.set_byte(bytes, 6, 112 + (fraction >> 8)), 7, fraction & 255); -- version 7
  return pg_catalog.encode(bytes, 'hex')::uuid;
end $$;

revoke all on function app.uuid_v7 from public, anon, authenticated, service_role;
grant execute on function app.uuid_v7 to authenticated, service_role;
