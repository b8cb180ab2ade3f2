-- Returns a webhook of the caller's agency, or raises 404. With `for_share`, it cannot be deleted before this
-- transaction ends. Without `for_share`, the call waits for no lock.
create or replace function app.find_webhook(id uuid, for_share boolean default false)
returns public.webhooks
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  webhook public.webhooks;
begin
  if for_share then
    perform from app.connections as c where c.id = find_webhook.id and c.kind = 'webhook' and c.deleted_at is null for share;
  end if;
  select * into webhook from public.webhooks as w where w.id = find_webhook.id;
  if not found then
    perform app.raise_error(404, 'webhook_not_found', 'There is no webhook with this id.');
  end if;
  return webhook;
end $$;

revoke all on function app.find_webhook from public, anon, authenticated, service_role;
grant execute on function app.find_webhook to authenticated, service_role;
