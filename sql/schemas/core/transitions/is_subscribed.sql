-- Whether an execution's webhook receives this event: it is active, and neither the webhook nor the execution excludes
-- the event.
create or replace function app.is_subscribed(execution app.executions, event text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  webhook jsonb;
begin
  select c.config into webhook from app.connections as c
  where c.agency_id = execution.agency_id and c.id = execution.destination_id and c.deleted_at is null;
  return coalesce((webhook ->> 'is_active')::boolean, false)
    and (jsonb_array_length(webhook -> 'event_types') = 0 or webhook -> 'event_types' ? event)
    and coalesce(nullif(execution.spec -> 'events_to_send', 'null') ? event, true);
end $$;

revoke all on function app.is_subscribed from public, anon, authenticated, service_role;
grant execute on function app.is_subscribed to service_role;
