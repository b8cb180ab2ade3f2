-- Counts the executions that a bulk action would act on now (up to max_limit, at most 10,000) and returns the first of
-- them. Changes nothing. Returns {total_count, is_exact, sample: [{id, family, status, created_at}]}.
create or replace function public.preview_bulk_action(criteria jsonb, max_limit int default 10000)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  v_max constant int := least(greatest(max_limit, 1), 10000);
  ids uuid[];
begin
  perform app.require_agency(caller, 'bulk action');
  ids := app.bulk_action_matches(
    caller.agency_id, app.bulk_action_criteria(criteria), null, 'ffffffff-ffff-ffff-ffff-ffffffffffff', v_max + 1);
  return jsonb_build_object(
    'total_count', least(cardinality(ids), v_max),
    'is_exact', cardinality(ids) <= v_max,
    'sample', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', e.id, 'family', e.family, 'status', app.public_status(e), 'created_at', e.created_at) order by e.id), '[]')
      from app.executions as e where e.id = any(ids[:least(v_max, 10)])));
end $$;

revoke all on function public.preview_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.preview_bulk_action to anon, authenticated, service_role;
