-- Queues an execution of a bulk sync. schemas: ids, null for all. 409 already_active if one is active.
-- Returns {data: the execution}. Accepts an Idempotency-Key.
create or replace function public.start_bulk_sync(sync_id uuid, schemas jsonb default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('sync_id', sync_id, 'schemas', schemas);
  response jsonb := app.get_idempotent_response(caller, 'start_bulk_sync', request);
  sync app.definitions;
  started app.executions;
  chosen jsonb;
  unknown text;
begin
  if response is not null then
    return response;
  end if;
  sync := app.find_definition('bulk_sync', sync_id, for_share => true);
  select jsonb_agg(s.value order by s.position) into chosen
  from jsonb_array_elements(sync.settings -> 'schemas') with ordinality as s (value, position)
  where schemas is null or schemas ? (s.value ->> 'id');
  select id into unknown from jsonb_array_elements_text(schemas) as id
  where not sync.settings -> 'schemas' @> jsonb_build_array(jsonb_build_object('id', id)) limit 1;
  if unknown is not null or chosen is null then
    perform app.raise_error(400, 'unknown_schema',
      'schemas must have at least one of this sync''s schemas and no other.', jsonb_build_object(
      'schema', left(unknown, 200), 'available', (select jsonb_agg(s -> 'id') from jsonb_array_elements(sync.settings -> 'schemas') as s)));
  end if;

  started.agency_id := sync.agency_id;
  started.family := 'bulk_sync';
  started.definition_id := sync.id;
  started.connection_id := sync.source_id;
  started.destination_id := sync.destination_id;
  started.concurrency_key := sync.id;
  started.spec := jsonb_build_object(
    'schemas', chosen, 'is_partial', schemas is not null, 'write', jsonb_build_object('mode', sync.settings -> 'mode'));
  started := app.start_execution(started);
  response := jsonb_build_object('data', app.bulk_sync_execution_object(started));
  return app.save_idempotent_response(caller, 'start_bulk_sync', request, response);
end $$;

revoke all on function public.start_bulk_sync from public, anon, authenticated, service_role;
grant execute on function public.start_bulk_sync to anon, authenticated, service_role;
