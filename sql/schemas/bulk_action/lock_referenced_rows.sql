-- Locks the connections and definitions of a bulk action's items, so that they are not deleted while a step starts the
-- items again. Call it before the items are locked, because deletes lock connections, definitions and executions in
-- this order.
create or replace function app.lock_referenced_rows(bulk_action uuid, items uuid[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
  if items = '{}' or (select e.spec ->> 'action_type' = 'cancel' from app.executions as e where e.id = bulk_action) then
    return;
  end if;
  perform from app.connections as c
  where c.id = any(array(
    select e.connection_id from app.executions as e where e.id = any(items)
    union select e.destination_id from app.executions as e where e.id = any(items)))
  order by c.id for share;
  perform from app.definitions as d
  where d.id = any(array(select distinct e.definition_id from app.executions as e where e.id = any(items)))
  order by d.id for share;
end $$;

revoke all on function app.lock_referenced_rows from public, anon, authenticated, service_role;
grant execute on function app.lock_referenced_rows to service_role;
