-- Cancels a scheduled or running bulk action. It acts on no further item; finished items stay as they are. The call
-- waits at most for the current batch. Returns {success, job_id, status}. 400 not_cancellable has the current_status.
-- Accepts an Idempotency-Key.
create or replace function public.cancel_bulk_action(job_id uuid, reason text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job_id', job_id, 'reason', reason);
  response jsonb := app.get_idempotent_response(caller, 'cancel_bulk_action', request);
  cancelled app.executions;
begin
  if response is not null then
    return response;
  end if;
  perform app.find_execution('bulk_action', job_id);
  cancelled := app.cancel_execution('bulk_action', job_id, reason);
  response := jsonb_build_object('success', true, 'job_id', cancelled.id, 'status', app.public_status(cancelled));
  return app.save_idempotent_response(caller, 'cancel_bulk_action', request, response);
end $$;

revoke all on function public.cancel_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.cancel_bulk_action to anon, authenticated, service_role;
