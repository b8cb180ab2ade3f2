-- The work of several is done: those that their lease still holds go running or cancelling → completed, in one commit (see
-- app.complete_and_claim). leases: {execution_id: lease}, at most 100. Answer: JSON array of the ids that are completed
-- now; `finish` says what became of another.
create or replace function public.worker_complete_all(leases jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
  return to_jsonb((app.complete_and_claim(leases)).completed);
end $$;

revoke all on function public.worker_complete_all from public, anon, authenticated, service_role;
grant execute on function public.worker_complete_all to service_role;
