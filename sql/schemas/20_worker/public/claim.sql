-- Hands at most `limit` queued executions of these families to a worker, oldest first, each with a new lease, its
-- connection and the connection's secret, as app.reveal_secret answers it. Where the queue holds fewer, what dead workers
-- left behind is released and handed out too; behind a longer queue that is the tick's to do (see reap).
-- families: JSON array of family names. Answer: JSON array of executions.
create or replace function public.claim(worker text, families jsonb, "limit" int default 1, lease_seconds int default 30)
returns jsonb
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan -- as in app.lease_queued
set lock_timeout = '5s'
set enable_seqscan = off
as $$
declare
  wanted text[];
  leased uuid[];
begin
  if ("limit" between 1 and 100 and lease_seconds between 1 and 3600 and length(worker) between 1 and 200
      and jsonb_typeof(families) = 'array') is not true then
    perform app.refuse(400, 'invalid_claim',
      'limit is 1 to 100, lease_seconds 1 to 3600, worker 1 to 200 characters, families a list.');
  end if;
  wanted := array(select jsonb_array_elements_text(families));
  leased := app.lease_queued(worker, wanted, "limit", lease_seconds);
  if cardinality(leased) < "limit" and (app.reap_executions("limit") ->> 'released')::int > 0 then
    leased := leased || app.lease_queued(worker, wanted, "limit" - cardinality(leased), lease_seconds);
  end if;
  return coalesce((
    select jsonb_agg(jsonb_build_object(
      'id', e.id, 'agency_id', e.agency_id, 'family', e.family, 'lease', e.lease, 'spec', e.spec, 'seq', e.seq,
      'checkpoint', e.checkpoint, 'progress', e.progress, 'connection_id', e.connection_id, 'definition_id', e.definition_id,
      'connection', (
        select jsonb_build_object('kind', c.kind, 'config', c.config) || app.reveal_secret(c.secret_id)
        from app.connections as c where c.agency_id = e.agency_id and c.id = e.connection_id),
      'destination', (
        select jsonb_build_object('id', c.id, 'kind', c.kind, 'config', c.config) || app.reveal_secret(c.secret_id)
        from app.connections as c where c.agency_id = e.agency_id and c.id = e.destination_id)
      ) order by e.id)
    from app.executions as e where e.id = any(leased)), '[]');
end $$;

revoke all on function public.claim from public, anon, authenticated, service_role;
grant execute on function public.claim to service_role;
