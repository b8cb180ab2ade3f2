-- The receiver does not want this execution: it is cancelled on its behalf, at once. Answer: {answer: cancelled | lost}.
create or replace function public.stop(execution_id uuid, lease bigint, reason text)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_lease(execution_id, lease);
begin
  if execution.id is null then
    return app.lease_answer(execution);
  end if;
  execution := app.cancel_execution(execution.family, execution.id, reason);
  return jsonb_build_object('answer', execution.status);
end $$;

revoke all on function public.stop from public, anon, authenticated, service_role;
grant execute on function public.stop to service_role;
