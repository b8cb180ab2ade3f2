-- Modes `replicate` and `updateOrCreate` of app.store_records: inserts new keys and writes existing ones. With `replace` the
-- record becomes the row's data, otherwise its members are set in it. With `only_changed` equal rows are left alone.
create or replace function app.upsert_records(
  target app.records, records jsonb, replace boolean, only_changed boolean, out inserted bigint, out updated bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  with stored as (
    insert into app.records as r (agency_id, connection_id, resource, key, data, execution_id, stored_at)
    select distinct on (item.value ->> 'key')
      target.agency_id, target.connection_id, target.resource,
      item.value ->> 'key', item.value -> 'data', target.execution_id, target.stored_at
    from jsonb_array_elements(records) with ordinality as item (value, position)
    order by item.value ->> 'key', item.position desc
    on conflict on constraint records_pkey do update
    set data = case when replace then excluded.data else r.data || excluded.data end,
      execution_id = excluded.execution_id, stored_at = excluded.stored_at
    where not only_changed or r.data || excluded.data <> r.data
    returning xmax = 0 as is_new -- xmax is set if an earlier version of the row was locked
  )
  select count(*) filter (where s.is_new), count(*) filter (where not s.is_new) into inserted, updated from stored as s;
end $$;

revoke all on function app.upsert_records from public, anon, authenticated, service_role;
grant execute on function app.upsert_records to service_role;
