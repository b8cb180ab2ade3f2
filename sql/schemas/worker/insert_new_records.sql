-- Mode `create` of app.store_records: inserts keys that do not exist yet. Returns their number.
create or replace function app.insert_new_records(target app.records, records jsonb)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  inserted bigint;
begin
  insert into app.records as r (agency_id, connection_id, resource, key, data, execution_id, stored_at)
  select distinct on (item.value ->> 'key')
    target.agency_id, target.connection_id, target.resource,
    item.value ->> 'key', item.value -> 'data', target.execution_id, target.stored_at
  from jsonb_array_elements(records) with ordinality as item (value, position)
  order by item.value ->> 'key', item.position desc
  on conflict on constraint records_pkey do nothing;
  get diagnostics inserted = row_count;
  return inserted;
end $$;

revoke all on function app.insert_new_records from public, anon, authenticated, service_role;
grant execute on function app.insert_new_records to service_role;
