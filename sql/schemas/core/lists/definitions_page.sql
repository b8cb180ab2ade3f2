-- Returns a page of the caller's definitions of this kind, last updated first, and the token of the next page ('' on
-- the last). Filters that are null do not apply; `mode` is that of the settings.
create or replace function app.definitions_page(
  kind text, page_token text, "limit" int, active boolean default null, destination_id uuid default null,
  mode text default null, out ids uuid[], out next_page_token text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  size constant int := app.page_size("limit", 50);
  after constant record := app.read_page_token(page_token);
begin
  ids := array(
    select d.id from app.definitions as d
    where d.kind = definitions_page.kind and d.deleted_at is null
      and (caller.agency_id is null or d.agency_id = caller.agency_id)
      and (definitions_page.active is null or d.active = definitions_page.active)
      and (definitions_page.destination_id is null or d.destination_id = definitions_page.destination_id)
      and (definitions_page.mode is null or d.settings ->> 'mode' = definitions_page.mode)
      and (after.id is null or d.updated_at <= after.updated_at and (d.updated_at < after.updated_at or d.id > after.id))
    order by d.updated_at desc, d.id
    limit size + 1);
  next_page_token := '';
  if cardinality(ids) > size then
    ids := ids[:size];
    next_page_token := (select app.page_token(d.updated_at, d.id) from app.definitions as d where d.id = ids[size]);
  end if;
end $$;

revoke all on function app.definitions_page from public, anon, authenticated, service_role;
grant execute on function app.definitions_page to authenticated, service_role;
