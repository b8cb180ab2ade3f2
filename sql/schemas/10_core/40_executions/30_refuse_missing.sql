-- For a row that the caller cannot see: 403 where the family's document says so, else 404. `noun`: job, connection, …
create or replace function app.refuse_missing(family text, kind text, noun text, id uuid)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  shows_foreign constant boolean := exists (
    select from app.families as f where f.family = refuse_missing.family and f.foreign_status = 403);
begin
  if shows_foreign and app.exists_elsewhere(kind, id) then
    perform app.refuse(403, noun || '_of_another_agency', 'This ' || noun || ' belongs to another agency.');
  end if;
  perform app.refuse(404, noun || '_not_found', 'There is no ' || noun || ' with this id.');
end $$;

revoke all on function app.refuse_missing from public;
grant execute on function app.refuse_missing to authenticated, service_role;
