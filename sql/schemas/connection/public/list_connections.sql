-- Lists the agency's connections without their secrets, last updated first, at most 50 per page.
-- Returns {data: [connection], pagination: {next_page_token}}; the token is empty on the last page.
create or replace function public.list_connections(page_token text default null, "limit" int default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  size constant int := app.page_size("limit", 50);
  after constant record := app.read_page_token(page_token);
  response jsonb;
begin
  -- One statement, so that a connection deleted meanwhile is on the page or not, and the page is complete.
  with listed as (
    select c.id, c.agency_id, c.kind, c.name, c.config, c.created_at, c.created_by, c.updated_at
    from app.connections as c
    where c.deleted_at is null and c.kind <> 'webhook' and (caller.agency_id is null or c.agency_id = caller.agency_id)
      and (after.id is null or c.updated_at <= after.updated_at and (c.updated_at < after.updated_at or c.id > after.id))
    order by c.updated_at desc, c.id
    limit size + 1
  ), page as (
    select jsonb_populate_record(null::app.connections, to_jsonb(l)) as connection,
      row_number() over (order by l.updated_at desc, l.id) as position,
      app.page_token(l.updated_at, l.id) as token
    from listed as l
  )
  select jsonb_build_object(
    'data', coalesce(jsonb_agg(app.connection_object(p.connection) order by p.position) filter (where p.position <= size), '[]'),
    'pagination', jsonb_build_object('next_page_token',
      case when count(*) > size then max(p.token) filter (where p.position = size) else '' end))
  into response
  from page as p;
  return response;
end $$;

revoke all on function public.list_connections from public, anon, authenticated, service_role;
grant execute on function public.list_connections to anon, authenticated, service_role;
