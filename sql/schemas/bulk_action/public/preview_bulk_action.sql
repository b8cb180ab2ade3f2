-- What a bulk action would act on now, without doing anything: how many (to max_limit, at most 10,000 are counted), and the
-- first of them. Answer: {total_count, is_exact, sample: [{id, family, status, created_at}]}.
create or replace function public.preview_bulk_action(criteria jsonb, max_limit int default 10000)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  most constant int := least(greatest(max_limit, 1), 10000);
  ids uuid[];
begin
  if caller.agency_id is null then
    perform app.raise_error(403, 'no_agency', 'A bulk action acts for an agency: ask as one of its users.');
  end if;
  ids := app.bulk_action_matches(
    caller.agency_id, app.bulk_action_criteria(criteria), null, 'ffffffff-ffff-ffff-ffff-ffffffffffff', most + 1);
  return jsonb_build_object(
    'total_count', least(cardinality(ids), most),
    'is_exact', cardinality(ids) <= most,
    'sample', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', e.id, 'family', e.family, 'status', app.public_status(e), 'created_at', e.created_at) order by e.id), '[]')
      from app.executions as e where e.id = any(ids[:least(most, 10)])));
end $$;

revoke all on function public.preview_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.preview_bulk_action to anon, authenticated, service_role;
