-- Changes the given fields of a webhook. Returns it without its secret.
create or replace function public.update_webhook(
  webhook_id uuid, target_url text default null, event_types jsonb default null, is_active boolean default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
begin
  -- Locked for the update at once, because two calls that first share the row would wait for each other.
  perform from app.connections as c
  where c.id = webhook_id and c.kind = 'webhook' and c.deleted_at is null for no key update;
  if not found then
    perform app.find_webhook(webhook_id);
  end if;
  perform app.require_webhook(target_url, event_types);
  update app.connections as c
  set config = c.config || jsonb_strip_nulls(jsonb_build_object(
        'target_url', target_url, 'event_types', event_types, 'is_active', is_active)),
      updated_at = clock_timestamp()
  where c.id = webhook_id;
  return to_jsonb(app.find_webhook(webhook_id));
end $$;

revoke all on function public.update_webhook from public, anon, authenticated, service_role;
grant execute on function public.update_webhook to anon, authenticated, service_role;
