-- The audit: one row per move, written by a trigger alone. Nobody holds INSERT, UPDATE or DELETE.
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
  in_flight int, -- deliveries that had begun and not ended: nobody will know more about them
  -- One index, and no foreign key: a move's own trigger is the only writer, and another drops them with their execution.
  primary key (agency_id, execution_id, id)
);

alter table app.execution_events enable row level security;
revoke all on app.execution_events from public;
grant select on app.execution_events to authenticated, service_role;
