-- Raises 400 if a given value is invalid for a webhook.
create or replace function app.require_webhook(target_url text, event_types jsonb)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if target_url !~ '^https?://[^[:space:]]+$' or length(target_url) > 2000 then
    perform app.raise_error(400, 'invalid_target_url',
      'target_url must be an https address of at most 2000 characters.');
  end if;
  if event_types is not null and (jsonb_typeof(event_types) <> 'array' or jsonb_path_exists(event_types, '$[*] ? (@.type() != "string")')) then
    perform app.raise_error(400, 'invalid_event_types', 'event_types must be a list of event names.');
  end if;
end $$;

revoke all on function app.require_webhook from public, anon, authenticated, service_role;
grant execute on function app.require_webhook to authenticated, service_role;
