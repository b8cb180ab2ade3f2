-- What every worker call answers: `continue`; `cancel` (with its deadline: stop, then release); `lost`: nothing was
-- stored or changed, and nothing with this lease ever will be.
create or replace function app.lease_answer(execution app.executions)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return case execution.status
    when 'running' then jsonb_build_object('answer', 'continue')
    when 'cancelling' then jsonb_build_object('answer', 'cancel', 'deadline', execution.cancel_deadline)
    else jsonb_build_object('answer', 'lost')
  end;
end $$;

revoke all on function app.lease_answer from public;
grant execute on function app.lease_answer to service_role;
