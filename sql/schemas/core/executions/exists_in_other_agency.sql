-- Whether another agency has this row; reveals nothing else. SECURITY DEFINER, because policies hide the row.
create or replace function app.exists_in_other_agency(kind text, id uuid)
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return case kind
    when 'connection' then exists (select from app.connections as c where c.id = exists_in_other_agency.id and c.deleted_at is null)
    else exists (
      select from app.executions as e
      where e.id = exists_in_other_agency.id and e.family = kind and e.deleted_at is null)
  end;
end $$;

revoke all on function app.exists_in_other_agency from public, anon, authenticated, service_role;
grant execute on function app.exists_in_other_agency to authenticated, service_role;
