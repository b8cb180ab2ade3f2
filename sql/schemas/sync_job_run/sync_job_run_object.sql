-- Returns a run as callers and webhooks see it, with its sync job. resource_stats: per resource and method, {fetched,
-- persisted} as worker_commit_batch counts them, so never older than the last batch.
create or replace function app.sync_job_run_object(run app.executions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'id', run.id,
    'args', run.spec -> 'args',
    'resources', run.spec -> 'resources',
    'sync_job_id', run.definition_id,
    'integrated_account_id', run.connection_id,
    'environment_id', run.agency_id,
    'status', app.public_status(run),
    'daemon_id', case when run.started_at is not null then run.spec -> 'daemon_group_key' end,
    'daemon_group_key', run.spec -> 'daemon_group_key',
    'webhook_id', run.destination_id,
    'error_handling', run.spec -> 'error_handling',
    'ignore_previous_run', run.spec -> 'ignore_previous_run',
    'version', run.spec -> 'version',
    'resource_stats', (
      select coalesce(jsonb_object_agg(stats.resource, stats.methods), '{}') from (
        select r.resource, jsonb_object_agg(r.method, jsonb_build_object(
          'fetched', r.records, 'persisted', r.inserted + r.updated)) as methods
        from app.execution_resources as r
        where r.agency_id = run.agency_id and r.execution_id = run.id
        group by r.resource) as stats),
    'created_at', run.created_at,
    'updated_at', greatest(run.created_at, run.started_at, run.finished_at),
    'started_at', run.started_at,
    'finished_at', run.finished_at,
    'sync_job', (
      select app.sync_job_object(d) from app.definitions as d
      where d.agency_id = run.agency_id and d.id = run.definition_id));
end $$;

revoke all on function app.sync_job_run_object from public, anon, authenticated, service_role;
grant execute on function app.sync_job_run_object to authenticated, service_role;
