-- Where synced records are stored: the latest state of each source row, by destination connection. It has no foreign keys,
-- because only worker_commit_batch writes here, with ids of the execution that it has locked, and a check per record costs time.
-- Bound: one row for each key; in mode append, for each record.
-- Purge: none. Rows stay until the tables' owner deletes them.
-- Deletion: rows stay when their execution, definition, connection or agency is deleted.
create table app.records (
  agency_id uuid not null,
  connection_id uuid not null,
  resource text not null,
  key text not null,
  data jsonb not null,
  execution_id uuid not null, -- the last execution that stored it
  stored_at timestamptz not null,
  primary key (agency_id, connection_id, resource, key)
);

alter table app.records enable row level security;
revoke all on app.records from public, anon, authenticated, service_role;
grant select on app.records to authenticated;
grant select, insert, update on app.records to service_role;
