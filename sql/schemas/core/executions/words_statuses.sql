-- Which statuses a family's word may stand for: the index narrows by these, app.public_status decides. A word that the
-- family does not have is refused.
create or replace function app.words_statuses(family text, word text)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v app.families;
  statuses text[];
begin
  select * into v from app.families as f where f.family = words_statuses.family;
  statuses := array_remove(array[
    case when word in (v.queued, v.scheduled, v.running) then 'queued' end,
    case when word = v.running then 'running' end,
    case when word = v.cancelling then 'cancelling' end,
    case when word = v.completed then 'completed' end,
    case when word = v.failed then 'failed' end,
    case when word = v.cancelled then 'cancelled' end], null);
  if statuses = '{}' then
    perform app.raise_error(400, 'unknown_status', 'There is no such status.', jsonb_build_object('known',
      (select jsonb_agg(distinct known) from unnest(array[v.queued, v.scheduled, v.running, v.cancelling, v.completed,
        v.failed, v.cancelled]) as known where known is not null)));
  end if;
  return statuses;
end $$;

revoke all on function app.words_statuses from public;
grant execute on function app.words_statuses to authenticated, service_role;
