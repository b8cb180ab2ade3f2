-- Queues a bulk action: it cancels, retries or starts the agency's executions that match the criteria when it runs, at
-- most max_limit of them. Returns the job. Accepts an Idempotency-Key.
create or replace function public.create_bulk_action(
  action_type text, criteria jsonb, action_reason text default null, max_limit int default 10000,
  scheduled_at timestamptz default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('action_type', action_type, 'criteria', criteria,
    'reason', action_reason, 'max_limit', max_limit, 'scheduled_at', scheduled_at);
  response jsonb := app.get_idempotent_response(caller, 'create_bulk_action', request);
  job app.executions;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_agency(caller, 'bulk action');
  if (action_type in ('cancel', 'retry', 'start') and max_limit between 1 and 1000000
      and coalesce(length(action_reason), 0) <= 500 and coalesce(isfinite(scheduled_at), true)) is not true then
    perform app.raise_error(400, 'invalid_bulk_action',
      'action_type must be cancel, retry or start, max_limit 1 to 1000000, action_reason at most 500 characters, and scheduled_at finite.');
  end if;
  job.agency_id := caller.agency_id;
  job.family := 'bulk_action';
  job.run_at := scheduled_at;
  job.spec := jsonb_build_object(
    'action_type', action_type, 'criteria', app.bulk_action_criteria(criteria), 'action_reason', action_reason,
    'max_limit', max_limit, 'scheduled_at', scheduled_at);
  job.spec := job.spec || jsonb_build_object('preview_count', cardinality(app.bulk_action_matches(
    caller.agency_id, job.spec -> 'criteria', null, 'ffffffff-ffff-ffff-ffff-ffffffffffff', least(max_limit, 10000))));
  job := app.start_execution(job);
  response := app.bulk_action_object(job);
  return app.save_idempotent_response(caller, 'create_bulk_action', request, response);
end $$;

revoke all on function public.create_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.create_bulk_action to anon, authenticated, service_role;
