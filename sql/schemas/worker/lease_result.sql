-- Returns the result of a worker's call: `continue`; `cancel` with its deadline (stop, then release); `lost`: nothing
-- was stored or changed, and nothing with this lease token ever will be.
create or replace function app.lease_result(execution app.executions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case execution.status
    when 'running' then jsonb_build_object('result', 'continue')
    when 'cancelling' then jsonb_build_object('result', 'cancel', 'deadline', execution.cancel_deadline)
    else jsonb_build_object('result', 'lost')
  end;
end $$;

revoke all on function app.lease_result from public, anon, authenticated, service_role;
grant execute on function app.lease_result to service_role;
