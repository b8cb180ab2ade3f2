-- Returns the smallest id (app.uuid_v7) of this time, so that an index on ids can narrow by time.
create or replace function app.uuid_v7_floor(at timestamptz)
returns uuid
language plpgsql
stable
strict
set search_path = pg_catalog, pg_temp
as $$
declare
  milliseconds constant bigint := floor(least(greatest(extract(epoch from at) * 1000, 0), 281474976710655));
begin
  return (lpad(to_hex(milliseconds), 12, '0') || repeat('0', 20))::uuid;
end $$;

revoke all on function app.uuid_v7_floor from public, anon, authenticated, service_role;
grant execute on function app.uuid_v7_floor to authenticated, service_role;
