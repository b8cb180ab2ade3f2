-- The caller's historical syncs, newest first, at most `limit` (1 to 100). status: a word of the family; cursor: the
-- `next_cursor` of the answer before. Ids are ordered by time and a page begins after one, so a walk neither skips nor
-- repeats what was there when it began, whatever is started meanwhile. Answer: {jobs, next_cursor}; null ends.
create or replace function public.list_historical_syncs(
  status text default null, connection_id uuid default null, "limit" int default 20, cursor uuid default null)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  size constant int := coalesce("limit", 20);
  jobs jsonb;
  ids uuid[];
begin
  if size not between 1 and 100 then
    perform app.refuse(400, 'invalid_limit', 'limit is a number from 1 to 100.');
  end if;
  -- Planned for the filters at hand: each combination has its index.
  execute 'select array(select e.id from app.executions as e where e.family = ''historical_sync'' and e.deleted_at is null'
    || case when caller.agency_id is not null then ' and e.agency_id = $1' else '' end
    || case when connection_id is not null then ' and e.connection_id = $2' else '' end
    || case when status is not null then ' and e.status = any($3) and app.status_word(e) = $4' else '' end
    || case when cursor is not null then ' and e.id < $5' else '' end
    || ' order by e.id desc limit $6)'
  into ids
  using caller.agency_id, connection_id,
    case when status is not null then app.words_statuses('historical_sync', status) end, status, cursor, size + 1;

  select jsonb_agg(app.historical_sync_object(j) order by j.job_id desc) into jobs
  from public.historical_sync_jobs as j where j.job_id = any(ids[:size]);
  return jsonb_build_object(
    'jobs', coalesce(jobs, '[]'),
    'next_cursor', case when cardinality(ids) > size then ids[size] end);
end $$;

revoke all on function public.list_historical_syncs from public, anon, authenticated, service_role;
grant execute on function public.list_historical_syncs to authenticated, service_role;
