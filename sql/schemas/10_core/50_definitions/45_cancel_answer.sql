-- What a cancel in two steps answers: {data: {message, execution_id, status}}, the last two null when nothing was active.
create or replace function app.cancel_answer(execution app.executions)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return jsonb_build_object('data', jsonb_build_object(
    'message', case when execution.id is null then 'Nothing is running' else 'Cancellation requested' end,
    'execution_id', execution.id,
    'status', app.status_word(execution)));
end $$;

revoke all on function app.cancel_answer from public;
grant execute on function app.cancel_answer to authenticated, service_role;
