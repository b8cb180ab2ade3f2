-- Appends error messages, up to one hundred of at most 500 characters, enough to see what is wrong however many records
-- fail.
create or replace function app.append_errors(known jsonb, further jsonb)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if jsonb_array_length(known) >= 100 or jsonb_array_length(further) = 0 then
    return known;
  end if;
  return (
    select jsonb_agg(left(message, 500) order by position)
    from jsonb_array_elements_text(known || further) with ordinality as e (message, position)
    where position <= 100);
end $$;

revoke all on function app.append_errors from public, anon, authenticated, service_role;
grant execute on function app.append_errors to service_role;
