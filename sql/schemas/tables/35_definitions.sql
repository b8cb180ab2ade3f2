-- What can be started again and again: a bulk sync, a model sync, a sync job; and the models that model syncs read.
-- `settings` is in its kind's own words, checked by the function that creates it.
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
  deleted_at timestamptz, -- it stays for the executions that name it
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
revoke all on app.definitions from public;
grant select on app.definitions to authenticated;
grant insert (agency_id, kind, name, source_id, destination_id, active, settings, created_by, updated_by)
  on app.definitions to authenticated;
grant update (name, settings, updated_at, updated_by, deleted_at) on app.definitions to authenticated;
grant select, insert, update, delete on app.definitions to service_role;
