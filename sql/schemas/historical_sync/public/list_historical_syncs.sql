-- Lists the caller's historical syncs, newest first, at most `limit` (1 to 100). `status` is one of the family's public
-- statuses, `cursor` the previous page's `next_cursor`. Ids are time-ordered and a page begins after one, so paging
-- neither skips nor repeats the jobs that existed when it began. Returns {jobs, next_cursor}; `next_cursor` is null on
-- the last page.
create or replace function public.list_historical_syncs(
  status text default null, connection_id uuid default null, "limit" int default 20, cursor uuid default null)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  size constant int := coalesce("limit", 20);
  -- A connection has one agency, so a trusted server that names a connection finds its executions as fast.
  of_agency constant boolean := caller.agency_id is not null or connection_id is not null;
  agency constant uuid := coalesce(caller.agency_id, (select c.agency_id from app.connections as c where c.id = connection_id));
  statuses constant text[] := case when status is not null then app.internal_statuses('historical_sync', status) end;
  jobs jsonb;
  ids uuid[];
begin
  if size not between 1 and 100 then
    perform app.raise_error(400, 'invalid_limit', 'limit must be a number from 1 to 100.');
  end if;
  -- Planned for the given filters, because each combination has its index. `nulls last` is the order of an agency's
  -- indexes and not of the primary key, which would be read past all other agencies' rows.
  execute 'select array(select e.id from app.executions as e where e.family = ''historical_sync'' and e.deleted_at is null'
    || case when of_agency then ' and e.agency_id = $1' else '' end
    || case when connection_id is not null then ' and e.connection_id = $2' else '' end
    || case when cardinality(statuses) = 1 then ' and e.status = ($3)[1]' when status is not null then ' and e.status = any($3)' else '' end
    || case when 'queued' = any(statuses) then ' and app.public_status(e) = $4' else '' end
    || case when cursor is not null then ' and e.id < $5' else '' end
    || ' order by e.id desc' || case when of_agency then ' nulls last' else '' end || ' limit $6)'
  into ids
  using agency, connection_id, statuses, status, cursor, size + 1;

  select jsonb_agg(app.historical_sync_object(j) order by j.job_id desc) into jobs
  from unnest(ids[:size]) as listed (id) join public.historical_sync_jobs as j on j.job_id = listed.id; -- one lookup each
  return jsonb_build_object(
    'jobs', coalesce(jobs, '[]'),
    'next_cursor', case when cardinality(ids) > size then ids[size] end);
end $$;

revoke all on function public.list_historical_syncs from public, anon, authenticated, service_role;
grant execute on function public.list_historical_syncs to authenticated, service_role;
