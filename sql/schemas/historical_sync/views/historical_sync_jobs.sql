-- The family's jobs in its own words. security_invoker: the caller's policies decide which rows.
-- windows_done, windows_total: of the date range, null until its worker has begun (a retry knows at once).
-- eta_seconds: at this job's own pace (windows_before were done when it began), so null until it has done one.
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
  -- Where it stands. The page is left out: it may hold what the source meant for the worker alone.
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
