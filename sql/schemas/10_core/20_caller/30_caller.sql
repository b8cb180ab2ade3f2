-- The first call of every RPC, reads included. 401: revoked or deleted; 403: a user without an agency.
-- A trusted server calls as service_role: no agency, so it acts for any.
create or replace function app.caller()
returns app.caller
language plpgsql
stable
set search_path = ''
as $$
declare
  identity record;
begin
  if current_user <> 'authenticated' then
    return (null, current_user::text)::app.caller;
  end if;
  select * into identity from app.identify();
  if not identity.is_live then
    perform app.refuse(401, 'revoked_token', 'This session has ended or its user is gone. Sign in again.');
  end if;
  if identity.agency_id is null then
    perform app.refuse(403, 'no_agency', 'Your user belongs to no agency. Ask an administrator to add you to one.');
  end if;
  return (identity.agency_id, 'user:' || identity.user_id)::app.caller;
end $$;

revoke all on function app.caller from public;
grant execute on function app.caller to authenticated, service_role;
