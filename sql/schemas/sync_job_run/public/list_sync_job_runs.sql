-- Lists the agency's runs, newest first. Returns {result, next_cursor, prev_cursor, limit}.
create or replace function public.list_sync_job_runs(
  filters jsonb default '[]', "limit" int default null, next_cursor text default null, prev_cursor text default null,
  sort text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  page constant record := app.filtered_page('public.sync_job_runs', filters, "limit", next_cursor, prev_cursor, sort);
begin
  return app.page_response((
    select jsonb_agg(one.object order by listed.position)
    from unnest(page.ids) with ordinality as listed (id, position),
      lateral (select app.sync_job_run_object(e) as object from app.executions as e where e.id = listed.id limit 1) as one), -- one lookup each
    page.next_page, page.prev_page, page.size);
end $$;

revoke all on function public.list_sync_job_runs from public, anon, authenticated, service_role;
grant execute on function public.list_sync_job_runs to anon, authenticated, service_role;
