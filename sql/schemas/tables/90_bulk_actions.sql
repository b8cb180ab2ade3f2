-- The counts of a bulk action, exact at every moment, and its items. worker_run_bulk_action_step writes them in the transaction
-- of the items' transitions.
-- Bound: one row for each bulk action, and at most max_limit (up to 1,000,000) items.
-- Purge: with the bulk action's execution.
-- Deletion: deleted with the bulk action's execution (cascade). Items stay when the execution that they refer to is deleted, or
-- a definition, a connection or an agency.
create table app.bulk_actions (
  agency_id uuid not null,
  execution_id uuid not null,
  horizon uuid not null, -- executions with a later id did not exist when it began
  collected_to uuid, -- the last id that was read; null: none yet
  is_collected boolean not null default false,
  matched int not null default 0,
  done int not null default 0,
  failed int not null default 0,
  skipped int not null default 0, -- already in the target status, or no transition is possible; and the bulk action itself
  interrupted int not null default 0, -- always 0, because a batch is one transaction
  not_started int not null default 0,
  primary key (agency_id, execution_id),
  foreign key (agency_id, execution_id) references app.executions (agency_id, id) on delete cascade,
  constraint counts_are_exact check (done + failed + skipped + interrupted + not_started = matched),
  constraint counts_are_counts check (least(done, failed, skipped, interrupted, not_started) >= 0)
);

-- The items, as they were found. Executions that are created later are not among them.
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
revoke all on app.bulk_actions, app.bulk_action_items from public, anon, authenticated, service_role;
grant select on app.bulk_actions, app.bulk_action_items to authenticated;
grant select, insert, update on app.bulk_actions, app.bulk_action_items to service_role;
