-- Creates a webhook that receives events at an https address. Returns it with its `secret`, which is shown only this
-- once.
create or replace function public.create_webhook(
  target_url text, event_types jsonb default '[]', is_active boolean default true, environment_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  v_secret constant text := gen_random_uuid();
  v_id uuid;
begin
  perform app.require_organization(caller, environment_id);
  perform app.require_webhook(target_url, event_types);
  perform app.require_agency(caller, 'webhook');
  insert into app.connections as c (agency_id, kind, name, config, secret_id, created_by)
  values (caller.agency_id, 'webhook', left(target_url, 200),
    jsonb_build_object('target_url', target_url, 'event_types', event_types, 'is_active', is_active),
    app.store_secret(caller.agency_id, jsonb_build_object('secret', v_secret)), caller.actor)
  returning c.id into v_id;
  return to_jsonb(app.find_webhook(v_id)) || jsonb_build_object('secret', v_secret);
end $$;

revoke all on function public.create_webhook from public, anon, authenticated, service_role;
grant execute on function public.create_webhook to anon, authenticated, service_role;
