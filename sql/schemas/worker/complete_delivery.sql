-- Mode `deliver` of app.store_records: the delivery of this batch is complete. Returns the number of its records.
create or replace function app.complete_delivery(execution_id uuid, seq bigint)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  delivered bigint;
begin
  update app.deliveries as d set status = 'delivered', finished_at = clock_timestamp()
  where d.execution_id = complete_delivery.execution_id and d.number = seq and d.status = 'sending'
  returning d.records into delivered;
  return coalesce(delivered, 0);
end $$;

revoke all on function app.complete_delivery from public, anon, authenticated, service_role;
grant execute on function app.complete_delivery to service_role;
