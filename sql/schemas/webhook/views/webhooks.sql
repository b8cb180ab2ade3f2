-- The agency's webhooks with their API's field names. security_invoker: the caller's policies decide which rows are
-- visible.
create view public.webhooks with (security_invoker = true) as
select
  c.id,
  c.agency_id as environment_id,
  c.config ->> 'target_url' as target_url,
  (c.config ->> 'is_active')::boolean as is_active,
  c.config -> 'event_types' as event_types,
  c.created_at,
  c.updated_at
from app.connections as c
where c.kind = 'webhook' and c.deleted_at is null;

revoke all on public.webhooks from public, anon, authenticated, service_role;
grant select on public.webhooks to authenticated, service_role;
