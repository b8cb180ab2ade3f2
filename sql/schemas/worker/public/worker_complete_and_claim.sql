-- Completes what is done and claims what is next in one call and one commit: worker_complete_all, then worker_claim.
-- Returns {completed, claimed}, the results of the two.
-- protocol: the number of the worker's protocol, the names, arguments and results of the worker_* functions. A change that
-- older workers cannot follow gets the next number, and both are supported for one migration. An unknown number raises
-- 400 unsupported_protocol with the numbers that are supported, so that a worker stops before it has claimed anything.
create or replace function public.worker_complete_and_claim(
  leases jsonb, worker text, families jsonb, max_executions int default 1, lease_seconds int default 30,
  protocol int default 1)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan -- as in app.complete_and_claim
set lock_timeout = '5s'
set enable_seqscan = off
as $$
declare
  turn record;
  claimed uuid[];
begin
  if protocol is distinct from 1 then
    perform app.raise_error(400, 'unsupported_protocol',
      'Worker protocol ' || coalesce(protocol::text, 'null') || ' is not supported. Deploy the worker of this database''s version.',
      jsonb_build_object('supported', jsonb_build_array(1)));
  end if;
  if (max_executions between 1 and 100 and lease_seconds between 1 and 3600 and length(worker) between 1 and 200
      and jsonb_typeof(families) = 'array') is not true then
    perform app.raise_error(400, 'invalid_claim',
      'max_executions must be 1 to 100, lease_seconds 1 to 3600, worker 1 to 200 characters, and families a list.');
  end if;
  turn := app.complete_and_claim(leases, worker, families, max_executions, lease_seconds);
  claimed := turn.claimed;
  if cardinality(claimed) < max_executions and (app.reap_executions(max_executions) ->> 'released')::int > 0 then
    claimed := claimed
      || (app.complete_and_claim('{}', worker, families, max_executions - cardinality(claimed), lease_seconds)).claimed;
  end if;
  return jsonb_build_object('completed', turn.completed, 'claimed', coalesce((
    select jsonb_agg(jsonb_build_object(
      'id', e.id, 'agency_id', e.agency_id, 'family', e.family, 'lease_token', e.lease_token, 'spec', e.spec, 'seq', e.seq,
      'checkpoint', e.checkpoint, 'progress', e.progress, 'connection_id', e.connection_id, 'definition_id', e.definition_id,
      'connection', (
        select jsonb_build_object('kind', c.kind, 'config', c.config) || app.get_secret(c.secret_id)
        from app.connections as c where c.agency_id = e.agency_id and c.id = e.connection_id),
      'destination', (
        select jsonb_build_object('id', c.id, 'kind', c.kind, 'config', c.config) || app.get_secret(c.secret_id)
        from app.connections as c where c.agency_id = e.agency_id and c.id = e.destination_id)
      ) order by e.id)
    from app.executions as e where e.id = any(claimed)), '[]'));
end $$;

revoke all on function public.worker_complete_and_claim from public, anon, authenticated, service_role;
grant execute on function public.worker_complete_and_claim to service_role;
