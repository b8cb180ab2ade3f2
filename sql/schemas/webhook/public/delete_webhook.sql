-- Stops the runs that deliver to a webhook, then deletes it and its secret. Returns {id}.
create or replace function public.delete_webhook(webhook_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
begin
  perform from app.connections as c
  where c.id = webhook_id and c.kind = 'webhook' and c.deleted_at is null for no key update;
  if not found then
    perform app.find_webhook(webhook_id);
  end if;
  perform app.cancel_each(array(
    select e.id from app.executions as e
    where e.status in ('queued', 'running', 'cancelling') and e.destination_id = webhook_id), 'webhook deleted');
  update app.connections as c set deleted_at = clock_timestamp() where c.id = webhook_id;
  return jsonb_build_object('id', webhook_id);
end $$;

revoke all on function public.delete_webhook from public, anon, authenticated, service_role;
grant execute on function public.delete_webhook to anon, authenticated, service_role;
