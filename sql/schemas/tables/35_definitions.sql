-- What can be started again and again: bulk syncs, model syncs, sync jobs; and the models that model syncs read. `settings`
-- has the names of the kind's own API, validated by the function that creates it.
-- Bound: none per agency.
-- Purge: app.purge_executions deletes definitions that were deleted long enough ago and that no execution refers to.
-- Deletion: a deleted definition gets `deleted_at` and stays for its executions; active ones are cancelled first. Deleting a
-- connection deletes its definitions with `force`, or is rejected. Deleting an agency is rejected while it has definitions.
create table app.definitions (
  id uuid primary key default app.uuid_v7(),
  agency_id uuid not null references public.agencies (id),
  kind text not null check (kind in ('bulk_sync', 'model', 'model_sync', 'sync_job')),
  name text not null check (length(name) between 1 and 200),
  source_id uuid, -- the connection it reads from
  destination_id uuid, -- the connection it writes to
  active boolean not null default true,
  settings jsonb not null default '{}' check (jsonb_typeof(settings) = 'object'),
  created_at timestamptz not null default now(),
  created_by text not null,
  updated_at timestamptz not null default now(),
  updated_by text not null,
  deleted_at timestamptz, -- it stays for its executions
  unique (agency_id, id),
  foreign key (agency_id, source_id) references app.connections (agency_id, id),
  foreign key (agency_id, destination_id) references app.connections (agency_id, id)
);

create index definitions_newest on app.definitions (agency_id, kind, updated_at desc, id) where deleted_at is null;
create index definitions_newest_first on app.definitions (agency_id, kind, id desc nulls last) where deleted_at is null;
create index definitions_deleted on app.definitions (deleted_at) where deleted_at is not null; -- for retention
create index definitions_by_source on app.definitions (agency_id, source_id);
create index definitions_by_destination on app.definitions (agency_id, destination_id);

alter table app.definitions enable row level security;
revoke all on app.definitions from public, anon, authenticated, service_role;
grant select on app.definitions to authenticated;
grant insert (agency_id, kind, name, source_id, destination_id, active, settings, created_by, updated_by)
  on app.definitions to authenticated;
grant update (name, settings, updated_at, updated_by, deleted_at) on app.definitions to authenticated;
grant select, insert, update, delete on app.definitions to service_role;
