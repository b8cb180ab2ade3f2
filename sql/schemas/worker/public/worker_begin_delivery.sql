-- Records that batch `seq` is about to be sent to the execution's webhook. It is committed before each attempt to send.
-- At most one delivery is in progress, and after the lease is lost none begins. `records`: how many the batch holds.
-- Returns what app.lease_result returns, with `delivery` (its id) and `created_at`, the same for every attempt. With
-- `wanted` false the webhook does not receive this event, and nothing was recorded.
create or replace function public.worker_begin_delivery(execution_id uuid, lease_token bigint, seq bigint, event text, records int default 0)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_leased_execution(execution_id, lease_token);
  response constant jsonb := app.lease_result(execution);
  delivery app.deliveries;
begin
  if response ->> 'result' <> 'continue' then
    return response;
  end if;
  if seq is distinct from execution.seq + 1 then
    perform app.raise_error(409, 'unexpected_seq', 'seq must be ' || execution.seq + 1 || '.',
      jsonb_build_object('expected_seq', execution.seq + 1));
  end if;
  if not app.is_subscribed(execution, event) then
    return response || jsonb_build_object('wanted', false);
  end if;
  insert into app.deliveries as d (agency_id, execution_id, number, event, records, status, attempts)
  values (execution.agency_id, execution.id, seq, worker_begin_delivery.event, worker_begin_delivery.records, 'sending', 1)
  on conflict on constraint deliveries_agency_id_execution_id_number_key do update
  set status = 'sending', event = excluded.event, records = excluded.records, attempts = d.attempts + 1, finished_at = null
  where d.status in ('sending', 'unknown')
  returning * into delivery;
  return response || jsonb_build_object('wanted', true, 'delivery', delivery.id, 'created_at', delivery.created_at);
end $$;

revoke all on function public.worker_begin_delivery from public, anon, authenticated, service_role;
grant execute on function public.worker_begin_delivery to service_role;
