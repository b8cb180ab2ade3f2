-- Queues a historical sync of a date range; both days are included. resources: JSON array of names, or null for all.
-- Answer: {job_id, status}. One active job per connection: 409 already_active with its job_id.
create or replace function public.start_historical_sync(
  connection_id uuid, date_from date, date_to date, resources jsonb default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  connection app.connections;
  started app.executions;
begin
  -- Without the secret, which callers may not read.
  select c.id, c.agency_id, c.kind, c.config into connection.id, connection.agency_id, connection.kind, connection.config
  from app.connections as c where c.id = start_historical_sync.connection_id;
  if not found then
    perform app.refuse_missing('historical_sync', 'connection', 'connection', connection_id);
  end if;
  started := app.start_execution(
    connection.agency_id, 'historical_sync', connection.id, connection.id::text,
    app.historical_sync_spec(connection, date_from, date_to, resources), '{}');
  return jsonb_build_object('job_id', started.id, 'status', app.status_word(started));
end $$;

revoke all on function public.start_historical_sync from public, anon, authenticated, service_role;
grant execute on function public.start_historical_sync to authenticated, service_role;
