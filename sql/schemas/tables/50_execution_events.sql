-- The audit: one row per transition, written by a trigger only. No role holds INSERT, UPDATE or DELETE.
-- Bound: one for each transition of an execution.
-- Purge: with the execution, by the trigger app.drop_events.
-- Deletion: events stay when a definition, a connection or an agency is deleted, and are deleted with their execution only.
create table app.execution_events (
  id bigint generated always as identity,
  agency_id uuid not null,
  execution_id uuid not null,
  at timestamptz not null,
  event text not null,
  from_status text,
  to_status text not null,
  lease_token bigint not null,
  actor text not null,
  reason text,
  request_id text,
  in_flight int, -- deliveries in progress whose outcome is unknown
  -- One index and no foreign key, because the only writer is the transition's own trigger, and another trigger deletes
  -- events with their execution.
  primary key (agency_id, execution_id, id)
);

alter table app.execution_events enable row level security;
revoke all on app.execution_events from public, anon, authenticated, service_role;
grant select on app.execution_events to authenticated, service_role;
