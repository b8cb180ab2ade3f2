-- The only source of a user's agency: nothing that a user can edit is asked.
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
-- A table without this comment was there before: it is adopted, and no migration alters it.
comment on table public.users is 'Created and managed by the sync control plane.';
