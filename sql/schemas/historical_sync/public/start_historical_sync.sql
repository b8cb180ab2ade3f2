-- Queues a historical sync of a date range; both days are included. resources: JSON array of names, null for all.
-- Returns {job_id, status}. One job per connection can be active: otherwise 409 already_active with its job_id.
-- Accepts an Idempotency-Key.
create or replace function public.start_historical_sync(
  connection_id uuid, date_from date, date_to date, resources jsonb default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object(
    'connection_id', connection_id, 'date_from', date_from, 'date_to', date_to, 'resources', resources);
  response jsonb := app.get_idempotent_response(caller, 'start_historical_sync', request);
  connection app.connections;
  started app.executions;
begin
  if response is not null then
    return response;
  end if;
  -- Without the secret, which callers may not read.
  select c.id, c.agency_id, c.kind, c.config into connection.id, connection.agency_id, connection.kind, connection.config
  from app.connections as c where c.id = start_historical_sync.connection_id and c.deleted_at is null
  for share; -- so that it is not deleted meanwhile
  if not found then
    perform app.raise_not_found('historical_sync', 'connection', 'connection', connection_id);
  end if;

  started.agency_id := connection.agency_id;
  started.family := 'historical_sync';
  started.connection_id := connection.id;
  started.concurrency_key := connection.id;
  started.spec := app.historical_sync_spec(connection, date_from, date_to, resources);
  started := app.start_execution(started);
  response := jsonb_build_object('job_id', started.id, 'status', app.public_status(started));
  return app.save_idempotent_response(caller, 'start_historical_sync', request, response);
end $$;

revoke all on function public.start_historical_sync from public, anon, authenticated, service_role;
grant execute on function public.start_historical_sync to authenticated, service_role;
