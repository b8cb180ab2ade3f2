-- Returns the values of executions.status that a public status of this family may stand for. Indexes narrow by them, and
-- app.public_status decides. Raises 400 for a status that the family does not have.
create or replace function app.internal_statuses(family text, public_status text)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  names app.families;
  statuses text[];
begin
  select * into names from app.families as f where f.family = internal_statuses.family;
  statuses := array_remove(array[
    case when public_status in (names.queued, names.scheduled, names.running) then 'queued' end,
    case when public_status = names.running then 'running' end,
    case when public_status = names.cancelling then 'cancelling' end,
    case when public_status = names.completed then 'completed' end,
    case when public_status = names.failed then 'failed' end,
    case when public_status = names.cancelled then 'cancelled' end], null);
  if statuses = '{}' then
    perform app.raise_error(400, 'unknown_status', 'Unknown status. Use one of `known`.', jsonb_build_object('known',
      (select jsonb_agg(distinct known) from unnest(array[names.queued, names.scheduled, names.running, names.cancelling,
        names.completed, names.failed, names.cancelled]) as known where known is not null)));
  end if;
  return statuses;
end $$;

revoke all on function app.internal_statuses from public, anon, authenticated, service_role;
grant execute on function app.internal_statuses to authenticated, service_role;
