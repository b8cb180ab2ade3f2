-- Decodes a token of app.page_token. Raises 400 for anything else.
create or replace function app.read_page_token(token text, out updated_at timestamptz, out id uuid)
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  position jsonb;
begin
  if token is null or token = '' then
    return;
  end if;
  if length(token) > 200 then
    raise invalid_parameter_value; -- longer than any token, and perhaps too deep for the parser
  end if;
  position := convert_from(decode(rpad(translate(token, '-_', '+/'), (length(token) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb;
  updated_at := 'epoch'::timestamptz + (position ->> 0)::numeric * interval '1 second';
  id := (position ->> 1)::uuid;
  if updated_at is null or id is null then
    raise invalid_parameter_value;
  end if;
exception when data_exception then
  perform app.raise_error(400, 'invalid_page_token', 'Invalid page_token. Start again without one.');
end $$;

revoke all on function app.read_page_token from public, anon, authenticated, service_role;
grant execute on function app.read_page_token to authenticated, service_role;
