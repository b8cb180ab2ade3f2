-- The family's jobs with its public statuses. security_invoker: the caller's policies decide which rows are visible.
-- windows_done, windows_total: of the date range; null until the worker has started (a retry has them at once).
-- eta_seconds: at the pace of this job; windows_before were done when it started, so it is null until one more is done.
create view public.historical_sync_jobs with (security_invoker = true) as
select
  e.id as job_id,
  e.agency_id,
  e.connection_id,
  app.public_status(e) as status,
  (e.spec ->> 'date_from')::date as date_from,
  (e.spec ->> 'date_to')::date as date_to,
  e.spec -> 'resources' as resources,
  e.records,
  (e.progress ->> 'windows_done')::int as windows_done,
  (e.progress ->> 'windows_total')::int as windows_total,
  case when e.status = 'completed' then 100
    else coalesce(
      floor(100 * (e.progress ->> 'windows_done')::numeric / nullif((e.progress ->> 'windows_total')::numeric, 0)), 0)::int
  end as percent,
  case when e.status = 'running' and (e.progress ->> 'windows_done')::int > (e.progress ->> 'windows_before')::int
    then ceil(extract(epoch from now() - e.started_at)
      * ((e.progress ->> 'windows_total')::numeric - (e.progress ->> 'windows_done')::numeric)
      / ((e.progress ->> 'windows_done')::numeric - (e.progress ->> 'windows_before')::numeric))::bigint
  end as eta_seconds,
  -- Its position without the page, which may hold what the source meant for the worker only.
  case when e.checkpoint is not null
    then jsonb_build_object('resource', e.checkpoint -> 'resource', 'date', e.checkpoint -> 'date') end as position,
  e.error,
  e.cancelled_by,
  e.cancel_reason,
  e.retry_of,
  e.created_by,
  e.created_at,
  e.started_at,
  e.cancel_requested_at,
  e.finished_at
from app.executions as e
where e.family = 'historical_sync' and e.deleted_at is null;

revoke all on public.historical_sync_jobs from public, anon, authenticated, service_role;
grant select on public.historical_sync_jobs to authenticated, service_role;
