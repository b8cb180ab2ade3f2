-- Returns an API key as its agency sees it. The key itself is not stored, only its hash.
create or replace function app.api_key_object(key_id uuid)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select jsonb_build_object(
      'id', k.id, 'name', k.name, 'hint', k.hint, 'created_at', k.created_at, 'created_by', k.created_by,
      'last_used_at', k.last_used_at, 'revoked_at', k.revoked_at, 'revoked_by', k.revoked_by)
    from app.api_keys as k where k.id = key_id);
end $$;

revoke all on function app.api_key_object from public, anon, authenticated, service_role;
grant execute on function app.api_key_object to authenticated, service_role;
