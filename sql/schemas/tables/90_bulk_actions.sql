-- What a bulk action has found and done: exact at every moment. Written by worker_run_bulk_action_step, with the items' own moves.
create table app.bulk_actions (
  agency_id uuid not null,
  execution_id uuid not null,
  horizon uuid not null, -- executions with a later id were not there when it began
  collected_to uuid, -- the last id looked at; null: nothing yet
  is_collected boolean not null default false,
  matched int not null default 0,
  done int not null default 0,
  failed int not null default 0,
  skipped int not null default 0, -- already where the action leads, or not to be moved; and the bulk action itself
  interrupted int not null default 0, -- a batch is one transaction: none ever is
  not_started int not null default 0,
  primary key (agency_id, execution_id),
  foreign key (agency_id, execution_id) references app.executions (agency_id, id) on delete cascade,
  constraint counts_are_exact check (done + failed + skipped + interrupted + not_started = matched),
  constraint counts_are_counts check (least(done, failed, skipped, interrupted, not_started) >= 0)
);

-- The items, as they were found: what is created later is not among them.
create table app.bulk_action_items (
  agency_id uuid not null,
  execution_id uuid not null, -- the bulk action
  item_id uuid not null,
  outcome text check (outcome in ('done', 'failed', 'skipped')), -- null: not started
  primary key (agency_id, execution_id, item_id),
  foreign key (agency_id, execution_id) references app.executions (agency_id, id) on delete cascade
);

create index bulk_action_items_to_do on app.bulk_action_items (execution_id, item_id) where outcome is null;

alter table app.bulk_actions enable row level security;
alter table app.bulk_action_items enable row level security;
revoke all on app.bulk_actions, app.bulk_action_items from public;
grant select on app.bulk_actions, app.bulk_action_items to authenticated;
grant select, insert, update on app.bulk_actions, app.bulk_action_items to service_role;
