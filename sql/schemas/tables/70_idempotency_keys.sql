-- Answers that may be asked for again for a day, each written in its move's own transaction.
create table app.idempotency_keys (
  id bigint generated always as identity primary key,
  agency_id uuid, -- null: a trusted server's
  actor text not null,
  function text not null,
  key text not null check (length(key) between 1 and 255),
  request jsonb not null, -- the arguments; a request is at most 1 MiB, usually some hundred bytes
  response jsonb not null,
  created_at timestamptz not null default now(),
  unique nulls not distinct (agency_id, actor, function, key)
);

create index idempotency_keys_age on app.idempotency_keys (created_at);

alter table app.idempotency_keys enable row level security;
revoke all on app.idempotency_keys from public;
grant select, insert, delete on app.idempotency_keys to authenticated;
-- `for update` in the reaper asks for UPDATE, though it only deletes.
grant select, insert, update, delete on app.idempotency_keys to service_role;
