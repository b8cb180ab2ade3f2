-- The only source of a user's agency, because users cannot edit it.
-- Bound: one row for each user of Supabase Auth.
-- Purge: none.
-- Deletion: a user is deleted with auth.users, and the actor names in executions and the audit stay. Deleting an agency is
-- rejected while it has users.
create table public.users (
  id uuid primary key references auth.users on delete cascade,
  agency_id uuid references public.agencies (id),
  created_at timestamptz not null default now()
);

create index users_agency on public.users (agency_id);

alter table public.users enable row level security;
revoke all on public.users from public, anon, authenticated, service_role;
grant select on public.users to authenticated;
grant select, insert, update, delete on public.users to service_role;
-- A table without this comment existed before. It is adopted, and no migration alters it.
comment on table public.users is 'Created and managed by the sync control plane.';
