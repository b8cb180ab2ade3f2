-- Returns a webhook, without its secret.
create or replace function public.get_webhook(webhook_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return to_jsonb(app.find_webhook(webhook_id));
end $$;

revoke all on function public.get_webhook from public, anon, authenticated, service_role;
grant execute on function public.get_webhook to anon, authenticated, service_role;
