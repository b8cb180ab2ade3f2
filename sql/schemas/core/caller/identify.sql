-- Identifies the caller of this request: a user by the verified claims, or an agency's server by its key (header
-- x-agency-key, which counts for an anonymous request only). `is_live` is false for a deleted user, an ended session,
-- and an unknown or revoked key.
-- SECURITY DEFINER, because callers can read neither the auth schema nor the hashes. It reads the request and takes no
-- argument, so it reveals nothing about other callers.
create or replace function app.identify(out user_id uuid, out api_key_id uuid, out agency_id uuid, out is_live boolean)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  uuid_pattern constant text := '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$';
  session constant text := claims ->> 'session_id';
begin
  is_live := false;
  if claims ->> 'role' = 'anon' then
    select k.id, k.agency_id, true into api_key_id, agency_id, is_live
    from app.api_keys as k
    where k.hash = sha256(convert_to(app.agency_key(), 'UTF8')) and k.revoked_at is null;
  elsif claims ->> 'sub' ~ uuid_pattern and coalesce(session ~ uuid_pattern, true) then
    select u.id, member.agency_id, true into user_id, agency_id, is_live
    from auth.users as u
    left join public.users as member on member.id = u.id
    where u.id = (claims ->> 'sub')::uuid
      and u.deleted_at is null
      -- The Auth server allows tokens without a session.
      and (session is null or exists (
        select from auth.sessions as s where s.id = session::uuid and s.user_id = u.id));
  end if;
  is_live := coalesce(is_live, false);
end $$;

revoke all on function app.identify from public, anon, authenticated, service_role;
grant execute on function app.identify to anon, authenticated;
