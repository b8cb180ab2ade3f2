-- The agency's connections, the last changed first, without their secrets; at most 50 a page.
-- Answer: {data: [connection], pagination: {next_page_token}}; an empty token ends.
create or replace function public.list_connections(page_token text default null, "limit" int default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  size constant int := app.page_size("limit", 50);
  after constant record := app.read_page_token(page_token);
  ids uuid[];
begin
  ids := array(
    select c.id from app.connections as c
    where c.deleted_at is null and (caller.agency_id is null or c.agency_id = caller.agency_id)
      and (after.id is null or c.updated_at <= after.updated_at and (c.updated_at < after.updated_at or c.id > after.id))
    order by c.updated_at desc, c.id
    limit size + 1);
  return jsonb_build_object(
    'data', (
      select coalesce(jsonb_agg(app.connection_object(c) order by listed.position) filter (where c.id is not null), '[]')
      from unnest(ids[:size]) with ordinality as listed (id, position), lateral app.read_connection(listed.id) as c),
    'pagination', jsonb_build_object('next_page_token', case when cardinality(ids) > size then (
      select app.page_token(c.updated_at, c.id) from app.connections as c where c.id = ids[size]) else '' end));
end $$;

revoke all on function public.list_connections from public, anon, authenticated, service_role;
grant execute on function public.list_connections to anon, authenticated, service_role;
