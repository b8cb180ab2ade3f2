-- The work is done: running or cancelling → completed. Answer: {answer: completed | lost}.
create or replace function public.finish(execution_id uuid, lease bigint, progress jsonb default null)
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
  update app.executions as e
  set status = 'completed', event = 'complete', actor = 'worker:' || e.leased_by, reason = null,
      progress = coalesce(finish.progress, e.progress), error = null
  where e.id = execution.id;
  return jsonb_build_object('answer', 'completed');
end $$;

revoke all on function public.finish from public, anon, authenticated, service_role;
grant execute on function public.finish to service_role;
