-- Stores a batch's records where its execution writes, as the execution's `spec.write` says (frozen at the start, never the
-- worker's choice): {mode, only_changed}. Answer: how many rows are new, and how many that were there were written.
--   replicate        each key's latest state (the default)
--   append           every record is a new row
--   create           only keys that are not there yet
--   update           only keys that are there: the record's members are set, the others stay
--   updateOrCreate   both
--   deliver          none here: what was announced with worker_begin_delivery for this batch has been delivered
-- Of a key that comes twice in a batch the last counts. Rows are locked in the keys' order, so two executions never wait
-- for each other in a circle.
create or replace function app.store_records(
  execution app.executions, resource text, records jsonb, seq bigint, out inserted bigint, out updated bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  destination constant uuid := coalesce(execution.destination_id, execution.connection_id);
  mode constant text := coalesce(execution.spec -> 'write' ->> 'mode', 'replicate');
  only_changed constant boolean := coalesce((execution.spec -> 'write' ->> 'only_changed')::boolean, false);
begin
  if mode = 'deliver' then
    update app.deliveries as d set status = 'delivered', finished_at = clock_timestamp()
    where d.execution_id = execution.id and d.number = store_records.seq and d.status = 'sending'
    returning d.records into inserted;
    inserted := coalesce(inserted, 0);
    updated := 0;

  elsif mode = 'append' then
    insert into app.records as r (agency_id, connection_id, resource, key, data, execution_id, stored_at)
    select execution.agency_id, destination, store_records.resource, execution.id || ':' || seq || ':' || item.position,
      item.value -> 'data', execution.id, clock_timestamp()
    from jsonb_array_elements(records) with ordinality as item (value, position);
    get diagnostics inserted = row_count;
    updated := 0;

  elsif mode = 'create' then
    insert into app.records as r (agency_id, connection_id, resource, key, data, execution_id, stored_at)
    select distinct on (item.value ->> 'key')
      execution.agency_id, destination, store_records.resource,
      item.value ->> 'key', item.value -> 'data', execution.id, clock_timestamp()
    from jsonb_array_elements(records) with ordinality as item (value, position)
    order by item.value ->> 'key', item.position desc
    on conflict on constraint records_pkey do nothing;
    get diagnostics inserted = row_count;
    updated := 0;

  elsif mode = 'update' then
    with wanted as materialized (
      select distinct on (item.value ->> 'key') item.value ->> 'key' as key, item.value -> 'data' as data
      from jsonb_array_elements(records) with ordinality as item (value, position)
      order by item.value ->> 'key', item.position desc
    ), held as materialized (
      select r.key from app.records as r
      where r.agency_id = execution.agency_id and r.connection_id = destination
        and r.resource = store_records.resource and r.key in (select w.key from wanted as w)
      order by r.key
      for update
    )
    update app.records as r
    set data = r.data || w.data, execution_id = execution.id, stored_at = clock_timestamp()
    from held as h join wanted as w on w.key = h.key
    where r.agency_id = execution.agency_id and r.connection_id = destination
      and r.resource = store_records.resource and r.key = h.key
      and (not only_changed or r.data || w.data <> r.data);
    get diagnostics updated = row_count;
    inserted := 0;

  else
    with stored as (
      insert into app.records as r (agency_id, connection_id, resource, key, data, execution_id, stored_at)
      select distinct on (item.value ->> 'key')
        execution.agency_id, destination, store_records.resource,
        item.value ->> 'key', item.value -> 'data', execution.id, clock_timestamp()
      from jsonb_array_elements(records) with ordinality as item (value, position)
      order by item.value ->> 'key', item.position desc
      on conflict on constraint records_pkey do update
      set data = case mode when 'replicate' then excluded.data else r.data || excluded.data end,
        execution_id = excluded.execution_id, stored_at = excluded.stored_at
      where not only_changed or r.data || excluded.data <> r.data
      returning xmax = 0 as is_new -- no row version before this one was locked
    )
    select count(*) filter (where s.is_new), count(*) filter (where not s.is_new) into inserted, updated from stored as s;
  end if;
end $$;

revoke all on function app.store_records from public;
grant execute on function app.store_records to service_role;
