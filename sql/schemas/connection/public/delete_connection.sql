-- Deletes a connection and its secret. If syncs or models use it: 422 connection_in_use with their ids, or, with
-- `force`, they are deleted too. Active executions are cancelled first. Returns null.
create or replace function public.delete_connection(connection_id uuid, force boolean default false)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  used_by jsonb;
  definition app.definitions;
begin
  -- Weaker than `for update`, so that a start that has locked its definition can still refer to the connection. It is
  -- cancelled below.
  perform from app.connections as c where c.id = connection_id and c.deleted_at is null and c.kind <> 'webhook' for no key update;
  if not found then
    perform app.find_connection(connection_id);
  end if;
  select jsonb_agg(jsonb_build_object('type', d.kind, 'id', d.id, 'name', d.name) order by d.kind, d.name) into used_by
  from app.definitions as d where d.deleted_at is null and connection_id in (d.source_id, d.destination_id);
  if used_by is not null and not coalesce(force, false) then
    perform app.raise_error(422, 'connection_in_use',
      'Syncs or models use this connection. Delete them first, or pass force=true.',
      jsonb_build_object('used_by', used_by));
  end if;
  -- All in id order, also the executions, which the definitions' deletes would otherwise lock in the definitions' order.
  perform from app.definitions as d
  where d.deleted_at is null and connection_id in (d.source_id, d.destination_id)
  order by d.id for update;
  perform from app.executions as e
  where e.status in ('queued', 'running', 'cancelling') and delete_connection.connection_id in (e.connection_id, e.destination_id)
  order by e.id for update;
  for definition in
    select * from app.definitions as d
    where d.deleted_at is null and connection_id in (d.source_id, d.destination_id)
    order by d.id
  loop
    perform app.delete_definition(definition.kind, definition.id);
  end loop;
  perform app.cancel_each(array(
    select e.id from app.executions as e
    where e.status in ('queued', 'running', 'cancelling') and delete_connection.connection_id in (e.connection_id, e.destination_id)),
    'connection deleted');
  update app.connections as c set deleted_at = clock_timestamp() where c.id = connection_id;
  return null;
end $$;

revoke all on function public.delete_connection from public, anon, authenticated, service_role;
grant execute on function public.delete_connection to anon, authenticated, service_role;
