-- Every RPC, reads included, calls this first. Raises 401 for a revoked or deleted caller, 403 for a user without an
-- agency. A trusted server calls as service_role; it has no agency and may act for any. An agency's server calls as
-- anon with its key and continues as authenticated with that agency, so that the same policies hold.
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
    perform app.raise_error(401, 'invalid_api_key', 'This API key is unknown or revoked. Use another key, or sign in.');
  end if;
  -- An anonymous request has no user, whatever its other claims are.
  if not identity.is_live or current_user = 'anon' and not by_key then
    perform app.raise_error(401, 'revoked_token', 'This session has ended or its user was deleted. Sign in again.');
  end if;
  if identity.agency_id is null then
    perform app.raise_error(403, 'no_agency', 'Your user has no agency. Ask an administrator to add you to one.');
  end if;
  if current_user = 'anon' then
    if current_setting('transaction_read_only') = 'off' then
      perform app.touch_api_key();
    end if;
    perform set_config('role', 'authenticated', true);
  end if;
  return (identity.agency_id, coalesce('user:' || identity.user_id, 'api_key:' || identity.api_key_id))::app.caller;
end $$;

revoke all on function app.caller from public, anon, authenticated, service_role;
grant execute on function app.caller to anon, authenticated, service_role;
