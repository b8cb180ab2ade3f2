-- Where a connection's secret is: here (`database`), in Supabase Vault, or in an external store under `name`. Only
-- app.get_secret reads a value.
-- Bound: one for each connection, and reserved names for one hour. No limit on reservations per agency.
-- Purge: the worker deletes external secrets whose `delete_at` has passed in their store (worker_claim_deleted_secrets), then
-- the row.
-- Deletion: the secret is deleted with its connection, by the trigger app.delete_secret; an external one is marked for the
-- worker. Deleting an agency is rejected while it has secrets. Executions and definitions do not refer to secrets.
create table app.secrets (
  id uuid primary key default app.uuid_v7(),
  agency_id uuid not null references public.agencies (id),
  storage text not null check (storage in ('database', 'vault', 'external')),
  value jsonb check (jsonb_typeof(value) = 'object'),
  vault_id uuid,
  name text check (length(name) between 1 and 400),
  fingerprint text, -- of an external secret: recognizes a repeated request with an Idempotency-Key
  created_at timestamptz not null default now(),
  used_at timestamptz, -- from then on no other connection may use it
  delete_at timestamptz, -- of an external secret: the worker deletes it from then on
  unique (agency_id, id),
  constraint stored_in_one_place check (
    (storage = 'database') = (value is not null) and (storage = 'vault') = (vault_id is not null)
    and (storage = 'external') = (name is not null)),
  constraint deleted_externally check (delete_at is null or storage = 'external')
);

create index secrets_to_delete on app.secrets (delete_at) where delete_at is not null;

alter table app.secrets enable row level security;
revoke all on app.secrets from public, anon, authenticated, service_role;
grant select (id, agency_id, storage, name, created_at, used_at, delete_at), update (used_at, delete_at), delete
  on app.secrets to service_role;
