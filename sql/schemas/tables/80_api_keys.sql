-- Keys with which an agency's own servers call. They are shown once and stored as a hash; 244 random bits need no slow hash.
-- Bound: none per agency; lists end at 1,000.
-- Purge: none. Revoked keys stay.
-- Deletion: deleting an agency is rejected while it has keys. Executions, definitions and connections do not refer to them.
create table app.api_keys (
  id uuid primary key default gen_random_uuid(),
  agency_id uuid not null references public.agencies (id),
  name text not null check (length(name) between 1 and 200),
  hash bytea not null unique check (length(hash) = 32), -- SHA-256
  hint text not null, -- the last characters, to tell keys apart
  created_at timestamptz not null default now(),
  created_by text not null,
  last_used_at timestamptz, -- to the minute
  revoked_at timestamptz,
  revoked_by text
);

create index api_keys_agency on app.api_keys (agency_id, created_at desc);

alter table app.api_keys enable row level security;
revoke all on app.api_keys from public, anon, authenticated, service_role;
grant select (id, agency_id, name, hint, created_at, created_by, last_used_at, revoked_at, revoked_by)
  on app.api_keys to authenticated;
grant insert (agency_id, name, hash, hint, created_by) on app.api_keys to authenticated;
grant update (revoked_at, revoked_by) on app.api_keys to authenticated;
grant select on app.api_keys to service_role;
