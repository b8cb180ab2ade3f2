-- Mode `append` of app.store_records: a new row for each record, with a key that no other batch has. Returns their number.
create or replace function app.append_records(target app.records, records jsonb, seq bigint)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  inserted bigint;
begin
  insert into app.records as r (agency_id, connection_id, resource, key, data, execution_id, stored_at)
  select target.agency_id, target.connection_id, target.resource, target.execution_id || ':' || seq || ':' || item.position,
    item.value -> 'data', target.execution_id, target.stored_at
  from jsonb_array_elements(records) with ordinality as item (value, position);
  get diagnostics inserted = row_count;
  return inserted;
end $$;

revoke all on function app.append_records from public, anon, authenticated, service_role;
grant execute on function app.append_records to service_role;
