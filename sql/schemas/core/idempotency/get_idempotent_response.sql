-- The answer that this caller was given before for this Idempotency-Key. Null: do the work, then app.save_idempotent_response.
--   409 idempotency_key_in_use   its first use is still under way
--   422 idempotency_key_reused   it came with another request before
create or replace function app.get_idempotent_response(caller app.caller, function text, request jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  key_ constant text := app.idempotency_key();
  known app.idempotency_keys;
begin
  if key_ is null then
    return null;
  end if;
  if length(key_) > 255 then
    perform app.raise_error(400, 'invalid_idempotency_key', 'An Idempotency-Key has at most 255 characters.');
  end if;
  -- Whoever comes second is told so at once instead of waiting. The lock ends with the transaction.
  if not pg_try_advisory_xact_lock(
      hashtextextended(jsonb_build_array(caller.agency_id, caller.actor, function, key_)::text, 0)) then
    perform app.raise_error(409, 'idempotency_key_in_use',
      'A request with this Idempotency-Key is still under way. Try again in a moment.');
  end if;
  select * into known from app.idempotency_keys as k
  where k.agency_id is not distinct from caller.agency_id and k.actor = caller.actor
    and k.function = get_idempotent_response.function and k.key = key_;
  if known.created_at < now() - interval '24 hours' then
    delete from app.idempotency_keys as k where k.id = known.id;
    return null;
  end if;
  if known.request <> request then
    perform app.raise_error(422, 'idempotency_key_reused', 'This Idempotency-Key came with another request. Use a new one.');
  end if;
  return known.response;
end $$;

revoke all on function app.get_idempotent_response from public;
grant execute on function app.get_idempotent_response to authenticated, service_role;
