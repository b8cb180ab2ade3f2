-- Where a connection's secret is: here (`database`), in Supabase Vault, or in a store outside, which calls it `name`.
-- A value is read by app.get_secret alone. A forgotten secret's row is gone; one outside stays until the worker has
-- forgotten it there.
create table app.secrets (
  id uuid primary key default app.uuid_v7(),
  agency_id uuid not null references public.agencies (id),
  storage text not null check (storage in ('database', 'vault', 'external')),
  value jsonb check (jsonb_typeof(value) = 'object'),
  vault_id uuid,
  name text check (length(name) between 1 and 400),
  fingerprint text, -- of one outside: what an Idempotency-Key's repetition is compared by
  created_at timestamptz not null default now(),
  used_at timestamptz, -- from then on no further connection may name it
  delete_at timestamptz, -- of one outside: from when on the worker is to forget it
  unique (agency_id, id),
  constraint kept_in_one_place check (
    (storage = 'database') = (value is not null) and (storage = 'vault') = (vault_id is not null)
    and (storage = 'external') = (name is not null)),
  constraint forgotten_outside check (delete_at is null or storage = 'external')
);

create index secrets_to_forget on app.secrets (delete_at) where delete_at is not null;

alter table app.secrets enable row level security;
revoke all on app.secrets from public, anon, authenticated, service_role;
grant select (id, agency_id, storage, name, created_at, used_at, delete_at), update (used_at, delete_at), delete
  on app.secrets to service_role;
