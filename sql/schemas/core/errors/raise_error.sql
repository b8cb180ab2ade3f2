-- Raises every expected error. PostgREST turns SQLSTATE PTnnn into HTTP status nnn, and so does the postgres transport.
-- message = stable code, detail = a sentence, hint = further members of the response as JSON.
create or replace function app.raise_error(http_status int, code text, message text, details jsonb default '{}')
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception using errcode = 'PT' || http_status, message = code, detail = message, hint = details::text;
end $$;

revoke all on function app.raise_error from public, anon, authenticated, service_role;
grant execute on function app.raise_error to anon, authenticated, service_role;
