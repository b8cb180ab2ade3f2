-- Stores the response for the request's Idempotency-Key, if it has one, in the transaction of the work itself.
create or replace function app.save_idempotent_response(caller app.caller, function text, request jsonb, response jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if app.idempotency_key() is not null then
    insert into app.idempotency_keys (agency_id, actor, function, key, request, response)
    values (caller.agency_id, caller.actor, save_idempotent_response.function, app.idempotency_key(),
            save_idempotent_response.request, save_idempotent_response.response);
  end if;
  return response;
end $$;

revoke all on function app.save_idempotent_response from public, anon, authenticated, service_role;
grant execute on function app.save_idempotent_response to authenticated, service_role;
