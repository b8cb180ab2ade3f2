-- Hands out at most `max_events` events about finished executions, to be sent to their webhooks. Each is handed out
-- again after a minute unless worker_ack_event was called, ten times at most. Events of a deleted webhook fail.
-- Returns a JSON array of {id, attempt, event, payload, created_at, environment_id, webhook_id, url, secret}.
create or replace function public.worker_claim_events(max_events int default 10)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  claimed jsonb;
begin
  if (max_events between 1 and 100) is not true then
    perform app.raise_error(400, 'invalid_limit', 'max_events must be 1 to 100.');
  end if;
  update app.deliveries as d set status = 'failed', due_at = null, finished_at = clock_timestamp()
  where d.id = any(array(
    select q.id from app.deliveries as q
    join app.executions as e on (e.agency_id, e.id) = (q.agency_id, q.execution_id)
    join app.connections as c on (c.agency_id, c.id) = (e.agency_id, e.destination_id)
    where q.status = 'queued' and q.due_at <= now() and (c.deleted_at is not null or q.attempts >= 10)
    order by q.due_at limit 100 for update of q skip locked));
  with taken as (
    update app.deliveries as d set attempts = d.attempts + 1, due_at = now() + interval '1 minute'
    where d.id = any(array(
      select q.id from app.deliveries as q where q.status = 'queued' and q.due_at <= now()
      order by q.due_at limit worker_claim_events.max_events for update skip locked))
    returning d.*
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'id', t.id, 'attempt', t.attempts, 'event', t.event, 'payload', app.sync_job_run_object(e), 'created_at', t.created_at,
    'environment_id', t.agency_id, 'webhook_id', c.id, 'url', c.config -> 'target_url', 'secret', app.get_secret(c.secret_id) #> '{secret,secret}')
    order by t.due_at, t.id), '[]')
  into claimed
  from taken as t
  join app.executions as e on (e.agency_id, e.id) = (t.agency_id, t.execution_id)
  join app.connections as c on (c.agency_id, c.id) = (e.agency_id, e.destination_id);
  return claimed;
end $$;

revoke all on function public.worker_claim_events from public, anon, authenticated, service_role;
grant execute on function public.worker_claim_events to service_role;
