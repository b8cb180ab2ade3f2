-- The agency's sync jobs with their API's field names. security_invoker: the caller's policies decide which rows are
-- visible.
create view public.sync_jobs with (security_invoker = true) as
select
  d.id,
  d.agency_id as environment_id,
  d.name as label,
  d.settings ->> 'integration_name' as integration_name,
  d.settings -> 'args_schema' as args_schema,
  d.settings -> 'resources' as resources,
  (d.settings ->> 'default_runtime_version')::int as default_runtime_version,
  d.created_at,
  d.updated_at
from app.definitions as d
where d.kind = 'sync_job' and d.deleted_at is null;

revoke all on public.sync_jobs from public, anon, authenticated, service_role;
grant select on public.sync_jobs to authenticated, service_role;
