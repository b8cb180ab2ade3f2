-- Lists the agency's bulk syncs, last updated first, at most `limit` (up to 50) per page.
-- Returns {data: [bulk sync], pagination: {next_page_token}}; the token is empty on the last page.
create or replace function public.list_bulk_syncs(
  active boolean default null, page_token text default null, "limit" int default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  page constant record := app.definitions_page('bulk_sync', page_token, "limit", active);
begin
  return jsonb_build_object(
    'data', (
      select coalesce(jsonb_agg(app.bulk_sync_object(d) order by listed.position), '[]')
      from unnest(page.ids) with ordinality as listed (id, position) join app.definitions as d on d.id = listed.id),
    'pagination', jsonb_build_object('next_page_token', page.next_page_token));
end $$;

revoke all on function public.list_bulk_syncs from public, anon, authenticated, service_role;
grant execute on function public.list_bulk_syncs to anon, authenticated, service_role;
