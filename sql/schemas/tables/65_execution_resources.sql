-- What an execution has done for each resource. worker_commit_batch keeps it in the transaction that stores the records, so the
-- counts are exact. The families derive a resource's status from this row and the execution.
-- Bound: one row for each resource and method of an execution.
-- Purge: with the execution.
-- Deletion: deleted with its execution (cascade); stays when a definition, a connection or an agency is deleted.
create table app.execution_resources (
  agency_id uuid not null,
  execution_id uuid not null,
  resource text not null,
  method text not null default 'list',
  started_at timestamptz not null,
  finished_at timestamptz, -- its last batch is stored
  records bigint not null default 0, -- read from the source
  inserted bigint not null default 0, -- or delivered
  updated bigint not null default 0,
  failed bigint not null default 0, -- records that could not be stored
  errors jsonb not null default '[]', -- messages about the first of them
  primary key (agency_id, execution_id, resource, method),
  foreign key (agency_id, execution_id) references app.executions (agency_id, id) on delete cascade
) with (fillfactor = 70);

alter table app.execution_resources enable row level security;
revoke all on app.execution_resources from public, anon, authenticated, service_role;
grant select on app.execution_resources to authenticated;
grant select, insert, update on app.execution_resources to service_role;
