-- Who holds the token of this request: a definer, because callers cannot read the auth schema.
-- It reads the verified claims, never an argument, so it tells nobody about anybody else.
-- `is_live` is false for a deleted user and for a session that was signed out: as strict as asking the Auth server.
create or replace function app.identify(out user_id uuid, out agency_id uuid, out is_live boolean)
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  uuid_pattern constant text := '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$';
  session constant text := claims ->> 'session_id';
begin
  is_live := false;
  if claims ->> 'sub' ~ uuid_pattern and coalesce(session ~ uuid_pattern, true) then
    select person.id, member.agency_id, true into user_id, agency_id, is_live
    from auth.users as person
    left join public.users as member on member.id = person.id
    where person.id = (claims ->> 'sub')::uuid
      and person.deleted_at is null
      -- The Auth server allows tokens without a session.
      and (session is null or exists (
        select from auth.sessions as s where s.id = session::uuid and s.user_id = person.id));
    is_live := coalesce(is_live, false);
  end if;
end $$;

revoke all on function app.identify from public;
grant execute on function app.identify to authenticated;
