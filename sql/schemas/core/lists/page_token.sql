-- Returns the token of the page that begins after this row. It is opaque to callers.
create or replace function app.page_token(updated_at timestamptz, id uuid)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return translate(encode(convert_to(jsonb_build_array(extract(epoch from updated_at)::numeric(20, 6), id)::text, 'UTF8'), 'base64'), E'+/=\n', '-_');
end $$;

revoke all on function app.page_token from public, anon, authenticated, service_role;
grant execute on function app.page_token to authenticated, service_role;
