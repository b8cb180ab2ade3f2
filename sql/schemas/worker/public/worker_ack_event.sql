-- Records the outcome of an attempt to send an event: it is delivered, or tried again after a growing delay, five times
-- in all. An attempt has no effect if a later one has begun. Returns {result: status | lost}.
create or replace function public.worker_ack_event(delivery_id uuid, attempt int, delivered boolean)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  v_status text;
begin
  update app.deliveries as d
  set status = case when delivered then 'delivered' when d.attempts >= 5 then 'failed' else 'queued' end,
      due_at = case when not delivered and d.attempts < 5 then clock_timestamp() + app.retry_delay(d.attempts) end,
      finished_at = case when delivered or d.attempts >= 5 then clock_timestamp() end
  where d.id = delivery_id and d.status = 'queued' and d.attempts = attempt
  returning d.status into v_status;
  return jsonb_build_object('result', coalesce(v_status, 'lost'));
end $$;

revoke all on function public.worker_ack_event from public, anon, authenticated, service_role;
grant execute on function public.worker_ack_event to service_role;
