-- Queues an execution of a model sync. 409 already_active if one is active.
-- Returns {data: the execution}. Accepts an Idempotency-Key.
create or replace function public.start_model_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('sync_id', sync_id);
  response jsonb := app.get_idempotent_response(caller, 'start_model_sync', request);
  sync app.definitions;
  started app.executions;
begin
  if response is not null then
    return response;
  end if;
  sync := app.find_definition('model_sync', sync_id, for_share => true);
  started.agency_id := sync.agency_id;
  started.family := 'model_sync';
  started.definition_id := sync.id;
  started.connection_id := sync.source_id;
  started.destination_id := sync.destination_id;
  started.concurrency_key := sync.id;
  started.spec := jsonb_build_object(
    'resource', sync.settings -> 'resource',
    'object', sync.settings -> 'object',
    'fields', sync.settings -> 'fields',
    'identity', case when sync.settings ->> 'mode' <> 'append' then sync.settings -> 'identity' end,
    'write', jsonb_build_object(
      'mode', sync.settings -> 'mode', 'only_changed', not (sync.settings ->> 'sync_all_records')::boolean));
  -- Without a lock, because a delete of the connection may already wait for this sync, and waiting for it would be a
  -- deadlock.
  perform app.require_identity(
    app.find_connection(sync.destination_id, for_share => false), started.spec ->> 'object', nullif(started.spec -> 'identity', 'null'));
  started := app.start_execution(started);
  response := jsonb_build_object('data', app.model_sync_execution_object(started));
  return app.save_idempotent_response(caller, 'start_model_sync', request, response);
end $$;

revoke all on function public.start_model_sync from public, anon, authenticated, service_role;
grant execute on function public.start_model_sync to anon, authenticated, service_role;
