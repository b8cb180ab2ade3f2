-- Completes several executions in one commit: those that their lease still holds (see app.complete_and_claim).
-- leases: {execution_id: lease_token}, at most 100. Returns a JSON array of the completed ids; worker_complete returns
-- the result for each of the others.
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
