-- The only source of a user's agency: nothing that a user can edit is asked.
create table public.users (
  id uuid primary key references auth.users on delete cascade,
  agency_id uuid references public.agencies,
  created_at timestamptz not null default now()
);

create index users_agency on public.users (agency_id);

alter table public.users enable row level security;
revoke all on public.users from public, anon, authenticated, service_role;
grant select on public.users to authenticated;
grant select, insert, update, delete on public.users to service_role;
