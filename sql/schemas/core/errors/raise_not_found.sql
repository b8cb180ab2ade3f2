-- Raises the error for a row that the caller cannot see: 403 if the family's document specifies it, otherwise 404.
-- noun: job, connection, …
create or replace function app.raise_not_found(family text, kind text, noun text, id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  shows_foreign constant boolean := exists (
    select from app.families as f where f.family = raise_not_found.family and f.foreign_status = 403);
begin
  if shows_foreign and app.exists_in_other_agency(kind, id) then
    perform app.raise_error(403, noun || '_of_another_agency', 'This ' || noun || ' belongs to another agency.');
  end if;
  perform app.raise_error(404, noun || '_not_found', 'There is no ' || noun || ' with this id.');
end $$;

revoke all on function app.raise_not_found from public, anon, authenticated, service_role;
grant execute on function app.raise_not_found to authenticated, service_role;
