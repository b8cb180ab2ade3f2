-- Lists the agency's bulk actions, newest first. `status` is one of the family's public statuses, `cursor` the
-- `next_cursor` of the previous page. Returns {jobs, next_cursor}; `next_cursor` is null on the last page.
create or replace function public.list_bulk_actions(status text default null, "limit" int default 20, cursor uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  size constant int := case when "limit" between 1 and 100 then "limit" else 20 end;
  statuses constant text[] := case when status is not null then app.internal_statuses('bulk_action', status) end;
  ids uuid[];
begin
  ids := array(
    select e.id from app.executions as e
    where e.family = 'bulk_action' and e.deleted_at is null and (caller.agency_id is null or e.agency_id = caller.agency_id)
      and (statuses is null or e.status = any(statuses) and app.public_status(e) = list_bulk_actions.status)
      and (cursor is null or e.id < cursor)
    order by e.id desc nulls last limit size + 1);
  return jsonb_build_object(
    'jobs', (
      select coalesce(jsonb_agg(app.bulk_action_object(e) order by e.id desc), '[]')
      from app.executions as e where e.id = any(ids[:size])),
    'next_cursor', case when cardinality(ids) > size then ids[size] end);
end $$;

revoke all on function public.list_bulk_actions from public, anon, authenticated, service_role;
grant execute on function public.list_bulk_actions to anon, authenticated, service_role;
