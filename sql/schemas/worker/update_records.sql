-- Mode `update` of app.store_records: sets the records' members in rows that exist. Returns the number of rows written.
create or replace function app.update_records(target app.records, records jsonb, only_changed boolean)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  updated bigint;
begin
  with wanted as materialized (
    select distinct on (item.value ->> 'key') item.value ->> 'key' as key, item.value -> 'data' as data
    from jsonb_array_elements(records) with ordinality as item (value, position)
    order by item.value ->> 'key', item.position desc
  ), locked as materialized (
    select r.key from app.records as r
    where r.agency_id = target.agency_id and r.connection_id = target.connection_id
      and r.resource = target.resource and r.key in (select w.key from wanted as w)
    order by r.key
    for update
  )
  update app.records as r
  set data = r.data || w.data, execution_id = target.execution_id, stored_at = target.stored_at
  from locked as l join wanted as w on w.key = l.key
  where r.agency_id = target.agency_id and r.connection_id = target.connection_id
    and r.resource = target.resource and r.key = l.key
    and (not only_changed or r.data || w.data <> r.data);
  get diagnostics updated = row_count;
  return updated;
end $$;

revoke all on function app.update_records from public, anon, authenticated, service_role;
grant execute on function app.update_records to service_role;
