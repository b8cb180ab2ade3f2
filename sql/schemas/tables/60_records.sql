-- Where synced rows land: the latest state of each source row, by the connection it belongs to.
-- No foreign keys: only worker_commit_batch writes here, with ids from the execution it has locked, and a check per record costs.
create table app.records (
  agency_id uuid not null,
  connection_id uuid not null,
  resource text not null,
  key text not null,
  data jsonb not null,
  execution_id uuid not null, -- the execution that stored it last
  stored_at timestamptz not null,
  primary key (agency_id, connection_id, resource, key)
);

alter table app.records enable row level security;
revoke all on app.records from public;
grant select on app.records to authenticated;
grant select, insert, update on app.records to service_role;
