-- External systems that data comes from or goes to, and webhooks. The secret is for the worker only.
-- Bound: none per agency.
-- Purge: app.purge_executions deletes connections that were deleted long enough ago and that nothing refers to.
-- Deletion: a deleted connection gets `deleted_at` and stays for the executions that refer to it; its secret is deleted at
-- once, its active executions are cancelled, and its definitions are deleted with `force`, or else prevent it. A connection
-- under test is deleted from the start. Its records stay. Deleting an agency is rejected while it has connections.
create table app.connections (
  id uuid primary key default app.uuid_v7(),
  agency_id uuid not null references public.agencies (id),
  kind text not null check (kind in ('http', 'records', 'webhook')),
  name text not null check (length(name) between 1 and 200),
  config jsonb not null default '{}' check (jsonb_typeof(config) = 'object'),
  secret_id uuid,
  created_at timestamptz not null default now(),
  created_by text,
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  unique (agency_id, id),
  foreign key (agency_id, secret_id) references app.secrets (agency_id, id) on delete set null (secret_id)
);

create index connections_newest on app.connections (agency_id, updated_at desc, id) where deleted_at is null;
create index connections_webhooks on app.connections (agency_id, id desc nulls last) where kind = 'webhook' and deleted_at is null;
create index connections_secret on app.connections (agency_id, secret_id) where secret_id is not null;
create index connections_with_secret_to_delete on app.connections (deleted_at) where deleted_at is not null and secret_id is not null;
create index connections_deleted on app.connections (deleted_at) where deleted_at is not null; -- for retention

alter table app.connections enable row level security;
revoke all on app.connections from public, anon, authenticated, service_role;
grant select (id, agency_id, kind, name, config, created_at, created_by, updated_at, deleted_at)
  on app.connections to authenticated;
grant insert (agency_id, kind, name, config, secret_id, created_by, deleted_at) on app.connections to authenticated;
grant update (config, updated_at, deleted_at) on app.connections to authenticated;
grant select, insert, update, delete on app.connections to service_role;
