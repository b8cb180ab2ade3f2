-- Stores an answer for its Idempotency-Key, if there is one, in the transaction of the move that it is about.
create or replace function app.remember_answer(caller app.caller, function text, request jsonb, answer jsonb)
returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  if app.idempotency_key() is not null then
    insert into app.idempotency_keys (agency_id, actor, function, key, request, answer)
    values (caller.agency_id, caller.actor, remember_answer.function, app.idempotency_key(),
            remember_answer.request, remember_answer.answer);
  end if;
  return answer;
end $$;

revoke all on function app.remember_answer from public;
grant execute on function app.remember_answer to authenticated, service_role;
