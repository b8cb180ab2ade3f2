-- Returns a page of a definition's executions, newest (or oldest) first, and the token of the next page ('' on the
-- last). At most one is active at a time, so they end in the order in which they start.
create or replace function app.executions_page(
  definition app.definitions, page_token text, "limit" int, ascending boolean, only_ended boolean,
  out ids uuid[], out next_page_token text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  size constant int := app.page_size("limit", 100);
  after uuid;
begin
  if page_token <> '' then
    if page_token !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then
      perform app.raise_error(400, 'invalid_page_token', 'Invalid page_token. Start again without one.');
    end if;
    after := page_token::uuid;
  end if;
  if ascending then
    ids := array(
      select e.id from app.executions as e
      where e.agency_id = definition.agency_id and e.definition_id = definition.id
        and (after is null or e.id > after) and (not only_ended or e.finished_at is not null)
      order by e.id limit size + 1);
  else
    ids := array(
      select e.id from app.executions as e
      where e.agency_id = definition.agency_id and e.definition_id = definition.id
        and (after is null or e.id < after) and (not only_ended or e.finished_at is not null)
      order by e.id desc limit size + 1);
  end if;
  next_page_token := case when cardinality(ids) > size then ids[size]::text else '' end;
  ids := ids[:size];
end $$;

revoke all on function app.executions_page from public, anon, authenticated, service_role;
grant execute on function app.executions_page to authenticated, service_role;
