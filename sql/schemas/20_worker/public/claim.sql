-- Hands at most `limit` queued executions of these families to a worker, oldest first, each with a new lease, its
-- connection and the connection's secret, as app.reveal_secret answers it. What a dead worker left behind is released
-- first.
-- families: JSON array of family names. Answer: JSON array of executions.
create or replace function public.claim(worker text, families jsonb, "limit" int default 1, lease_seconds int default 30)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  wanted text[];
  claimed jsonb;
begin
  if ("limit" between 1 and 100 and lease_seconds between 1 and 3600 and length(worker) between 1 and 200
      and jsonb_typeof(families) = 'array') is not true then
    perform app.refuse(400, 'invalid_claim',
      'limit is 1 to 100, lease_seconds 1 to 3600, worker 1 to 200 characters, families a list.');
  end if;
  wanted := array(select jsonb_array_elements_text(families));
  perform app.reap_executions("limit");

  with taken as (
    update app.executions as e
    set status = 'running', event = 'claim', actor = 'worker:' || worker, reason = null,
        leased_by = worker, lease_seconds = claim.lease_seconds
    where e.id = any(array(
      select q.id from app.executions as q
      where q.status = 'queued' and q.run_at <= now() and q.family = any(wanted)
      order by q.run_at, q.id
      limit claim."limit"
      for update skip locked))
    returning e.*
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'id', t.id, 'agency_id', t.agency_id, 'family', t.family, 'lease', t.lease, 'spec', t.spec, 'seq', t.seq,
    'checkpoint', t.checkpoint, 'progress', t.progress, 'connection_id', t.connection_id, 'definition_id', t.definition_id,
    'connection', (
      select jsonb_build_object('kind', c.kind, 'config', c.config) || app.reveal_secret(c.secret_id)
      from app.connections as c where c.agency_id = t.agency_id and c.id = t.connection_id),
    'destination', (
      select jsonb_build_object('id', c.id, 'kind', c.kind, 'config', c.config) || app.reveal_secret(c.secret_id)
      from app.connections as c where c.agency_id = t.agency_id and c.id = t.destination_id)
  ) order by t.id), '[]')
  into claimed
  from taken as t;
  return claimed;
end $$;

revoke all on function public.claim from public, anon, authenticated, service_role;
grant execute on function public.claim to service_role;
