-- The first call of every RPC, reads included. 401: revoked or deleted; 403: a user without an agency.
-- A trusted server calls as service_role: no agency, so it acts for any. An agency's server calls as anon with its key and
-- goes on as authenticated, with that agency: from here on the same policies hold.
create or replace function app.caller()
returns app.caller
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  by_key constant boolean := coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' = 'anon', false);
  identity record;
begin
  if current_user not in ('anon', 'authenticated') then
    return (null, current_user::text)::app.caller;
  end if;
  select * into identity from app.identify();
  if not identity.is_live and by_key then
    perform app.raise_error(401, 'invalid_api_key', 'This API key is unknown or revoked. Create another one, or sign in.');
  end if;
  -- An anonymous request is no user's, whatever else its claims say.
  if not identity.is_live or current_user = 'anon' and not by_key then
    perform app.raise_error(401, 'revoked_token', 'This session has ended or its user is gone. Sign in again.');
  end if;
  if identity.agency_id is null then
    perform app.raise_error(403, 'no_agency', 'Your user belongs to no agency. Ask an administrator to add you to one.');
  end if;
  if current_user = 'anon' then
    if current_setting('transaction_read_only') = 'off' then
      perform app.touch_api_key();
    end if;
    perform set_config('role', 'authenticated', true);
  end if;
  return (identity.agency_id, coalesce('user:' || identity.user_id, 'api_key:' || identity.api_key_id))::app.caller;
end $$;

revoke all on function app.caller from public;
grant execute on function app.caller to anon, authenticated, service_role;
