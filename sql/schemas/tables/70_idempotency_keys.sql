-- Responses that can be repeated for a day, each stored in the transaction of its work.
-- Bound: one row for each call with an Idempotency-Key within 24 hours; none per agency.
-- Purge: worker_reap deletes rows after 24 hours, 1,000 per tick.
-- Deletion: rows stay, for their 24 hours, when an execution, a definition, a connection or an agency is deleted.
create table app.idempotency_keys (
  id bigint generated always as identity primary key,
  agency_id uuid, -- null for a trusted server
  actor text not null,
  function text not null,
  key text not null check (length(key) between 1 and 255),
  request jsonb not null, -- the arguments, without secrets; at most 1 MiB, usually some hundred bytes
  response jsonb not null,
  created_at timestamptz not null default now(),
  unique nulls not distinct (agency_id, actor, function, key)
);

create index idempotency_keys_age on app.idempotency_keys (created_at);

alter table app.idempotency_keys enable row level security;
revoke all on app.idempotency_keys from public, anon, authenticated, service_role;
grant select, insert, delete on app.idempotency_keys to authenticated;
-- The reaper only deletes, but its `for update` requires UPDATE.
grant select, insert, update, delete on app.idempotency_keys to service_role;
