-- For an operator that there is not; typed so that it can stand where a condition would.
create or replace function app.refuse_filter(op text)
returns text
language plpgsql
set search_path = ''
as $$
begin
  perform app.refuse(400, 'unknown_operator', 'A filter is field=value or field[op]=value, op one of eq, ne, gt, gte, lt, lte, in, nin, exists, like, ilike.',
    jsonb_build_object('operator', left(op, 50)));
  return null;
end $$;

revoke all on function app.refuse_filter from public;
grant execute on function app.refuse_filter to authenticated, service_role;
