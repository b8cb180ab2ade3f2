-- What is sent to webhooks. Each delivery is recorded under the lease before it is sent, and at most one of an execution is in
-- progress, because a cancel can count what it cannot recall. `queued` are events about an execution's end, sent after it.
-- Bound: one row for each batch of an execution that delivers, and one for its end.
-- Purge: with the execution.
-- Deletion: deleted with its execution (cascade). When its webhook is deleted, queued events fail. Stays when a definition or an
-- agency is deleted.
create table app.deliveries (
  id uuid primary key default app.uuid_v7(),
  agency_id uuid not null,
  execution_id uuid not null,
  number bigint not null, -- of the batch (its seq); -1: the end
  event text not null,
  records int not null default 0,
  status text not null check (status in ('queued', 'sending', 'delivered', 'failed', 'unknown')),
  attempts int not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  due_at timestamptz, -- while queued
  finished_at timestamptz,
  unique (agency_id, execution_id, number),
  foreign key (agency_id, execution_id) references app.executions (agency_id, id) on delete cascade,
  constraint finished_when_known check ((status in ('delivered', 'failed', 'unknown')) = (finished_at is not null)),
  constraint due_while_queued check ((status = 'queued') = (due_at is not null))
);

create unique index deliveries_one_in_progress on app.deliveries (execution_id) where status = 'sending';
create index deliveries_due on app.deliveries (due_at) where status = 'queued';

alter table app.deliveries enable row level security;
revoke all on app.deliveries from public, anon, authenticated, service_role;
grant select on app.deliveries to authenticated;
grant select, insert, update on app.deliveries to service_role;
