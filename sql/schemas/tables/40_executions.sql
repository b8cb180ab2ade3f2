-- One row is one execution of any family. The guard triggers decide what may happen to it.
-- Bound: one active execution per concurrency key; none on queued executions per agency.
-- Purge: app.purge_executions deletes finished executions that are old enough.
-- Deletion: an execution's events, resources, deliveries and bulk action are deleted with it, the records it stored stay, and
-- `retry_of` of its retries is set to null. Deleting a definition or a connection cancels its active executions. Deleting an
-- agency is rejected while it has executions.
create table app.executions (
  id uuid primary key default app.uuid_v7(),
  agency_id uuid not null references public.agencies (id),
  family text not null,
  definition_id uuid, -- of the families with definitions
  connection_id uuid, -- the source
  destination_id uuid, -- where records are stored; null: the source connection
  concurrency_key text, -- at most one active execution per (agency, family, key)
  spec jsonb not null default '{}', -- what to run, frozen at the start
  retry_of uuid,
  created_at timestamptz not null,
  created_by text not null,

  status text not null,
  run_at timestamptz not null default now(), -- cannot be claimed earlier
  started_at timestamptz, -- the first claim
  finished_at timestamptz,
  deleted_at timestamptz,

  -- The last transition, as its audit event records it. Set by transitions only.
  event text not null,
  actor text not null,
  reason text,
  request_id text,

  -- Each claim and each fencing adds one. A worker's calls carry the token that its claim returned.
  lease_token bigint not null default 0,
  leased_by text,
  lease_seconds int,
  lease_expires_at timestamptz, -- not indexed: heartbeats stay HOT
  attempts int not null default 0, -- failures and lost leases since the last committed batch
  max_attempts int not null default 5,

  seq bigint not null default 0, -- of the last committed batch
  checkpoint jsonb,
  records bigint not null default 0, -- committed by this execution
  progress jsonb not null default '{}',
  error jsonb, -- {code, message} of the last failure

  cancel_requested_at timestamptz,
  cancel_deadline timestamptz,
  cancelled_by text,
  cancel_reason text,

  unique (agency_id, id),
  -- Foreign keys ignore row-level security, so they carry the agency.
  foreign key (agency_id, definition_id) references app.definitions (agency_id, id),
  foreign key (agency_id, connection_id) references app.connections (agency_id, id),
  foreign key (agency_id, destination_id) references app.connections (agency_id, id),
  foreign key (agency_id, retry_of) references app.executions (agency_id, id) on delete set null (retry_of),

  -- A finished execution has an end, a running or cancelling one a lease, a queued one neither.
  constraint status_fits check (case
    when finished_at is not null then status in ('completed', 'failed', 'cancelled') and leased_by is null
    when leased_by is not null then status in ('running', 'cancelling') and lease_expires_at is not null
    else status = 'queued' end),
  constraint cancelling_has_a_deadline
    check (status <> 'cancelling' or cancel_deadline is not null),
  constraint cancelled_by_somebody
    check (status <> 'cancelled' or (cancelled_by is not null and cancel_requested_at is not null)),
  constraint reason_is_short check (length(reason) <= 500)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01);

-- Claimable rows only, in the claim's order, so that history never slows a claim.
create index executions_claimable on app.executions (run_at, id, family) where status = 'queued';
create index executions_leased on app.executions (id) where status in ('running', 'cancelling');
create unique index executions_one_active on app.executions (agency_id, family, concurrency_key)
  where status in ('queued', 'running', 'cancelling') and concurrency_key is not null;
-- Lists, newest first (ids are time-ordered): all of a family, by status, by connection.
create index executions_newest on app.executions (agency_id, family, id desc nulls last);
create index executions_by_status on app.executions (agency_id, family, status, id desc nulls last);
create index executions_by_connection on app.executions (agency_id, connection_id, family, id desc nulls last, status)
  where connection_id is not null;
create index executions_by_definition on app.executions (agency_id, definition_id, id desc) where definition_id is not null;
create index executions_by_destination on app.executions (agency_id, destination_id) where destination_id is not null;
create index executions_retry_of on app.executions (agency_id, retry_of) where retry_of is not null;

alter table app.executions enable row level security;
revoke all on app.executions from public, anon, authenticated, service_role;
grant select on app.executions to authenticated;
grant insert (agency_id, family, definition_id, connection_id, destination_id, concurrency_key,
  spec, retry_of, run_at, checkpoint, progress, reason)
  on app.executions to authenticated;
grant update (status, event, reason, deleted_at) on app.executions to authenticated;
grant select, insert, update on app.executions to service_role;
