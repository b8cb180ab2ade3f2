-- The tenants.
-- Bound: none; only the service role creates agencies.
-- Purge: none.
-- Deletion: rejected while the agency has users, connections, secrets, definitions, executions or API keys. Its records,
-- events and stored idempotent responses have no foreign key and stay.
create table public.agencies (
  id uuid primary key default gen_random_uuid(),
  name text not null check (length(name) between 1 and 200),
  created_at timestamptz not null default now()
);

alter table public.agencies enable row level security;
revoke all on public.agencies from public, anon, authenticated, service_role;
grant select on public.agencies to authenticated;
grant select, insert, update, delete on public.agencies to service_role;
-- A table without this comment existed before. It is adopted, and no migration alters it.
comment on table public.agencies is 'Created and managed by the sync control plane.';
