-- Returns the response that this caller received before for this Idempotency-Key. Null: do the work, then call
-- app.save_idempotent_response.
--   409 idempotency_key_in_use   the first call is still running
--   422 idempotency_key_reused   the key was used with another request
create or replace function app.get_idempotent_response(caller app.caller, function text, request jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key constant text := app.idempotency_key();
  stored app.idempotency_keys;
begin
  if v_key is null then
    return null;
  end if;
  if length(v_key) > 255 then
    perform app.raise_error(400, 'invalid_idempotency_key', 'Idempotency-Key must have at most 255 characters.');
  end if;
  -- The second of two calls fails at once instead of waiting. The lock ends with the transaction.
  if not pg_try_advisory_xact_lock(
      hashtextextended(jsonb_build_array(caller.agency_id, caller.actor, function, v_key)::text, 0)) then
    perform app.raise_error(409, 'idempotency_key_in_use',
      'A request with this Idempotency-Key is still running. Try again in a moment.');
  end if;
  select * into stored from app.idempotency_keys as k
  where k.agency_id is not distinct from caller.agency_id and k.actor = caller.actor
    and k.function = get_idempotent_response.function and k.key = v_key;
  if stored.created_at < now() - interval '24 hours' then
    delete from app.idempotency_keys as k where k.id = stored.id;
    return null;
  end if;
  if stored.request <> request then
    perform app.raise_error(422, 'idempotency_key_reused',
      'This Idempotency-Key was used with another request. Use a new one.');
  end if;
  return stored.response;
end $$;

revoke all on function app.get_idempotent_response from public, anon, authenticated, service_role;
grant execute on function app.get_idempotent_response to authenticated, service_role;
