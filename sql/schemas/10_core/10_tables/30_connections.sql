-- A system that data comes from or goes to. `secret` is for the worker alone.
create table app.connections (
  id uuid primary key default gen_random_uuid(),
  agency_id uuid not null references public.agencies,
  kind text not null check (kind in ('http', 'records')),
  name text not null check (length(name) between 1 and 200),
  config jsonb not null default '{}' check (jsonb_typeof(config) = 'object'),
  secret jsonb not null default '{}' check (jsonb_typeof(secret) = 'object'),
  created_at timestamptz not null default now(),
  unique (agency_id, id)
);

alter table app.connections enable row level security;
revoke all on app.connections from public;
grant select (id, agency_id, kind, name, config, created_at) on app.connections to authenticated;
grant select, insert, update, delete on app.connections to service_role;
