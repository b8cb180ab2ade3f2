-- Stores a batch's records by the execution's `spec.write`, {mode, only_changed}, which is fixed at the start and never
-- chosen by the worker. Returns how many rows were inserted and how many existing rows were written.
--   replicate        the latest state of each key (the default)
--   append           a new row for each record
--   create           new keys only
--   update           existing keys only; fields that the record lacks stay
--   updateOrCreate   both
--   deliver          stores nothing: the delivery that worker_begin_delivery recorded for this batch is complete
-- The last record of a key counts. Rows are locked in key order, so that two executions never wait for each other.
create or replace function app.store_records(
  execution app.executions, resource text, records jsonb, seq bigint, out inserted bigint, out updated bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  mode constant text := coalesce(execution.spec -> 'write' ->> 'mode', 'replicate');
  only_changed constant boolean := coalesce((execution.spec -> 'write' ->> 'only_changed')::boolean, false);
  target constant app.records := (execution.agency_id, coalesce(execution.destination_id, execution.connection_id),
    resource, null, null, execution.id, clock_timestamp()); -- what all rows of the batch have in common
  upserted record;
begin
  inserted := 0;
  updated := 0;
  case mode
    when 'append' then inserted := app.append_records(target, records, seq);
    when 'create' then inserted := app.insert_new_records(target, records);
    when 'update' then updated := app.update_records(target, records, only_changed);
    when 'deliver' then inserted := app.complete_delivery(execution.id, seq);
    else
      upserted := app.upsert_records(target, records, mode = 'replicate', only_changed);
      inserted := upserted.inserted;
      updated := upserted.updated;
  end case;
end $$;

revoke all on function app.store_records from public, anon, authenticated, service_role;
grant execute on function app.store_records to service_role;
