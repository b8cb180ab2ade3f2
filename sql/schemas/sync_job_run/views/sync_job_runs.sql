-- The agency's runs of sync jobs with their API's field names. security_invoker: the caller's policies decide which
-- rows are visible.
create view public.sync_job_runs with (security_invoker = true) as
select
  e.id,
  e.agency_id as environment_id,
  e.definition_id as sync_job_id,
  e.connection_id as integrated_account_id,
  app.public_status(e) as status,
  e.spec ->> 'daemon_group_key' as daemon_group_key,
  e.destination_id as webhook_id,
  e.spec ->> 'error_handling' as error_handling,
  (e.spec ->> 'ignore_previous_run')::boolean as ignore_previous_run,
  (e.spec ->> 'version')::int as version,
  e.created_at,
  greatest(e.created_at, e.started_at, e.finished_at) as updated_at,
  e.started_at,
  e.finished_at
from app.executions as e
where e.family = 'sync_job_run' and e.deleted_at is null;

revoke all on public.sync_job_runs from public, anon, authenticated, service_role;
grant select on public.sync_job_runs to authenticated, service_role;
