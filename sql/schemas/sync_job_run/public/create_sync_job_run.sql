-- Queues a run of a sync job on an integrated account (a connection of type http). Its records are stored
-- (daemon_group_key) or delivered (webhook_id); exactly one of the two must be given. args: validated against the job's
-- args_schema.
-- Returns the run. Accepts an Idempotency-Key.
create or replace function public.create_sync_job_run(
  sync_job_id uuid, integrated_account_id uuid, args jsonb default '{}', webhook_id uuid default null,
  daemon_group_key text default null, error_handling text default 'fail_fast', ignore_previous_run boolean default false,
  version int default null, resources jsonb default null, events_to_send jsonb default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job', sync_job_id, 'account', integrated_account_id, 'args', args,
    'webhook', webhook_id, 'daemon', daemon_group_key, 'errors', error_handling, 'ignore', ignore_previous_run,
    'version', version, 'resources', resources, 'events', events_to_send);
  response jsonb := app.get_idempotent_response(caller, 'create_sync_job_run', request);
  job app.definitions;
  account app.connections;
  nodes jsonb;
  job_version int;
  run app.executions;
begin
  if response is not null then
    return response;
  end if;
  if (webhook_id is null) = (daemon_group_key is null) then
    perform app.raise_error(400, 'one_destination',
      'Give either daemon_group_key, to store the records, or webhook_id, to deliver them.');
  end if;
  job := app.find_definition('sync_job', sync_job_id, for_share => true);
  account := app.find_connection(integrated_account_id);
  perform app.require_source(account);
  if webhook_id is not null then
    perform app.find_webhook(webhook_id, for_share => true);
  end if;
  if account.agency_id <> job.agency_id then
    perform app.raise_error(404, 'connection_not_found', 'There is no connection with this id.');
  end if;
  job_version := (job.settings ->> 'default_runtime_version')::int;
  if version is distinct from job_version and version is not null and not (job_version = 2 and version = 3) then
    perform app.raise_error(400, 'other_version',
      'version must be that of the job.', jsonb_build_object('version', job_version));
  end if;
  if error_handling not in ('fail_fast', 'ignore', 'batch') or error_handling = 'batch' and coalesce(version, job_version) < 2 then
    perform app.raise_error(400, 'invalid_error_handling',
      'error_handling must be fail_fast, ignore or, from version 2 on, batch.');
  end if;
  perform app.require_args(job.settings -> 'args_schema', args);
  resources := coalesce(resources, job.settings -> 'resources');
  nodes := app.resource_nodes(resources);
  perform app.require_resources(account, array(select n ->> 'resource' from jsonb_array_elements(nodes) as n));

  run.agency_id := job.agency_id;
  run.family := 'sync_job_run';
  run.definition_id := job.id;
  run.connection_id := account.id;
  run.destination_id := webhook_id;
  run.spec := jsonb_build_object(
    'args', args, 'resources', resources, 'nodes', nodes, 'daemon_group_key', daemon_group_key,
    'error_handling', error_handling, 'ignore_previous_run', ignore_previous_run,
    'version', coalesce(version, job_version), 'events_to_send', events_to_send,
    'previous_run_date', case when not ignore_previous_run then (
      select max(e.started_at) from app.executions as e
      where e.agency_id = job.agency_id and e.definition_id = job.id and e.connection_id = account.id and e.status = 'completed') end,
    'write', jsonb_build_object('mode', case when webhook_id is not null then 'deliver' else 'replicate' end));
  run := app.start_execution(run);
  response := app.sync_job_run_object(run);
  return app.save_idempotent_response(caller, 'create_sync_job_run', request, response);
end $$;

revoke all on function public.create_sync_job_run from public, anon, authenticated, service_role;
grant execute on function public.create_sync_job_run to anon, authenticated, service_role;
