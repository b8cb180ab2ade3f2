-- Lists a model sync's executions, newest first (with `ascending` oldest first), at most `limit` (up to 100) per page.
-- Returns {data: [execution], pagination: {next_page_token}}; the token is empty on the last page.
create or replace function public.list_model_sync_executions(
  sync_id uuid, page_token text default null, "limit" int default null, ascending boolean default false,
  only_completed boolean default false)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  page constant record := app.executions_page(
    app.find_definition('model_sync', sync_id), page_token, "limit", ascending, only_completed);
begin
  return jsonb_build_object(
    'data', (
      select coalesce(jsonb_agg(app.model_sync_execution_object(e) order by listed.position), '[]')
      from unnest(page.ids) with ordinality as listed (id, position) join app.executions as e on e.id = listed.id),
    'pagination', jsonb_build_object('next_page_token', page.next_page_token));
end $$;

revoke all on function public.list_model_sync_executions from public, anon, authenticated, service_role;
grant execute on function public.list_model_sync_executions to anon, authenticated, service_role;
