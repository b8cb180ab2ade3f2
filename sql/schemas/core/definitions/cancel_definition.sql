-- Cancels in two steps, for every family with definitions: a queued execution is canceled at once, a running one is
-- `canceling` until its worker has stopped, at most until the deadline. A repeated call returns the same and changes
-- nothing.
-- Returns {data: {message, execution_id, status}}; the last two are null if nothing was active. Accepts an
-- Idempotency-Key.
create or replace function app.cancel_definition(caller app.caller, kind text, id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  request constant jsonb := jsonb_build_object('id', id);
  response jsonb := app.get_idempotent_response(caller, 'cancel_' || kind, request);
  execution app.executions;
begin
  if response is not null then
    return response;
  end if;
  execution := app.cancel_active(app.find_definition(kind, id));
  response := jsonb_build_object('data', jsonb_build_object(
    'message', case when execution.id is null then 'Nothing is running' else 'Cancellation requested' end,
    'execution_id', execution.id,
    'status', app.public_status(execution)));
  return app.save_idempotent_response(caller, 'cancel_' || kind, request, response);
end $$;

revoke all on function app.cancel_definition from public, anon, authenticated, service_role;
grant execute on function app.cancel_definition to authenticated, service_role;
