-- The first release. Written by `python -m functions._build.migrations baseline` from sql/schemas; see sql/README.md.

-- Nothing is changed before these conditions hold.
do $preconditions$
declare
  v_repairs text;
  v_functions text;
begin
  if to_regclass('app.executions') is not null then
    raise exception 'app.executions already exists, from a version before the first release. It cannot be upgraded.'
      ' Use a new project, or reset this database (supabase db reset) and push again.';
  elsif to_regnamespace('app') is not null then
    raise exception 'The schema "app" already exists and is not ours.'
      ' Rename it (alter schema app rename to ...) and push again.';
  end if;

  select string_agg(p.oid::regprocedure::text, ', ' order by p.oid) into v_functions
  from pg_proc as p
  where p.pronamespace = 'public'::regnamespace and p.proname = any(array['create_api_key', 'list_api_keys', 'revoke_api_key', 'cancel_bulk_action', 'create_bulk_action', 'delete_bulk_action', 'get_bulk_action', 'list_bulk_actions', 'preview_bulk_action', 'cancel_bulk_sync', 'create_bulk_sync', 'delete_bulk_sync', 'get_bulk_sync', 'get_bulk_sync_execution', 'get_bulk_sync_status', 'list_bulk_sync_executions', 'list_bulk_syncs', 'start_bulk_sync', 'create_connection', 'delete_connection', 'get_connection', 'list_connections', 'reserve_secret', 'test_connection', 'cancel_sync_job', 'get_historical_sync', 'list_historical_syncs', 'retry_historical_sync', 'start_historical_sync', 'create_model', 'delete_model', 'get_model', 'list_models', 'cancel_model_sync', 'create_model_sync', 'delete_model_sync', 'get_model_sync', 'get_model_sync_execution', 'get_model_sync_status', 'list_model_sync_executions', 'list_model_syncs', 'start_model_sync', 'cancel_source_check', 'get_source_check', 'create_sync_job', 'delete_sync_job', 'get_sync_job', 'list_sync_jobs', 'update_sync_job', 'create_sync_job_run', 'get_sync_job_run', 'list_sync_job_runs', 'stop_sync_job_run', 'create_webhook', 'delete_webhook', 'get_webhook', 'list_webhooks', 'update_webhook', 'worker_ack_deleted_secret', 'worker_ack_event', 'worker_begin_delivery', 'worker_claim', 'worker_claim_deleted_secrets', 'worker_claim_events', 'worker_commit_batch', 'worker_complete', 'worker_complete_all', 'worker_complete_and_claim', 'worker_fail', 'worker_heartbeat', 'worker_queue_stats', 'worker_reap', 'worker_release', 'worker_run_bulk_action_step', 'worker_stop']);
  if v_functions is not null then
    raise exception 'The schema "public" already has functions with names that this migration creates: %.'
      ' Rename or drop them and push again.', v_functions;
  end if;

  execute $check$
    create or replace function pg_temp.check_adopted_tables()
    returns table (problem text, remedy text)
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
    as $$
    begin
      return query
      with
        adopted as (
          select c.oid, 'public.' || c.relname as name, c.relkind, c.relrowsecurity,
            coalesce(c.relacl, acldefault('r', c.relowner)) as acl
          from pg_class as c
          where c.relnamespace = 'public'::regnamespace and c.relname in ('users', 'agencies')
        ),
        -- The columns that are relied on; attnum is null where one is missing.
        required as (
          select t.oid, t.name, column_name, a.attnum, format_type(a.atttypid, a.atttypmod) as type,
            a.attgenerated, a.attacl
          from (values ('public.users', 'id'), ('public.users', 'agency_id'), ('public.agencies', 'id'))
            as r (table_name, column_name)
          join adopted as t on t.name = r.table_name
          left join pg_attribute as a on a.attrelid = t.oid and a.attname = r.column_name and not a.attisdropped
        ),
        -- Privileges through PUBLIC or through another role count as well.
        table_grants as (
          select distinct t.oid, t.name, lower(acl.privilege_type) as privilege, acl.grantee
          from adopted as t, aclexplode(t.acl) as acl
          where t.name = 'public.users' and acl.privilege_type in ('INSERT', 'UPDATE')
            and (acl.grantee = 0 or pg_has_role('anon', acl.grantee, 'usage') or pg_has_role('authenticated', acl.grantee, 'usage'))
        ),
        column_grants as (
          select distinct r.name, r.attnum, r.column_name, lower(acl.privilege_type) as privilege, acl.grantee
          from required as r, aclexplode(r.attacl) as acl
          where r.name = 'public.users' and acl.privilege_type in ('INSERT', 'UPDATE')
            and (acl.grantee = 0 or pg_has_role('anon', acl.grantee, 'usage') or pg_has_role('authenticated', acl.grantee, 'usage'))
            -- Revoking the privilege on the table revokes it on the columns as well.
            and not exists (
              select from table_grants as g where g.grantee = acl.grantee and g.privilege = lower(acl.privilege_type))
        )
      select t.name || ' is not a table.', null
      from adopted as t where t.relkind not in ('r', 'p')
      union all
      select t.name || ' has partitions or child tables, which have grants and policies of their own.', null
      from adopted as t
      where t.relkind = 'p' or exists (select from pg_inherits as i where t.oid in (i.inhparent, i.inhrelid))
      union all
      select format('%s.%s does not exist.', r.name, r.column_name),
        format('alter table %s add column %I uuid;', r.name, r.column_name)
      from required as r where r.attnum is null
      union all
      select format('%s.%s has the type %s, not uuid.', r.name, r.column_name, r.type),
        format('alter table %1$s alter column %2$I type uuid using %2$I::text::uuid;', r.name, r.column_name)
      from required as r where r.type <> 'uuid'
      union all
      select format('%s.%s is generated from other columns, which callers may be able to change.', r.name, r.column_name), null
      from required as r where r.attgenerated <> ''
      union all
      select r.name || '.id is not unique.', format('alter table %s add unique (id);', r.name)
      from required as r
      where r.column_name = 'id' and not exists (
        select from pg_index as i
        where i.indrelid = r.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indnkeyatts = 1
          and i.indkey[0] = r.attnum and i.indpred is null and i.indexprs is null)
      union all
      select 'public.users.id does not reference auth.users (id).',
        'alter table public.users add foreign key (id) references auth.users (id) on delete cascade;'
      from required as r
      where r.name = 'public.users' and r.column_name = 'id' and not exists (
        select from pg_constraint as f
        join pg_attribute as a on a.attrelid = f.confrelid and a.attname = 'id'
        where f.conrelid = r.oid and f.contype = 'f' and f.convalidated and f.confrelid = to_regclass('auth.users')
          and f.conkey = array[r.attnum] and f.confkey = array[a.attnum])
      union all
      select t.name || ' has no row-level security.', format('alter table %s enable row level security;', t.name)
      from adopted as t where t.relkind = 'r' and not t.relrowsecurity
      union all
      -- The privilege is taken from the table and granted again on every other column.
      select format('%s may %s id and agency_id of %s, through a grant on the table.', roles.list, roles.privilege, roles.name),
        format('revoke %s on %s from %s;', roles.privilege, roles.name, roles.list)
        || coalesce(E'\n' || format('grant %s (%s) on %s to %s;', roles.privilege, others.list, roles.name, roles.list), '')
      from (
        select g.oid, g.name, g.privilege,
          string_agg(case g.grantee when 0 then 'public' else g.grantee::regrole::text end, ', ' order by g.grantee) as list
        from table_grants as g group by g.oid, g.name, g.privilege
      ) as roles
      cross join lateral (
        select string_agg(quote_ident(a.attname), ', ' order by a.attnum) as list
        from pg_attribute as a
        where a.attrelid = roles.oid and a.attnum > 0 and not a.attisdropped and a.attname not in ('id', 'agency_id')
      ) as others
      union all
      select format('%s may %s %s.%s.', g.list, g.privilege, g.name, g.column_name),
        format('revoke %s (%I) on %s from %s;', g.privilege, g.column_name, g.name, g.list)
      from (
        select c.name, c.column_name, c.privilege,
          string_agg(case c.grantee when 0 then 'public' else c.grantee::regrole::text end, ', ' order by c.grantee) as list
        from column_grants as c group by c.name, c.column_name, c.privilege
      ) as g
      union all
      -- A view reads and writes with its owner's privileges, unless it says otherwise.
      select format('public.users can be changed through the view %s.', v.oid::regclass),
        format('alter view %s set (security_invoker = true);', v.oid::regclass)
      from pg_class as v
      where v.relkind = 'v' and pg_relation_is_updatable(v.oid, true) & 12 <> 0
        and not coalesce(v.reloptions && array['security_invoker=true', 'security_invoker=on'], false)
        and exists (
          select from pg_rewrite as r
          join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
          where r.ev_class = v.oid and d.refobjid = to_regclass('public.users'))
        and (has_any_column_privilege('anon', v.oid, 'insert, update')
          or has_any_column_privilege('authenticated', v.oid, 'insert, update'));
    end $$;
  $check$;
  select string_agg(format('-- %s%s%s', problem, E'\n', coalesce(remedy, '-- Change this by hand.')), E'\n')
  into v_repairs from pg_temp.check_adopted_tables();
  drop function pg_temp.check_adopted_tables();
  if v_repairs is not null then
    raise exception using message =
      'This project has its own public.users or public.agencies, which cannot be adopted yet.'
      ' users.agency_id decides which agency a user belongs to, so no user may be able to change it.'
      ' Check that your application does not need what these statements revoke, run them, and push again:'
      || E'\n' || v_repairs;
  end if;
end $preconditions$;

-- tables/00_app.sql
-- Tables and rules are in `app`, which no API exposes. `public` holds what callers may use, and nothing else.
create schema app;
revoke all on schema app from public, anon, authenticated, service_role;
grant usage on schema app to anon, authenticated, service_role;

-- tables/01_uuid_v7.sql
-- Returns a time-ordered id (RFC 9562), which keeps the primary key's index warm. Postgres has its own from 18 on.
create or replace function app.uuid_v7()
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  -- The twelve bits behind the milliseconds are a fraction of one, so that ids of the same millisecond are ordered too.
  microseconds constant bigint := (extract(epoch from pg_catalog.clock_timestamp()) * 1000000)::bigint;
  fraction constant int := (microseconds % 1000 * 4096 / 1000)::int;
  milliseconds constant bytea := substring(pg_catalog.int8send(microseconds / 1000) from 3);
  bytes bytea := overlay(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) placing milliseconds from 1 for 6);
begin
  bytes := pg_catalog.set_byte(pg_catalog.set_byte(bytes, 6, 112 + (fraction >> 8)), 7, fraction & 255); -- version 7
  return pg_catalog.encode(bytes, 'hex')::uuid;
end $$;

revoke all on function app.uuid_v7 from public, anon, authenticated, service_role;
grant execute on function app.uuid_v7 to authenticated, service_role;

-- tables/02_caller_type.sql
-- A caller, as app.caller() returns it: the agency (null: any) and the actor that the audit records.
create type app.caller as (agency_id uuid, actor text);

-- tables/03_families.sql
-- The vocabulary of all families on one screen: how a family cancels, and its public name of each status.
--   cancel_event    `cancel` ends at once; `request_cancel` leaves the worker until the deadline (`grace`)
--   queued          the name before the start; `scheduled` while `run_at` is in the future
--   foreign_status  the HTTP status for a row of another agency
create view app.families with (security_invoker = true) as
select * from (values
  ('historical_sync', 'cancel',         interval '0',   403, 'pending',   'pending',   'in_progress', null,        'completed', 'failed', 'cancelled'),
  ('sync_job_run',    'cancel',         interval '0',   404, 'created',   'created',   'running',     null,        'completed', 'failed', 'stopped'),
  ('bulk_sync',       'request_cancel', interval '30s', 404, 'created',   'scheduled', 'running',     'canceling', 'completed', 'failed', 'canceled'),
  ('model_sync',      'request_cancel', interval '30s', 404, 'created',   'scheduled', 'running',     'canceling', 'completed', 'failed', 'canceled'),
  ('bulk_action',     'cancel',         interval '0',   404, 'scheduled', 'scheduled', 'running',     null,        'completed', 'failed', 'cancelled'),
  -- Internal: a check of a source, for a caller that waits (see source_check/).
  ('source_check',    'cancel',         interval '0',   404, 'created',   'created',   'running',     null,        'completed', 'failed', 'cancelled')
) as vocabulary (family, cancel_event, grace, foreign_status, queued, scheduled, running, cancelling, completed, failed, cancelled);

revoke all on app.families from public, anon, authenticated, service_role;
grant select on app.families to authenticated, service_role;

-- tables/10_agencies.sql
do $unless_adopted$
begin
  if to_regclass('public.agencies') is null or obj_description(to_regclass('public.agencies'), 'pg_class') = 'Created and managed by the sync control plane.' then
    execute $statements$
      -- The tenants.
      -- Bound: none; only the service role creates agencies.
      -- Purge: none.
      -- Deletion: rejected while the agency has users, connections, secrets, definitions, executions or API keys. Its records,
      -- events and stored idempotent responses have no foreign key and stay.
      create table public.agencies (
        id uuid primary key default gen_random_uuid(),
        name text not null check (length(name) between 1 and 200),
        created_at timestamptz not null default now()
      );

      alter table public.agencies enable row level security;
      revoke all on public.agencies from public, anon, authenticated, service_role;
      grant select on public.agencies to authenticated;
      grant select, insert, update, delete on public.agencies to service_role;
      -- A table without this comment existed before. It is adopted, and no migration alters it.
      comment on table public.agencies is 'Created and managed by the sync control plane.';
    $statements$;
  end if;
end $unless_adopted$;

-- tables/20_users.sql
do $unless_adopted$
begin
  if to_regclass('public.users') is null or obj_description(to_regclass('public.users'), 'pg_class') = 'Created and managed by the sync control plane.' then
    execute $statements$
      -- The only source of a user's agency, because users cannot edit it.
      -- Bound: one row for each user of Supabase Auth.
      -- Purge: none.
      -- Deletion: a user is deleted with auth.users, and the actor names in executions and the audit stay. Deleting an agency is
      -- rejected while it has users.
      create table public.users (
        id uuid primary key references auth.users on delete cascade,
        agency_id uuid references public.agencies (id),
        created_at timestamptz not null default now()
      );

      create index users_agency on public.users (agency_id);

      alter table public.users enable row level security;
      revoke all on public.users from public, anon, authenticated, service_role;
      grant select on public.users to authenticated;
      grant select, insert, update, delete on public.users to service_role;
      -- A table without this comment existed before. It is adopted, and no migration alters it.
      comment on table public.users is 'Created and managed by the sync control plane.';
    $statements$;
  end if;
end $unless_adopted$;

-- tables/28_secrets.sql
-- Where a connection's secret is: here (`database`), in Supabase Vault, or in an external store under `name`. Only
-- app.get_secret reads a value.
-- Bound: one for each connection, and reserved names for one hour. No limit on reservations per agency.
-- Purge: the worker deletes external secrets whose `delete_at` has passed in their store (worker_claim_deleted_secrets), then
-- the row.
-- Deletion: the secret is deleted with its connection, by the trigger app.delete_secret; an external one is marked for the
-- worker. Deleting an agency is rejected while it has secrets. Executions and definitions do not refer to secrets.
create table app.secrets (
  id uuid primary key default app.uuid_v7(),
  agency_id uuid not null references public.agencies (id),
  storage text not null check (storage in ('database', 'vault', 'external')),
  value jsonb check (jsonb_typeof(value) = 'object'),
  vault_id uuid,
  name text check (length(name) between 1 and 400),
  fingerprint text, -- of an external secret: recognizes a repeated request with an Idempotency-Key
  created_at timestamptz not null default now(),
  used_at timestamptz, -- from then on no other connection may use it
  delete_at timestamptz, -- of an external secret: the worker deletes it from then on
  unique (agency_id, id),
  constraint stored_in_one_place check (
    (storage = 'database') = (value is not null) and (storage = 'vault') = (vault_id is not null)
    and (storage = 'external') = (name is not null)),
  constraint deleted_externally check (delete_at is null or storage = 'external')
);

create index secrets_to_delete on app.secrets (delete_at) where delete_at is not null;

alter table app.secrets enable row level security;
revoke all on app.secrets from public, anon, authenticated, service_role;
grant select (id, agency_id, storage, name, created_at, used_at, delete_at), update (used_at, delete_at), delete
  on app.secrets to service_role;

-- tables/30_connections.sql
-- External systems that data comes from or goes to, and webhooks. The secret is for the worker only.
-- Bound: none per agency.
-- Purge: app.purge_executions deletes connections that were deleted long enough ago and that nothing refers to.
-- Deletion: a deleted connection gets `deleted_at` and stays for the executions that refer to it; its secret is deleted at
-- once, its active executions are cancelled, and its definitions are deleted with `force`, or else prevent it. A connection
-- under test is deleted from the start. Its records stay. Deleting an agency is rejected while it has connections.
create table app.connections (
  id uuid primary key default app.uuid_v7(),
  agency_id uuid not null references public.agencies (id),
  kind text not null check (kind in ('http', 'records', 'webhook')),
  name text not null check (length(name) between 1 and 200),
  config jsonb not null default '{}' check (jsonb_typeof(config) = 'object'),
  secret_id uuid,
  created_at timestamptz not null default now(),
  created_by text,
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  unique (agency_id, id),
  foreign key (agency_id, secret_id) references app.secrets (agency_id, id) on delete set null (secret_id)
);

create index connections_newest on app.connections (agency_id, updated_at desc, id) where deleted_at is null;
create index connections_webhooks on app.connections (agency_id, id desc nulls last) where kind = 'webhook' and deleted_at is null;
create index connections_secret on app.connections (agency_id, secret_id) where secret_id is not null;
create index connections_with_secret_to_delete on app.connections (deleted_at) where deleted_at is not null and secret_id is not null;
create index connections_deleted on app.connections (deleted_at) where deleted_at is not null; -- for retention

alter table app.connections enable row level security;
revoke all on app.connections from public, anon, authenticated, service_role;
grant select (id, agency_id, kind, name, config, created_at, created_by, updated_at, deleted_at)
  on app.connections to authenticated;
grant insert (agency_id, kind, name, config, secret_id, created_by, deleted_at) on app.connections to authenticated;
grant update (config, updated_at, deleted_at) on app.connections to authenticated;
grant select, insert, update, delete on app.connections to service_role;

-- tables/35_definitions.sql
-- What can be started again and again: bulk syncs, model syncs, sync jobs; and the models that model syncs read. `settings`
-- has the names of the kind's own API, validated by the function that creates it.
-- Bound: none per agency.
-- Purge: app.purge_executions deletes definitions that were deleted long enough ago and that no execution refers to.
-- Deletion: a deleted definition gets `deleted_at` and stays for its executions; active ones are cancelled first. Deleting a
-- connection deletes its definitions with `force`, or is rejected. Deleting an agency is rejected while it has definitions.
create table app.definitions (
  id uuid primary key default app.uuid_v7(),
  agency_id uuid not null references public.agencies (id),
  kind text not null check (kind in ('bulk_sync', 'model', 'model_sync', 'sync_job')),
  name text not null check (length(name) between 1 and 200),
  source_id uuid, -- the connection it reads from
  destination_id uuid, -- the connection it writes to
  active boolean not null default true,
  settings jsonb not null default '{}' check (jsonb_typeof(settings) = 'object'),
  created_at timestamptz not null default now(),
  created_by text not null,
  updated_at timestamptz not null default now(),
  updated_by text not null,
  deleted_at timestamptz, -- it stays for its executions
  unique (agency_id, id),
  foreign key (agency_id, source_id) references app.connections (agency_id, id),
  foreign key (agency_id, destination_id) references app.connections (agency_id, id)
);

create index definitions_newest on app.definitions (agency_id, kind, updated_at desc, id) where deleted_at is null;
create index definitions_newest_first on app.definitions (agency_id, kind, id desc nulls last) where deleted_at is null;
create index definitions_deleted on app.definitions (deleted_at) where deleted_at is not null; -- for retention
create index definitions_by_source on app.definitions (agency_id, source_id);
create index definitions_by_destination on app.definitions (agency_id, destination_id);

alter table app.definitions enable row level security;
revoke all on app.definitions from public, anon, authenticated, service_role;
grant select on app.definitions to authenticated;
grant insert (agency_id, kind, name, source_id, destination_id, active, settings, created_by, updated_by)
  on app.definitions to authenticated;
grant update (name, settings, updated_at, updated_by, deleted_at) on app.definitions to authenticated;
grant select, insert, update, delete on app.definitions to service_role;

-- tables/40_executions.sql
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

-- tables/50_execution_events.sql
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

-- tables/60_records.sql
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

-- tables/65_execution_resources.sql
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

-- tables/67_deliveries.sql
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

-- tables/70_idempotency_keys.sql
-- Responses that can be repeated for a day, each stored in the transaction of its work.
-- Bound: one row for each call with an Idempotency-Key within 24 hours; none per agency.
-- Purge: worker_reap deletes rows after 24 hours, 1,000 per tick.
-- Deletion: rows stay, for their 24 hours, when an execution, a definition, a connection or an agency is deleted.
create table app.idempotency_keys (
  id bigint generated always as identity primary key,
  agency_id uuid, -- null for a trusted server
  actor text not null,
  function text not null,
  key text not null check (length(key) between 1 and 255),
  request jsonb not null, -- the arguments, without secrets; at most 1 MiB, usually some hundred bytes
  response jsonb not null,
  created_at timestamptz not null default now(),
  unique nulls not distinct (agency_id, actor, function, key)
);

create index idempotency_keys_age on app.idempotency_keys (created_at);

alter table app.idempotency_keys enable row level security;
revoke all on app.idempotency_keys from public, anon, authenticated, service_role;
grant select, insert, delete on app.idempotency_keys to authenticated;
-- The reaper only deletes, but its `for update` requires UPDATE.
grant select, insert, update, delete on app.idempotency_keys to service_role;

-- tables/80_api_keys.sql
-- Keys with which an agency's own servers call. They are shown once and stored as a hash; 244 random bits need no slow hash.
-- Bound: none per agency; lists end at 1,000.
-- Purge: none. Revoked keys stay.
-- Deletion: deleting an agency is rejected while it has keys. Executions, definitions and connections do not refer to them.
create table app.api_keys (
  id uuid primary key default gen_random_uuid(),
  agency_id uuid not null references public.agencies (id),
  name text not null check (length(name) between 1 and 200),
  hash bytea not null unique check (length(hash) = 32), -- SHA-256
  hint text not null, -- the last characters, to tell keys apart
  created_at timestamptz not null default now(),
  created_by text not null,
  last_used_at timestamptz, -- to the minute
  revoked_at timestamptz,
  revoked_by text
);

create index api_keys_agency on app.api_keys (agency_id, created_at desc);

alter table app.api_keys enable row level security;
revoke all on app.api_keys from public, anon, authenticated, service_role;
grant select (id, agency_id, name, hint, created_at, created_by, last_used_at, revoked_at, revoked_by)
  on app.api_keys to authenticated;
grant insert (agency_id, name, hash, hint, created_by) on app.api_keys to authenticated;
grant update (revoked_at, revoked_by) on app.api_keys to authenticated;
grant select on app.api_keys to service_role;

-- tables/90_bulk_actions.sql
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

-- core/caller/agency_id.sql
-- Returns the agency for the policies; null, which matches nothing, unless the caller is live and has an agency.
create or replace function app.agency_id()
returns uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (select identity.agency_id from app.identify() as identity where identity.is_live);
end $$;

revoke all on function app.agency_id from public, anon, authenticated, service_role;
grant execute on function app.agency_id to authenticated;

-- core/caller/agency_key.sql
-- Returns the agency's API key that this request carries, or null.
create or replace function app.agency_key()
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return nullif(nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-agency-key', '');
end $$;

revoke all on function app.agency_key from public, anon, authenticated, service_role;
grant execute on function app.agency_key to anon;

-- core/caller/caller.sql
-- Every RPC, reads included, calls this first. Raises 401 for a revoked or deleted caller, 403 for a user without an
-- agency. A trusted server calls as service_role; it has no agency and may act for any. An agency's server calls as
-- anon with its key and continues as authenticated with that agency, so that the same policies hold.
create or replace function app.caller()
returns app.caller
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  by_key constant boolean := coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' = 'anon', false);
  identity record;
begin
  if current_user not in ('anon', 'authenticated') then
    return (null, current_user::text)::app.caller;
  end if;
  select * into identity from app.identify();
  if not identity.is_live and by_key then
    perform app.raise_error(401, 'invalid_api_key', 'This API key is unknown or revoked. Use another key, or sign in.');
  end if;
  -- An anonymous request has no user, whatever its other claims are.
  if not identity.is_live or current_user = 'anon' and not by_key then
    perform app.raise_error(401, 'revoked_token', 'This session has ended or its user was deleted. Sign in again.');
  end if;
  if identity.agency_id is null then
    perform app.raise_error(403, 'no_agency', 'Your user has no agency. Ask an administrator to add you to one.');
  end if;
  if current_user = 'anon' then
    if current_setting('transaction_read_only') = 'off' then
      perform app.touch_api_key();
    end if;
    perform set_config('role', 'authenticated', true);
  end if;
  return (identity.agency_id, coalesce('user:' || identity.user_id, 'api_key:' || identity.api_key_id))::app.caller;
end $$;

revoke all on function app.caller from public, anon, authenticated, service_role;
grant execute on function app.caller to anon, authenticated, service_role;

-- core/caller/identify.sql
-- Identifies the caller of this request: a user by the verified claims, or an agency's server by its key (header
-- x-agency-key, which counts for an anonymous request only). `is_live` is false for a deleted user, an ended session,
-- and an unknown or revoked key.
-- SECURITY DEFINER, because callers can read neither the auth schema nor the hashes. It reads the request and takes no
-- argument, so it reveals nothing about other callers.
create or replace function app.identify(out user_id uuid, out api_key_id uuid, out agency_id uuid, out is_live boolean)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  uuid_pattern constant text := '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$';
  session constant text := claims ->> 'session_id';
begin
  is_live := false;
  if claims ->> 'role' = 'anon' then
    select k.id, k.agency_id, true into api_key_id, agency_id, is_live
    from app.api_keys as k
    where k.hash = sha256(convert_to(app.agency_key(), 'UTF8')) and k.revoked_at is null;
  elsif claims ->> 'sub' ~ uuid_pattern and coalesce(session ~ uuid_pattern, true) then
    select u.id, member.agency_id, true into user_id, agency_id, is_live
    from auth.users as u
    left join public.users as member on member.id = u.id
    where u.id = (claims ->> 'sub')::uuid
      and u.deleted_at is null
      -- The Auth server allows tokens without a session.
      and (session is null or exists (
        select from auth.sessions as s where s.id = session::uuid and s.user_id = u.id));
  end if;
  is_live := coalesce(is_live, false);
end $$;

revoke all on function app.identify from public, anon, authenticated, service_role;
grant execute on function app.identify to anon, authenticated;

-- core/caller/request_id.sql
-- Returns the id of this request for the audit (header x-request-id, set by the endpoint).
create or replace function app.request_id()
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return left(nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-request-id', 100);
end $$;

revoke all on function app.request_id from public, anon, authenticated, service_role;
grant execute on function app.request_id to authenticated, service_role;

-- core/caller/require_agency.sql
-- Raises 403 for a trusted server, which has no agency, where a new row belongs to one. noun: connection, sync job, …
create or replace function app.require_agency(caller app.caller, noun text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if caller.agency_id is null then
    perform app.raise_error(403, 'no_agency', 'A ' || noun || ' requires an agency. Call this as one of its users.');
  end if;
end $$;

revoke all on function app.require_agency from public, anon, authenticated, service_role;
grant execute on function app.require_agency to authenticated, service_role;

-- core/caller/touch_api_key.sql
-- Records when an API key was last used, to the minute and without waiting for locks. Not called in read-only
-- transactions.
create or replace function app.touch_api_key()
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update app.api_keys as k set last_used_at = now()
  where k.id = (
    select used.id from app.api_keys as used
    where used.hash = sha256(convert_to(app.agency_key(), 'UTF8'))
      and coalesce(used.last_used_at, '-infinity') < now() - interval '1 minute'
    for update skip locked);
end $$;

revoke all on function app.touch_api_key from public, anon, authenticated, service_role;
grant execute on function app.touch_api_key to anon;

-- core/definitions/actor_object.sql
-- Returns an actor as the published APIs show it: {id, type, name}.
create or replace function app.actor_object(actor text)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object('id', split_part(actor, ':', 2), 'type', split_part(actor, ':', 1), 'name', actor);
end $$;

revoke all on function app.actor_object from public, anon, authenticated, service_role;
grant execute on function app.actor_object to authenticated, service_role;

-- core/definitions/cancel_active.sql
-- Cancels the definition's active execution and returns it. If there is none, returns the newest execution if that was
-- cancelled, so that a repeated cancel returns the same however fast the worker was; otherwise null.
create or replace function app.cancel_active(definition app.definitions, reason text default null)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  active app.executions;
begin
  select * into active from app.executions as e
  where e.agency_id = definition.agency_id and e.family = definition.kind and e.concurrency_key = definition.id::text
    and e.status in ('queued', 'running', 'cancelling')
  for update;
  if found then
    return app.cancel_execution(active.family, active.id, reason);
  end if;
  active := app.newest_execution(definition);
  return case when active.status = 'cancelled' then active end;
end $$;

revoke all on function app.cancel_active from public, anon, authenticated, service_role;
grant execute on function app.cancel_active to authenticated, service_role;

-- core/definitions/cancel_definition.sql
-- Cancels in two steps, for every family with definitions: a queued execution is canceled at once, a running one is
-- `canceling` until its worker has stopped, at most until the deadline. A repeated call returns the same and changes
-- nothing.
-- Returns {data: {message, execution_id, status}}; the last two are null if nothing was active. Accepts an
-- Idempotency-Key.
create or replace function app.cancel_definition(caller app.caller, kind text, id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  request constant jsonb := jsonb_build_object('id', id);
  response jsonb := app.get_idempotent_response(caller, 'cancel_' || kind, request);
  execution app.executions;
begin
  if response is not null then
    return response;
  end if;
  execution := app.cancel_active(app.find_definition(kind, id));
  response := jsonb_build_object('data', jsonb_build_object(
    'message', case when execution.id is null then 'Nothing is running' else 'Cancellation requested' end,
    'execution_id', execution.id,
    'status', app.public_status(execution)));
  return app.save_idempotent_response(caller, 'cancel_' || kind, request, response);
end $$;

revoke all on function app.cancel_definition from public, anon, authenticated, service_role;
grant execute on function app.cancel_definition to authenticated, service_role;

-- core/definitions/delete_definition.sql
-- Cancels the active execution and deletes the definition for its callers. Its executions and their audit stay.
create or replace function app.delete_definition(kind text, id uuid)
returns app.definitions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  definition app.definitions;
begin
  select * into definition from app.definitions as d
  where d.id = delete_definition.id and d.kind = delete_definition.kind and d.deleted_at is null
  for update;
  if not found then
    perform app.find_definition(kind, id);
  end if;
  perform app.cancel_active(definition, 'deleted');
  update app.definitions as d
  set deleted_at = clock_timestamp(), updated_at = clock_timestamp(), updated_by = caller.actor
  where d.id = definition.id;
  return definition;
end $$;

revoke all on function app.delete_definition from public, anon, authenticated, service_role;
grant execute on function app.delete_definition to authenticated, service_role;

-- core/definitions/find_connection.sql
-- Returns a connection that the caller may use, without its secret, or raises 404. Webhooks belong to another API. With
-- `for_share`, it cannot be deleted before this transaction ends. Without `for_share`, the call waits for no lock.
create or replace function app.find_connection(id uuid, for_share boolean default true)
returns app.connections
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  connection app.connections;
begin
  if for_share then
    perform from app.connections as c where c.id = find_connection.id and c.deleted_at is null for share;
  end if;
  select c.id, c.agency_id, c.kind, c.name, c.config, c.created_at, c.created_by, c.updated_at
  into connection.id, connection.agency_id, connection.kind, connection.name, connection.config, connection.created_at,
    connection.created_by, connection.updated_at
  from app.connections as c
  where c.id = find_connection.id and c.deleted_at is null and c.kind <> 'webhook';
  if not found then
    perform app.raise_error(404, 'connection_not_found', 'There is no connection with this id.');
  end if;
  return connection;
end $$;

revoke all on function app.find_connection from public, anon, authenticated, service_role;
grant execute on function app.find_connection to authenticated, service_role;

-- core/definitions/find_definition.sql
-- Returns a definition of this kind, or raises 404, also for another agency's. With `for_share`, it cannot be deleted
-- before this transaction ends.
create or replace function app.find_definition(kind text, id uuid, for_share boolean default false)
returns app.definitions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  definition app.definitions;
begin
  if for_share then
    select * into definition from app.definitions as d
    where d.id = find_definition.id and d.kind = find_definition.kind and d.deleted_at is null
    for share;
  else
    select * into definition from app.definitions as d
    where d.id = find_definition.id and d.kind = find_definition.kind and d.deleted_at is null;
  end if;
  if not found then
    perform app.raise_error(404, kind || '_not_found', 'There is no ' || replace(kind, '_', ' ') || ' with this id.');
  end if;
  return definition;
end $$;

revoke all on function app.find_definition from public, anon, authenticated, service_role;
grant execute on function app.find_definition to authenticated, service_role;

-- core/definitions/newest_execution.sql
-- Returns the newest execution of a definition, or the newest finished one; null if there is none.
create or replace function app.newest_execution(definition app.definitions, ended boolean default false)
returns app.executions
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  execution app.executions;
begin
  -- At most one is active, so this reads at most two rows.
  select * into execution from app.executions as e
  where e.agency_id = definition.agency_id and e.definition_id = definition.id
    and (not ended or e.finished_at is not null)
  order by e.id desc limit 1;
  return execution;
end $$;

revoke all on function app.newest_execution from public, anon, authenticated, service_role;
grant execute on function app.newest_execution to authenticated, service_role;

-- core/definitions/require_organization.sql
-- Raises 403 if the request names an organization (the published APIs' name for an agency) other than the caller's.
create or replace function app.require_organization(caller app.caller, organization_id uuid)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if organization_id is not null and organization_id is distinct from caller.agency_id then
    perform app.raise_error(403, 'other_organization', 'organization_id must be your own. Omit it.');
  end if;
end $$;

revoke all on function app.require_organization from public, anon, authenticated, service_role;
grant execute on function app.require_organization to authenticated, service_role;

-- core/errors/raise_error.sql
-- Raises every expected error. PostgREST turns SQLSTATE PTnnn into HTTP status nnn, and so does the postgres transport.
-- message = stable code, detail = a sentence, hint = further members of the response as JSON.
create or replace function app.raise_error(http_status int, code text, message text, details jsonb default '{}')
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception using errcode = 'PT' || http_status, message = code, detail = message, hint = details::text;
end $$;

revoke all on function app.raise_error from public, anon, authenticated, service_role;
grant execute on function app.raise_error to anon, authenticated, service_role;

-- core/errors/raise_not_found.sql
-- Raises the error for a row that the caller cannot see: 403 if the family's document specifies it, otherwise 404.
-- noun: job, connection, …
create or replace function app.raise_not_found(family text, kind text, noun text, id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  shows_foreign constant boolean := exists (
    select from app.families as f where f.family = raise_not_found.family and f.foreign_status = 403);
begin
  if shows_foreign and app.exists_in_other_agency(kind, id) then
    perform app.raise_error(403, noun || '_of_another_agency', 'This ' || noun || ' belongs to another agency.');
  end if;
  perform app.raise_error(404, noun || '_not_found', 'There is no ' || noun || ' with this id.');
end $$;

revoke all on function app.raise_not_found from public, anon, authenticated, service_role;
grant execute on function app.raise_not_found to authenticated, service_role;

-- core/executions/cancel_each.sql
-- Cancels the active ones among these executions. Locks them in id order, as all code that locks several executions
-- does.
create or replace function app.cancel_each(ids uuid[], reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  active app.executions;
begin
  for active in
    select * from app.executions as e
    where e.id = any(ids) and e.status in ('queued', 'running', 'cancelling')
    order by e.id for update
  loop
    perform app.cancel_execution(active.family, active.id, reason);
  end loop;
end $$;

revoke all on function app.cancel_each from public, anon, authenticated, service_role;
grant execute on function app.cancel_each to authenticated, service_role;

-- core/executions/cancel_execution.sql
-- Cancels an execution for a caller, in every family. The lock is a statement of its own: the next statements see the
-- row as it is now, so that of a cancel and an outcome exactly one wins.
create or replace function app.cancel_execution(family text, id uuid, reason text)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  cancel_event constant text := (select f.cancel_event from app.families as f where f.family = cancel_execution.family);
  execution app.executions;
  was_running boolean;
  v_status text;
begin
  if length(reason) > 500 then
    perform app.raise_error(400, 'reason_too_long', 'reason must have at most 500 characters.');
  end if;
  select * into execution from app.executions as e
  where e.id = cancel_execution.id and e.family = cancel_execution.family and e.deleted_at is null
  for update;
  if not found then
    perform app.raise_not_found(family, family, 'job', id);
  end if;

  if execution.status = 'cancelling' then
    return execution; -- requested before: nothing changes, and the deadline stays
  end if;
  v_status := app.next_status(execution.status, cancel_event);
  if v_status is null then
    perform app.raise_error(400, 'not_cancellable',
      'This job is ' || app.public_status(execution) || ' and can no longer be cancelled.',
      jsonb_build_object('current_status', app.public_status(execution)));
  end if;

  was_running := execution.status = 'running';
  update app.executions as e
  set status = v_status, event = cancel_event, reason = cancel_execution.reason
  where e.id = execution.id
  returning * into execution;
  if was_running then
    -- Only a hint: the worker reads the row.
    perform pg_notify('execution_cancelled', execution.id::text);
  end if;
  return execution;
end $$;

revoke all on function app.cancel_execution from public, anon, authenticated, service_role;
grant execute on function app.cancel_execution to authenticated, service_role;

-- core/executions/exists_in_other_agency.sql
-- Whether another agency has this row; reveals nothing else. SECURITY DEFINER, because policies hide the row.
create or replace function app.exists_in_other_agency(kind text, id uuid)
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return case kind
    when 'connection' then exists (select from app.connections as c where c.id = exists_in_other_agency.id and c.deleted_at is null)
    else exists (
      select from app.executions as e
      where e.id = exists_in_other_agency.id and e.family = kind and e.deleted_at is null)
  end;
end $$;

revoke all on function app.exists_in_other_agency from public, anon, authenticated, service_role;
grant execute on function app.exists_in_other_agency to authenticated, service_role;

-- core/executions/find_execution.sql
-- Returns an execution of this family that the caller may see, or raises 404. With `definition_id`, it must be one of that
-- definition's.
create or replace function app.find_execution(family text, id uuid, definition_id uuid default null)
returns app.executions
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  execution app.executions;
begin
  select * into execution from app.executions as e
  where e.id = find_execution.id and e.family = find_execution.family and e.deleted_at is null
    and (find_execution.definition_id is null or e.definition_id = find_execution.definition_id);
  if found then
    return execution;
  end if;
  if definition_id is not null then
    perform app.raise_error(404, 'execution_not_found', 'This sync has no execution with this id.');
  end if;
  perform app.raise_error(404, family || '_not_found', 'There is no ' || replace(family, '_', ' ') || ' with this id.');
end $$;

revoke all on function app.find_execution from public, anon, authenticated, service_role;
grant execute on function app.find_execution to authenticated, service_role;

-- core/executions/internal_statuses.sql
-- Returns the values of executions.status that a public status of this family may stand for. Indexes narrow by them, and
-- app.public_status decides. Raises 400 for a status that the family does not have.
create or replace function app.internal_statuses(family text, public_status text)
returns text[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  names app.families;
  statuses text[];
begin
  select * into names from app.families as f where f.family = internal_statuses.family;
  statuses := array_remove(array[
    case when public_status in (names.queued, names.scheduled, names.running) then 'queued' end,
    case when public_status = names.running then 'running' end,
    case when public_status = names.cancelling then 'cancelling' end,
    case when public_status = names.completed then 'completed' end,
    case when public_status = names.failed then 'failed' end,
    case when public_status = names.cancelled then 'cancelled' end], null);
  if statuses = '{}' then
    perform app.raise_error(400, 'unknown_status', 'Unknown status. Use one of `known`.', jsonb_build_object('known',
      (select jsonb_agg(distinct known) from unnest(array[names.queued, names.scheduled, names.running, names.cancelling,
        names.completed, names.failed, names.cancelled]) as known where known is not null)));
  end if;
  return statuses;
end $$;

revoke all on function app.internal_statuses from public, anon, authenticated, service_role;
grant execute on function app.internal_statuses to authenticated, service_role;

-- core/executions/public_status.sql
-- Returns the family's name for an execution's status. A queued execution that has started before is reported as
-- running.
create or replace function app.public_status(execution app.executions)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  names app.families;
begin
  select * into names from app.families as f where f.family = execution.family;
  return case execution.status
    when 'queued' then case
      when execution.started_at is not null then names.running
      when execution.run_at > now() then names.scheduled
      else names.queued end
    when 'running' then names.running
    when 'cancelling' then names.cancelling
    when 'completed' then names.completed
    when 'failed' then names.failed
    when 'cancelled' then names.cancelled
  end;
end $$;

revoke all on function app.public_status from public, anon, authenticated, service_role;
grant execute on function app.public_status to authenticated, service_role;

-- core/executions/purge_executions.sql
-- Retention, run by the tables' owner: deletes finished executions with their events, at most `max_rows`, and
-- definitions and connections that were deleted before that time and that nothing refers to. Returns the number of
-- executions.
create or replace function app.purge_executions(older_than interval, max_rows int default 1000)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  dropped int;
begin
  delete from app.executions as e
  where e.id = any(array(
    select f.id from app.executions as f
    -- Ids are time-ordered and an execution ends after its start, so no index on the end is needed. The minute allows for
    -- clocks that are adjusted.
    where f.finished_at < now() - older_than and f.id < app.uuid_v7_floor(now() - older_than + interval '1 minute')
    order by f.id limit max_rows for update skip locked));
  get diagnostics dropped = row_count;
  delete from app.definitions as d
  where d.id = any(array(
    select deleted.id from app.definitions as deleted
    where deleted.deleted_at < now() - older_than
      and not exists (select from app.executions as e where (e.agency_id, e.definition_id) = (deleted.agency_id, deleted.id))
    order by deleted.deleted_at limit max_rows for update skip locked));
  delete from app.connections as c
  where c.id = any(array(
    select deleted.id from app.connections as deleted
    where deleted.deleted_at < now() - older_than
      and not exists (select from app.executions as e where (e.agency_id, e.connection_id) = (deleted.agency_id, deleted.id))
      and not exists (select from app.executions as e where (e.agency_id, e.destination_id) = (deleted.agency_id, deleted.id))
      and not exists (select from app.definitions as d where (d.agency_id, d.source_id) = (deleted.agency_id, deleted.id))
      and not exists (select from app.definitions as d where (d.agency_id, d.destination_id) = (deleted.agency_id, deleted.id))
    order by deleted.deleted_at limit max_rows for update skip locked));
  return dropped;
end $$;

revoke all on function app.purge_executions from public, anon, authenticated, service_role;

-- core/executions/start_execution.sql
-- Queues an execution and notifies the workers. Only the columns that a caller may choose are taken from `wanted`. With
-- a concurrency key, at most one execution is active: otherwise 409 already_active with its id.
create or replace function app.start_execution(wanted app.executions)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  started app.executions;
  active uuid;
begin
  loop
    insert into app.executions
      (agency_id, family, definition_id, connection_id, destination_id, concurrency_key, spec, run_at, retry_of,
       checkpoint, progress)
    values
      (wanted.agency_id, wanted.family, wanted.definition_id, wanted.connection_id, wanted.destination_id,
       wanted.concurrency_key, wanted.spec, coalesce(wanted.run_at, now()), wanted.retry_of,
       wanted.checkpoint, coalesce(wanted.progress, '{}'))
    on conflict (agency_id, family, concurrency_key)
      where status in ('queued', 'running', 'cancelling') and concurrency_key is not null do nothing
    returning * into started;
    exit when found;

    select e.id into active from app.executions as e
    where e.agency_id = wanted.agency_id and e.family = wanted.family
      and e.concurrency_key = wanted.concurrency_key and e.status in ('queued', 'running', 'cancelling');
    if found then
      perform app.raise_error(409, 'already_active', 'Another job is active. Wait for it or cancel it first.',
        jsonb_build_object('job_id', active));
    end if;
    -- It ended between the two statements. Try again.
  end loop;
  perform pg_notify('execution_queued', wanted.family);
  return started;
end $$;

revoke all on function app.start_execution from public, anon, authenticated, service_role;
grant execute on function app.start_execution to authenticated, service_role;

-- core/idempotency/get_idempotent_response.sql
-- Returns the response that this caller received before for this Idempotency-Key. Null: do the work, then call
-- app.save_idempotent_response.
--   409 idempotency_key_in_use   the first call is still running
--   422 idempotency_key_reused   the key was used with another request
create or replace function app.get_idempotent_response(caller app.caller, function text, request jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key constant text := app.idempotency_key();
  stored app.idempotency_keys;
begin
  if v_key is null then
    return null;
  end if;
  if length(v_key) > 255 then
    perform app.raise_error(400, 'invalid_idempotency_key', 'Idempotency-Key must have at most 255 characters.');
  end if;
  -- The second of two calls fails at once instead of waiting. The lock ends with the transaction.
  if not pg_try_advisory_xact_lock(
      hashtextextended(jsonb_build_array(caller.agency_id, caller.actor, function, v_key)::text, 0)) then
    perform app.raise_error(409, 'idempotency_key_in_use',
      'A request with this Idempotency-Key is still running. Try again in a moment.');
  end if;
  select * into stored from app.idempotency_keys as k
  where k.agency_id is not distinct from caller.agency_id and k.actor = caller.actor
    and k.function = get_idempotent_response.function and k.key = v_key;
  if stored.created_at < now() - interval '24 hours' then
    delete from app.idempotency_keys as k where k.id = stored.id;
    return null;
  end if;
  if stored.request <> request then
    perform app.raise_error(422, 'idempotency_key_reused',
      'This Idempotency-Key was used with another request. Use a new one.');
  end if;
  return stored.response;
end $$;

revoke all on function app.get_idempotent_response from public, anon, authenticated, service_role;
grant execute on function app.get_idempotent_response to authenticated, service_role;

-- core/idempotency/idempotency_key.sql
-- Returns the request's Idempotency-Key header, or null.
create or replace function app.idempotency_key()
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return nullif(nullif(current_setting('request.headers', true), '')::jsonb ->> 'idempotency-key', '');
end $$;

revoke all on function app.idempotency_key from public, anon, authenticated, service_role;
grant execute on function app.idempotency_key to authenticated, service_role;

-- core/idempotency/save_idempotent_response.sql
-- Stores the response for the request's Idempotency-Key, if it has one, in the transaction of the work itself.
create or replace function app.save_idempotent_response(caller app.caller, function text, request jsonb, response jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if app.idempotency_key() is not null then
    insert into app.idempotency_keys (agency_id, actor, function, key, request, response)
    values (caller.agency_id, caller.actor, save_idempotent_response.function, app.idempotency_key(),
            save_idempotent_response.request, save_idempotent_response.response);
  end if;
  return response;
end $$;

revoke all on function app.save_idempotent_response from public, anon, authenticated, service_role;
grant execute on function app.save_idempotent_response to authenticated, service_role;

-- core/lists/definitions_page.sql
-- Returns a page of the caller's definitions of this kind, last updated first, and the token of the next page ('' on
-- the last). Filters that are null do not apply; `mode` is that of the settings.
create or replace function app.definitions_page(
  kind text, page_token text, "limit" int, active boolean default null, destination_id uuid default null,
  mode text default null, out ids uuid[], out next_page_token text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  size constant int := app.page_size("limit", 50);
  after constant record := app.read_page_token(page_token);
begin
  ids := array(
    select d.id from app.definitions as d
    where d.kind = definitions_page.kind and d.deleted_at is null
      and (caller.agency_id is null or d.agency_id = caller.agency_id)
      and (definitions_page.active is null or d.active = definitions_page.active)
      and (definitions_page.destination_id is null or d.destination_id = definitions_page.destination_id)
      and (definitions_page.mode is null or d.settings ->> 'mode' = definitions_page.mode)
      and (after.id is null or d.updated_at <= after.updated_at and (d.updated_at < after.updated_at or d.id > after.id))
    order by d.updated_at desc, d.id
    limit size + 1);
  next_page_token := '';
  if cardinality(ids) > size then
    ids := ids[:size];
    next_page_token := (select app.page_token(d.updated_at, d.id) from app.definitions as d where d.id = ids[size]);
  end if;
end $$;

revoke all on function app.definitions_page from public, anon, authenticated, service_role;
grant execute on function app.definitions_page to authenticated, service_role;

-- core/lists/executions_page.sql
-- Returns a page of a definition's executions, newest (or oldest) first, and the token of the next page ('' on the
-- last). At most one is active at a time, so they end in the order in which they start.
create or replace function app.executions_page(
  definition app.definitions, page_token text, "limit" int, ascending boolean, only_ended boolean,
  out ids uuid[], out next_page_token text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  size constant int := app.page_size("limit", 100);
  after uuid;
begin
  if page_token <> '' then
    if page_token !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then
      perform app.raise_error(400, 'invalid_page_token', 'Invalid page_token. Start again without one.');
    end if;
    after := page_token::uuid;
  end if;
  if ascending then
    ids := array(
      select e.id from app.executions as e
      where e.agency_id = definition.agency_id and e.definition_id = definition.id
        and (after is null or e.id > after) and (not only_ended or e.finished_at is not null)
      order by e.id limit size + 1);
  else
    ids := array(
      select e.id from app.executions as e
      where e.agency_id = definition.agency_id and e.definition_id = definition.id
        and (after is null or e.id < after) and (not only_ended or e.finished_at is not null)
      order by e.id desc limit size + 1);
  end if;
  next_page_token := case when cardinality(ids) > size then ids[size]::text else '' end;
  ids := ids[:size];
end $$;

revoke all on function app.executions_page from public, anon, authenticated, service_role;
grant execute on function app.executions_page to authenticated, service_role;

-- core/lists/filter_condition.sql
-- Returns one filter of a list, {field, op, value}, as a condition on its view. Fields are the view's columns of plain
-- types.
create or replace function app.filter_condition(listed regclass, filter jsonb)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  fields constant text[] := array(
    select a.attname::text from pg_catalog.pg_attribute as a
    where a.attrelid = listed and a.attnum > 0
      and a.atttypid in ('uuid'::regtype, 'text'::regtype, 'timestamptz'::regtype, 'int'::regtype, 'boolean'::regtype));
  field constant text := filter ->> 'field';
  op constant text := coalesce(filter ->> 'op', 'eq');
  value constant text := filter ->> 'value';
  list constant text[] := string_to_array(value, ',');
  v_type text;
  condition text;
begin
  if not field = any(fields) then
    perform app.raise_error(400, 'unknown_filter', 'Unknown filter field. Use one of `available`.', jsonb_build_object(
      'field', left(field, 200), 'available', fields));
  end if;
  select format_type(a.atttypid, null) into v_type
  from pg_catalog.pg_attribute as a where a.attrelid = listed and a.attname = field;
  condition := case op
    when 'eq' then format('l.%I = %L', field, value)
    when 'ne' then format('l.%I is distinct from %L', field, value)
    when 'gt' then format('l.%I > %L', field, value)
    when 'gte' then format('l.%I >= %L', field, value)
    when 'lt' then format('l.%I < %L', field, value)
    when 'lte' then format('l.%I <= %L', field, value)
    when 'in' then format('l.%I = any(%L::%s[])', field, list, v_type)
    when 'nin' then format('(l.%I = any(%L::%s[])) is not true', field, list, v_type)
    when 'exists' then format('l.%I is %s null', field, case when value in ('true', '1', '') then 'not' else '' end)
    when 'like' then format('l.%I::text like %L', field, value)
    when 'ilike' then format('l.%I::text ilike %L', field, value)
  end;
  if condition is null then
    perform app.raise_error(400, 'unknown_operator',
      'Unknown filter operator. Use eq, ne, gt, gte, lt, lte, in, nin, exists, like or ilike.',
      jsonb_build_object('operator', left(op, 50)));
  end if;
  return condition;
end $$;

revoke all on function app.filter_condition from public, anon, authenticated, service_role;
grant execute on function app.filter_condition to authenticated, service_role;

-- core/lists/filtered_page.sql
-- Returns a page of a view whose `id` is time-ordered: its ids, newest first or, with sort `created_at`, oldest first,
-- and the cursors of the pages around it (null if there is none).
create or replace function app.filtered_page(
  listed regclass, filters jsonb, "limit" int, next_cursor text, prev_cursor text, sort text,
  out ids uuid[], out next_page text, out prev_page text, out size int)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_cursor constant text := coalesce(nullif(next_cursor, ''), nullif(prev_cursor, ''));
  backwards constant boolean := coalesce(next_cursor, '') = '' and coalesce(prev_cursor, '') <> '';
  newest_first constant boolean := coalesce(nullif(sort, ''), '-created_at') = '-created_at';
  descending constant boolean := newest_first <> backwards;
  conditions text;
begin
  if coalesce(nullif(sort, ''), '-created_at') not in ('-created_at', 'created_at') then
    perform app.raise_error(400, 'unknown_sort', 'sort must be created_at or -created_at.');
  end if;
  if v_cursor !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then
    perform app.raise_error(400, 'invalid_cursor', 'Invalid cursor. Start again without one.');
  end if;
  size := case when "limit" between 1 and 5000 then "limit" when "limit" > 5000 then 5000 else 100 end;
  select coalesce(string_agg(' and ' || app.filter_condition(listed, f), ''), '') into conditions
  from jsonb_array_elements(coalesce(filters, '[]')) as f;
  -- `nulls last` is the order of an agency's index.
  execute format('select array(select l.id from %s as l where true%s%s order by l.id %s limit $2)', listed, conditions,
    case when v_cursor is not null then case when descending then ' and l.id < $1' else ' and l.id > $1' end else '' end,
    case when descending then 'desc nulls last' else 'asc nulls first' end)
  into ids using v_cursor::uuid, size + 1;
  if backwards then
    prev_page := case when cardinality(ids) > size then ids[size] end;
    ids := array(select id from unnest(ids[:size]) with ordinality as i (id, position) order by position desc);
    next_page := ids[cardinality(ids)];
  else
    next_page := case when cardinality(ids) > size then ids[size] end;
    ids := ids[:size];
    prev_page := case when v_cursor is not null then ids[1] end;
  end if;
end $$;

revoke all on function app.filtered_page from public, anon, authenticated, service_role;
grant execute on function app.filtered_page to authenticated, service_role;

-- core/lists/page_response.sql
-- Returns a list in the format of the APIs that page in both directions.
create or replace function app.page_response(result jsonb, next_cursor text, prev_cursor text, size int)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'result', coalesce(result, '[]'), 'next_cursor', next_cursor, 'prev_cursor', prev_cursor, 'limit', size);
end $$;

revoke all on function app.page_response from public, anon, authenticated, service_role;
grant execute on function app.page_response to authenticated, service_role;

-- core/lists/page_size.sql
-- Returns the number of rows of a page: `limit` if it is between 1 and `max_size`, otherwise `max_size`.
create or replace function app.page_size("limit" int, max_size int)
returns int
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case when "limit" between 1 and max_size then "limit" else max_size end;
end $$;

revoke all on function app.page_size from public, anon, authenticated, service_role;
grant execute on function app.page_size to authenticated, service_role;

-- core/lists/page_token.sql
-- Returns the token of the page that begins after this row. It is opaque to callers.
create or replace function app.page_token(updated_at timestamptz, id uuid)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return translate(encode(convert_to(jsonb_build_array(extract(epoch from updated_at)::numeric(20, 6), id)::text, 'UTF8'), 'base64'), E'+/=\n', '-_');
end $$;

revoke all on function app.page_token from public, anon, authenticated, service_role;
grant execute on function app.page_token to authenticated, service_role;

-- core/lists/read_page_token.sql
-- Decodes a token of app.page_token. Raises 400 for anything else.
create or replace function app.read_page_token(token text, out updated_at timestamptz, out id uuid)
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  position jsonb;
begin
  if token is null or token = '' then
    return;
  end if;
  if length(token) > 200 then
    raise invalid_parameter_value; -- longer than any token, and perhaps too deep for the parser
  end if;
  position := convert_from(decode(rpad(translate(token, '-_', '+/'), (length(token) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb;
  updated_at := 'epoch'::timestamptz + (position ->> 0)::numeric * interval '1 second';
  id := (position ->> 1)::uuid;
  if updated_at is null or id is null then
    raise invalid_parameter_value;
  end if;
exception when data_exception then
  perform app.raise_error(400, 'invalid_page_token', 'Invalid page_token. Start again without one.');
end $$;

revoke all on function app.read_page_token from public, anon, authenticated, service_role;
grant execute on function app.read_page_token to authenticated, service_role;

-- core/lists/uuid_v7_floor.sql
-- Returns the smallest id (app.uuid_v7) of this time, so that an index on ids can narrow by time.
create or replace function app.uuid_v7_floor(at timestamptz)
returns uuid
language plpgsql
stable
strict
set search_path = pg_catalog, pg_temp
as $$
declare
  milliseconds constant bigint := floor(least(greatest(extract(epoch from at) * 1000, 0), 281474976710655));
begin
  return (lpad(to_hex(milliseconds), 12, '0') || repeat('0', 20))::uuid;
end $$;

revoke all on function app.uuid_v7_floor from public, anon, authenticated, service_role;
grant execute on function app.uuid_v7_floor to authenticated, service_role;

-- core/secrets/delete_secret.sql
-- Deletes the secret that a connection had, unless a live connection uses it too (a check borrows the stored
-- connection's). A trigger, so that it runs whatever deletes the connection.
-- SECURITY DEFINER, because callers cannot write secrets; it cannot be called directly.
create or replace function app.delete_secret()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  secret app.secrets;
begin
  if exists (
      select from app.connections as c
      where c.agency_id = old.agency_id and c.secret_id = old.secret_id and c.deleted_at is null) then
    return null;
  end if;
  update app.secrets as s set used_at = coalesce(s.used_at, now()), delete_at = now()
  where s.id = old.secret_id and s.storage = 'external';
  delete from app.secrets as s where s.id = old.secret_id and s.storage <> 'external' returning s.* into secret;
  if secret.vault_id is not null then
    delete from vault.secrets as v where v.id = secret.vault_id;
  end if;
  return null;
end $$;

revoke all on function app.delete_secret from public, anon, authenticated, service_role;

-- core/secrets/get_secret.sql
-- Returns a connection's secret for the worker: {secret}, or {secret_ref} if it is in the external store. An unreadable
-- secret is returned empty, which the connector rejects, because an error here would fail the claims of all other
-- executions.
-- SECURITY DEFINER: nothing else reads a value.
create or replace function app.get_secret(id uuid)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  secret app.secrets;
begin
  if id is null then
    return '{"secret": {}}';
  end if;
  select * into secret from app.secrets as s where s.id = get_secret.id;
  if secret.storage = 'external' then
    return jsonb_build_object('secret_ref', secret.name);
  end if;
  if secret.storage = 'vault' then
    begin
      select d.decrypted_secret::jsonb into secret.value from vault.decrypted_secrets as d where d.id = secret.vault_id;
    exception when others then
      raise warning 'cannot read secret % in the Vault: %', id, sqlstate;
    end;
  end if;
  return jsonb_build_object('secret', case when jsonb_typeof(secret.value) = 'object' then secret.value else '{}' end);
end $$;

revoke all on function app.get_secret from public, anon, authenticated, service_role;
grant execute on function app.get_secret to service_role;

-- core/secrets/reserve_secret.sql
-- Reserves a name in the external store for a secret of the caller's agency. Unless a connection uses it, it is deleted
-- an hour later. SECURITY DEFINER, because callers cannot write secrets; it takes no agency.
create or replace function app.reserve_secret(fingerprint text)
returns app.secrets
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id constant uuid := app.uuid_v7();
  agency constant uuid := app.agency_id();
  reserved app.secrets;
begin
  insert into app.secrets (id, agency_id, storage, name, fingerprint, delete_at)
  values (v_id, agency, 'external', agency || '/' || v_id, reserve_secret.fingerprint, now() + interval '1 hour')
  returning * into reserved;
  return reserved;
end $$;

revoke all on function app.reserve_secret from public, anon, authenticated, service_role;
grant execute on function app.reserve_secret to authenticated;

-- core/secrets/secret_fingerprint.sql
-- Returns the fingerprint with which a secret of the caller's agency was reserved; null for any other.
-- SECURITY DEFINER, because callers cannot read secrets.
create or replace function app.secret_fingerprint(id uuid)
returns text
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select s.fingerprint from app.secrets as s
    where s.id = secret_fingerprint.id and s.agency_id = app.agency_id());
end $$;

revoke all on function app.secret_fingerprint from public, anon, authenticated, service_role;
grant execute on function app.secret_fingerprint to authenticated, service_role;

-- core/secrets/store_secret.sql
-- Stores a secret of the caller's agency, in Supabase Vault if that is installed. Returns its id; null for an empty
-- secret.
-- SECURITY DEFINER, because callers can neither read nor write secrets; it rejects every agency but the caller's.
create or replace function app.store_secret(agency uuid, value jsonb)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id constant uuid := app.uuid_v7();
begin
  if (agency = app.agency_id()) is not true then
    perform app.raise_error(403, 'forbidden', 'The secret must belong to your agency.');
  end if;
  if coalesce(value, '{}') = '{}' then
    return null;
  end if;
  if to_regprocedure('vault.create_secret(text,text,text,uuid)') is null then
    insert into app.secrets (id, agency_id, storage, value, used_at) values (v_id, agency, 'database', value, now());
  else
    insert into app.secrets (id, agency_id, storage, vault_id, used_at)
    values (v_id, agency, 'vault', vault.create_secret(value::text, agency || '/' || v_id, 'A connection''s secret'), now());
  end if;
  return v_id;
end $$;

revoke all on function app.store_secret from public, anon, authenticated, service_role;
grant execute on function app.store_secret to authenticated;

-- core/secrets/use_secret.sql
-- Takes a reserved secret into use, once, or raises 400. SECURITY DEFINER, because callers cannot write secrets; it
-- finds only those of the caller's agency.
create or replace function app.use_secret(id uuid)
returns uuid
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
  update app.secrets as s set used_at = now(), delete_at = null
  where s.id = use_secret.id and s.agency_id = app.agency_id() and s.storage = 'external' and s.used_at is null;
  if not found then
    perform app.raise_error(400, 'unknown_secret',
      'secret_id must be an unused secret of your agency. Reserve another one.');
  end if;
  return id;
end $$;

revoke all on function app.use_secret from public, anon, authenticated, service_role;
grant execute on function app.use_secret to authenticated;

-- core/tenancy/check_adopted_tables.sql
-- A project may already have public.users or public.agencies; they are adopted as they are. Because users.agency_id decides
-- which agency a user belongs to, no caller may be able to write it, nor the id that identifies the user.
-- Returns each violated condition with the statements that repair it (null: no statement can). The baseline migration and
-- the worker's tick both run this function. It reads the catalogs only, and checks a table only if it exists.
create or replace function app.check_adopted_tables()
returns table (problem text, remedy text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
  with
    adopted as (
      select c.oid, 'public.' || c.relname as name, c.relkind, c.relrowsecurity,
        coalesce(c.relacl, acldefault('r', c.relowner)) as acl
      from pg_class as c
      where c.relnamespace = 'public'::regnamespace and c.relname in ('users', 'agencies')
    ),
    -- The columns that are relied on; attnum is null where one is missing.
    required as (
      select t.oid, t.name, column_name, a.attnum, format_type(a.atttypid, a.atttypmod) as type,
        a.attgenerated, a.attacl
      from (values ('public.users', 'id'), ('public.users', 'agency_id'), ('public.agencies', 'id'))
        as r (table_name, column_name)
      join adopted as t on t.name = r.table_name
      left join pg_attribute as a on a.attrelid = t.oid and a.attname = r.column_name and not a.attisdropped
    ),
    -- Privileges through PUBLIC or through another role count as well.
    table_grants as (
      select distinct t.oid, t.name, lower(acl.privilege_type) as privilege, acl.grantee
      from adopted as t, aclexplode(t.acl) as acl
      where t.name = 'public.users' and acl.privilege_type in ('INSERT', 'UPDATE')
        and (acl.grantee = 0 or pg_has_role('anon', acl.grantee, 'usage') or pg_has_role('authenticated', acl.grantee, 'usage'))
    ),
    column_grants as (
      select distinct r.name, r.attnum, r.column_name, lower(acl.privilege_type) as privilege, acl.grantee
      from required as r, aclexplode(r.attacl) as acl
      where r.name = 'public.users' and acl.privilege_type in ('INSERT', 'UPDATE')
        and (acl.grantee = 0 or pg_has_role('anon', acl.grantee, 'usage') or pg_has_role('authenticated', acl.grantee, 'usage'))
        -- Revoking the privilege on the table revokes it on the columns as well.
        and not exists (
          select from table_grants as g where g.grantee = acl.grantee and g.privilege = lower(acl.privilege_type))
    )
  select t.name || ' is not a table.', null
  from adopted as t where t.relkind not in ('r', 'p')
  union all
  select t.name || ' has partitions or child tables, which have grants and policies of their own.', null
  from adopted as t
  where t.relkind = 'p' or exists (select from pg_inherits as i where t.oid in (i.inhparent, i.inhrelid))
  union all
  select format('%s.%s does not exist.', r.name, r.column_name),
    format('alter table %s add column %I uuid;', r.name, r.column_name)
  from required as r where r.attnum is null
  union all
  select format('%s.%s has the type %s, not uuid.', r.name, r.column_name, r.type),
    format('alter table %1$s alter column %2$I type uuid using %2$I::text::uuid;', r.name, r.column_name)
  from required as r where r.type <> 'uuid'
  union all
  select format('%s.%s is generated from other columns, which callers may be able to change.', r.name, r.column_name), null
  from required as r where r.attgenerated <> ''
  union all
  select r.name || '.id is not unique.', format('alter table %s add unique (id);', r.name)
  from required as r
  where r.column_name = 'id' and not exists (
    select from pg_index as i
    where i.indrelid = r.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indnkeyatts = 1
      and i.indkey[0] = r.attnum and i.indpred is null and i.indexprs is null)
  union all
  select 'public.users.id does not reference auth.users (id).',
    'alter table public.users add foreign key (id) references auth.users (id) on delete cascade;'
  from required as r
  where r.name = 'public.users' and r.column_name = 'id' and not exists (
    select from pg_constraint as f
    join pg_attribute as a on a.attrelid = f.confrelid and a.attname = 'id'
    where f.conrelid = r.oid and f.contype = 'f' and f.convalidated and f.confrelid = to_regclass('auth.users')
      and f.conkey = array[r.attnum] and f.confkey = array[a.attnum])
  union all
  select t.name || ' has no row-level security.', format('alter table %s enable row level security;', t.name)
  from adopted as t where t.relkind = 'r' and not t.relrowsecurity
  union all
  -- The privilege is taken from the table and granted again on every other column.
  select format('%s may %s id and agency_id of %s, through a grant on the table.', roles.list, roles.privilege, roles.name),
    format('revoke %s on %s from %s;', roles.privilege, roles.name, roles.list)
    || coalesce(E'\n' || format('grant %s (%s) on %s to %s;', roles.privilege, others.list, roles.name, roles.list), '')
  from (
    select g.oid, g.name, g.privilege,
      string_agg(case g.grantee when 0 then 'public' else g.grantee::regrole::text end, ', ' order by g.grantee) as list
    from table_grants as g group by g.oid, g.name, g.privilege
  ) as roles
  cross join lateral (
    select string_agg(quote_ident(a.attname), ', ' order by a.attnum) as list
    from pg_attribute as a
    where a.attrelid = roles.oid and a.attnum > 0 and not a.attisdropped and a.attname not in ('id', 'agency_id')
  ) as others
  union all
  select format('%s may %s %s.%s.', g.list, g.privilege, g.name, g.column_name),
    format('revoke %s (%I) on %s from %s;', g.privilege, g.column_name, g.name, g.list)
  from (
    select c.name, c.column_name, c.privilege,
      string_agg(case c.grantee when 0 then 'public' else c.grantee::regrole::text end, ', ' order by c.grantee) as list
    from column_grants as c group by c.name, c.column_name, c.privilege
  ) as g
  union all
  -- A view reads and writes with its owner's privileges, unless it says otherwise.
  select format('public.users can be changed through the view %s.', v.oid::regclass),
    format('alter view %s set (security_invoker = true);', v.oid::regclass)
  from pg_class as v
  where v.relkind = 'v' and pg_relation_is_updatable(v.oid, true) & 12 <> 0
    and not coalesce(v.reloptions && array['security_invoker=true', 'security_invoker=on'], false)
    and exists (
      select from pg_rewrite as r
      join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
      where r.ev_class = v.oid and d.refobjid = to_regclass('public.users'))
    and (has_any_column_privilege('anon', v.oid, 'insert, update')
      or has_any_column_privilege('authenticated', v.oid, 'insert, update'));
end $$;

revoke all on function app.check_adopted_tables from public, anon, authenticated, service_role;
grant execute on function app.check_adopted_tables to service_role;

-- core/transitions/drop_events.sql
-- Deletes an execution's events with it. Only retention deletes executions (see app.guard_deletion).
create or replace function app.drop_events()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from app.execution_events as e where (e.agency_id, e.execution_id) = (old.agency_id, old.id);
  return null;
end $$;

revoke all on function app.drop_events from public, anon, authenticated, service_role;

-- core/transitions/guard_deletion.sql
-- Guards DELETE and TRUNCATE. Only retention (app.purge_executions, run by the tables' owner) deletes executions, and only
-- finished ones. SECURITY INVOKER, so that current_user is the real one.
create or replace function app.guard_deletion()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user not in ('authenticated', 'service_role') then
    perform app.require_table_owner(tg_relid);
  end if;
  if tg_op = 'TRUNCATE' or current_user in ('authenticated', 'service_role') or old.finished_at is null then
    perform app.raise_error(403, 'not_deletable', 'Only retention deletes executions, and only finished ones.');
  end if;
  return old;
end $$;

revoke all on function app.guard_deletion from public, anon, authenticated, service_role;

-- core/transitions/guard_start.sql
-- Guards the start of an execution. Every execution starts as queued. Status, actor and timestamps are set here, and the
-- statement's values are ignored. SECURITY INVOKER, so that current_user is the real one.
create or replace function app.guard_start()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user not in ('authenticated', 'service_role') then
    perform app.require_table_owner(tg_relid);
  end if;
  if not exists (select from app.families as f where f.family = new.family) then
    perform app.raise_error(400, 'unknown_family', 'Unknown family.');
  end if;
  new.status := 'queued';
  new.event := 'start';
  new.actor := app.resolve_actor(new.agency_id, new.actor);
  new.request_id := app.request_id();
  new.created_at := clock_timestamp();
  new.created_by := new.actor;
  -- Columns that transitions set start empty.
  select 0, null, null, null, 0, 0, 0, null, null, null, null, null, null, null, null
  into new.lease_token, new.leased_by, new.lease_seconds, new.lease_expires_at, new.attempts, new.seq, new.records,
    new.error, new.started_at, new.finished_at, new.deleted_at,
    new.cancel_requested_at, new.cancel_deadline, new.cancelled_by, new.cancel_reason;
  return new;
end $$;

revoke all on function app.guard_start from public, anon, authenticated, service_role;

-- core/transitions/guard_transition.sql
-- Guards every change of an execution's status: it must be a transition, and its consequences for the row are set here.
-- It starts from the old row, so that a transition changes only the columns that it owns.
-- SECURITY INVOKER, so that current_user is the real one.
create or replace function app.guard_transition()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_now constant timestamptz := clock_timestamp(); -- the row may have been locked long after the transaction began
  v_row app.executions := old;
begin
  -- The service role may fire every event but a cancel, so most transitions need no second question.
  if app.next_status(old.status, new.event) is distinct from new.status
     or (current_user <> 'service_role' or new.event in ('cancel', 'request_cancel'))
       and app.may_fire_event(tg_relid, old.family, new.event) is not true then
    perform app.raise_error(409, 'invalid_transition',
      'This transition is not allowed from the status ' || old.status || '.',
      jsonb_build_object('current_status', old.status));
  end if;

  v_row.status := new.status;
  v_row.event := new.event;
  v_row.reason := new.reason;
  v_row.request_id := app.request_id();
  -- The actor of a cancel is its caller, the reaper names itself, and everything else is done by the worker with the lease.
  v_row.actor := case
    when new.event in ('cancel', 'request_cancel') then app.resolve_actor(old.agency_id, nullif(new.actor, old.actor))
    when new.actor = 'reaper' and new.event in ('expire', 'fail', 'release') then 'reaper'
    else 'worker:' || case new.event when 'claim' then new.leased_by else old.leased_by end
  end;

  -- From here on, nothing that carries the old lease token is accepted.
  if new.event in ('claim', 'cancel', 'request_cancel', 'expire', 'release') and new.status <> 'cancelling' then
    v_row.lease_token := old.lease_token + 1;
  end if;

  if new.status = 'running' then
    v_row.started_at := coalesce(old.started_at, v_now);
    v_row.leased_by := new.leased_by;
    v_row.lease_seconds := new.lease_seconds;
    v_row.lease_expires_at := v_now + make_interval(secs => new.lease_seconds);
  elsif new.status <> 'cancelling' then
    v_row.leased_by := null;
    v_row.lease_seconds := null;
    v_row.lease_expires_at := null;
  end if;

  if new.event in ('complete', 'fail', 'release') then
    v_row.progress := new.progress;
    v_row.error := new.error;
    v_row.attempts := new.attempts;
    v_row.run_at := new.run_at;
  end if;

  if new.event in ('cancel', 'request_cancel') then
    v_row.cancel_requested_at := v_now;
    v_row.cancelled_by := v_row.actor;
    v_row.cancel_reason := new.reason;
    v_row.cancel_deadline := v_now + (select f.grace from app.families as f where f.family = old.family);
  end if;

  if new.status in ('completed', 'failed', 'cancelled') then
    v_row.finished_at := v_now;
  end if;
  return v_row;
end $$;

revoke all on function app.guard_transition from public, anon, authenticated, service_role;

-- core/transitions/guard_update.sql
-- Guards every update that leaves an execution's status as it is. A finished execution may be marked as deleted, and the
-- worker's calls advance a leased one. All other columns change only in a transition.
-- SECURITY INVOKER, so that current_user is the real one.
create or replace function app.guard_update()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  by_user constant boolean := current_user = 'authenticated';
  probe app.executions := new; -- `new` without the changes that are allowed
begin
  if not by_user and current_user <> 'service_role' then
    perform app.require_table_owner(tg_relid);
  end if;
  -- The foreign key sets retry_of to null when retention drops the execution that this one retried. The query is a
  -- statement of its own, because an expression with a query in it costs that query each time.
  if new.retry_of is null and old.retry_of is not null then
    if not exists (select from app.executions as e where e.id = old.retry_of) then
      probe.retry_of := old.retry_of;
    end if;
  end if;
  if old.finished_at is not null and by_user and old.deleted_at is null and new.deleted_at is not null then
    new.deleted_at := clock_timestamp();
    probe.deleted_at := null;
  elsif old.finished_at is not null and not by_user then
    probe.deleted_at := old.deleted_at;
  elsif not by_user and old.leased_by is not null and new.seq >= old.seq and new.records >= old.records then
    probe.lease_expires_at := old.lease_expires_at;
    probe.attempts := old.attempts;
    probe.seq := old.seq;
    probe.checkpoint := old.checkpoint;
    probe.records := old.records;
    probe.progress := old.progress;
  end if;
  if probe is distinct from old then
    perform app.raise_error(403, 'not_a_transition', 'Executions change only through state transitions.',
      jsonb_build_object('current_status', old.status));
  end if;
  return new;
end $$;

revoke all on function app.guard_update from public, anon, authenticated, service_role;

-- core/transitions/is_subscribed.sql
-- Whether an execution's webhook receives this event: it is active, and neither the webhook nor the execution excludes
-- the event.
create or replace function app.is_subscribed(execution app.executions, event text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  webhook jsonb;
begin
  select c.config into webhook from app.connections as c
  where c.agency_id = execution.agency_id and c.id = execution.destination_id and c.deleted_at is null;
  return coalesce((webhook ->> 'is_active')::boolean, false)
    and (jsonb_array_length(webhook -> 'event_types') = 0 or webhook -> 'event_types' ? event)
    and coalesce(nullif(execution.spec -> 'events_to_send', 'null') ? event, true);
end $$;

revoke all on function app.is_subscribed from public, anon, authenticated, service_role;
grant execute on function app.is_subscribed to service_role;

-- core/transitions/may_fire_event.sql
-- Whether the current role may fire this event on an execution of this family. Every role may cancel, but only with the
-- family's cancel event. Only trusted roles may fire other events.
create or replace function app.may_fire_event(guarded oid, family text, event text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user not in ('authenticated', 'service_role') then
    perform app.require_table_owner(guarded);
  end if;
  if event in ('cancel', 'request_cancel') then
    return event = (select f.cancel_event from app.families as f where f.family = may_fire_event.family);
  end if;
  return current_user <> 'authenticated';
end $$;

revoke all on function app.may_fire_event from public, anon, authenticated, service_role;
grant execute on function app.may_fire_event to authenticated, service_role;

-- core/transitions/next_status.sql
-- The whole state machine on one screen. Null: the transition is not allowed. completed, failed and cancelled are
-- final.
create or replace function app.next_status(status text, event text)
returns text
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
  return case event
    when 'start'          then case when status is null then 'queued' end
    when 'claim'          then case status when 'queued' then 'running' end
    when 'cancel'         then case when status in ('queued', 'running') then 'cancelled' end
    when 'request_cancel' then case status when 'queued' then 'cancelled' when 'running' then 'cancelling' end
    when 'acknowledge'    then case status when 'cancelling' then 'cancelled' end
    when 'expire'         then case status when 'cancelling' then 'cancelled' end
    when 'complete'       then case when status in ('running', 'cancelling') then 'completed' end
    when 'fail'           then case when status in ('running', 'cancelling') then 'failed' end
    when 'release'        then case status when 'running' then 'queued' end
  end;
end $$;

revoke all on function app.next_status from public, anon, authenticated, service_role;
grant execute on function app.next_status to authenticated, service_role;

-- core/transitions/record_event.sql
-- The only writer of the audit; SECURITY DEFINER, because no role holds INSERT on it. When the lease ends, the delivery
-- in progress under it is marked as unknown in the same commit, and counted. The end of an execution that delivers is
-- itself an event to deliver.
create or replace function app.record_event()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  delivers constant boolean := coalesce(new.spec -> 'write' ->> 'mode' = 'deliver', false);
  unknown_deliveries int;
begin
  if delivers and tg_op = 'UPDATE' and old.leased_by is not null and new.leased_by is null then
    update app.deliveries as d set status = 'unknown', finished_at = clock_timestamp()
    where d.execution_id = new.id and d.status = 'sending';
    get diagnostics unknown_deliveries = row_count;
  end if;
  if delivers and new.finished_at is not null and app.is_subscribed(new, app.terminal_event(new)) then
    insert into app.deliveries (agency_id, execution_id, number, event, status, due_at)
    values (new.agency_id, new.id, -1, app.terminal_event(new), 'queued', clock_timestamp());
  end if;
  insert into app.execution_events
    (agency_id, execution_id, at, event, from_status, to_status, lease_token, actor, reason, request_id, in_flight)
  values
    (new.agency_id, new.id, clock_timestamp(), new.event, case when tg_op = 'UPDATE' then old.status end, new.status,
     new.lease_token, new.actor, new.reason, new.request_id, unknown_deliveries);
  return null;
end $$;

revoke all on function app.record_event from public, anon, authenticated, service_role;

-- core/transitions/reject_audit_change.sql
-- Protects the audit from every role, its owner included. Events are written and deleted only by triggers of their
-- execution, so only from inside another trigger.
create or replace function app.reject_audit_change()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op in ('UPDATE', 'TRUNCATE') or pg_trigger_depth() < 2 then
    perform app.raise_error(403, 'audit_is_closed', 'The audit is written by state transitions only.');
  end if;
  return null;
end $$;

revoke all on function app.reject_audit_change from public, anon, authenticated, service_role;

-- core/transitions/require_table_owner.sql
-- Raises 403 unless the current role owns the table. Called by the guards for roles that are neither users nor the service.
create or replace function app.require_table_owner(guarded oid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user <> pg_get_userbyid((select c.relowner from pg_class as c where c.oid = guarded)) then
    perform app.raise_error(403, 'role_not_allowed', 'This role must not change executions.');
  end if;
end $$;

revoke all on function app.require_table_owner from public, anon, authenticated, service_role;

-- core/transitions/resolve_actor.sql
-- Returns the actor of a start or a cancel: the caller, or the bulk action that a worker names (`claimed`), if it belongs to
-- the same agency and is running.
create or replace function app.resolve_actor(agency uuid, claimed text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  uuid_pattern constant text := '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}';
begin
  -- The query is a statement of its own, because an expression with a query in it costs that query each time.
  if claimed ~ ('^bulk_action:' || uuid_pattern || '$') and current_user = 'service_role' then
    perform from app.executions as e
    where e.id = right(claimed, 36)::uuid and e.family = 'bulk_action' and e.status = 'running' and e.agency_id = agency;
    if found then
      return claimed;
    end if;
  end if;
  return (app.caller()).actor;
end $$;

revoke all on function app.resolve_actor from public, anon, authenticated, service_role;
grant execute on function app.resolve_actor to authenticated, service_role;

-- core/transitions/terminal_event.sql
-- Returns the event that reports an execution's end, with the family's public status: sync_job_run:stopped.
create or replace function app.terminal_event(execution app.executions)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select execution.family || ':' || case execution.status
      when 'completed' then f.completed when 'failed' then f.failed when 'cancelled' then f.cancelled end
    from app.families as f where f.family = execution.family);
end $$;

revoke all on function app.terminal_event from public, anon, authenticated, service_role;
grant execute on function app.terminal_event to service_role;

-- triggers/executions.sql
create trigger guard_start before insert on app.executions
  for each row execute function app.guard_start();
create trigger guard_transition before update on app.executions
  for each row when (old.status is distinct from new.status) execute function app.guard_transition();
create trigger guard_update before update on app.executions
  for each row when (old.status is not distinct from new.status) execute function app.guard_update();
create trigger guard_deletion before delete on app.executions
  for each row execute function app.guard_deletion();
create trigger guard_truncate before truncate on app.executions
  for each statement execute function app.guard_deletion();

create trigger audit_start after insert on app.executions
  for each row execute function app.record_event();
create trigger audit_transition after update on app.executions
  for each row when (old.status is distinct from new.status) execute function app.record_event();
create trigger audit_deletion after delete on app.executions
  for each row execute function app.drop_events();

create trigger guard before insert or update or delete or truncate on app.execution_events
  for each statement execute function app.reject_audit_change();

-- triggers/policies.sql
-- Policies name the agency only. A status in an UPDATE policy would hide rows from `for update`.
create policy "Members see their agency's connections" on app.connections
  for select to authenticated using (agency_id = (select app.agency_id()));
create policy "Members connect their agency" on app.connections
  for insert to authenticated with check (agency_id = (select app.agency_id()));
create policy "Members disconnect their agency" on app.connections
  for update to authenticated
  using (agency_id = (select app.agency_id())) with check (agency_id = (select app.agency_id()));

create policy "Members define what their agency runs" on app.definitions
  for all to authenticated
  using (agency_id = (select app.agency_id())) with check (agency_id = (select app.agency_id()));

create policy "Members manage their agency's keys" on app.api_keys
  for all to authenticated
  using (agency_id = (select app.agency_id())) with check (agency_id = (select app.agency_id()));

create policy "Members see their agency's executions" on app.executions
  for select to authenticated using (agency_id = (select app.agency_id()));
create policy "Members start executions of their agency" on app.executions
  for insert to authenticated with check (agency_id = (select app.agency_id()));
create policy "Members cancel executions of their agency" on app.executions
  for update to authenticated
  using (agency_id = (select app.agency_id())) with check (agency_id = (select app.agency_id()));

create policy "Members see their agency's audit" on app.execution_events
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Members see what their executions did" on app.execution_resources
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Members see their agency's deliveries" on app.deliveries
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Members see their agency's bulk actions" on app.bulk_actions
  for select to authenticated using (agency_id = (select app.agency_id()));
create policy "Members see what their bulk actions act on" on app.bulk_action_items
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Members see their agency's records" on app.records
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Callers see their own responses" on app.idempotency_keys
  for all to authenticated
  using (agency_id = (select app.agency_id()) and actor = (select (app.caller()).actor))
  with check (agency_id = (select app.agency_id()) and actor = (select (app.caller()).actor));

-- triggers/policies_of_agencies.sql
do $unless_adopted$
begin
  if to_regclass('public.agencies') is null or obj_description(to_regclass('public.agencies'), 'pg_class') = 'Created and managed by the sync control plane.' then
    execute $statements$
      create policy "Members see their agency" on public.agencies
        for select to authenticated using (id = (select app.agency_id()));
    $statements$;
  end if;
end $unless_adopted$;

-- triggers/policies_of_users.sql
do $unless_adopted$
begin
  if to_regclass('public.users') is null or obj_description(to_regclass('public.users'), 'pg_class') = 'Created and managed by the sync control plane.' then
    execute $statements$
      create policy "Users see themselves" on public.users
        for select to authenticated
        using (id = (select identity.user_id from app.identify() as identity where identity.is_live));
    $statements$;
  end if;
end $unless_adopted$;

-- triggers/secrets.sql
create trigger delete_secret after update of secret_id, deleted_at on app.connections
  for each row
  when (old.secret_id is not null
    and (new.secret_id is distinct from old.secret_id or old.deleted_at is null and new.deleted_at is not null))
  execute function app.delete_secret();
create trigger delete_secret_of_dropped after delete on app.connections
  for each row when (old.secret_id is not null) execute function app.delete_secret();

-- historical_sync/views/historical_sync_jobs.sql
-- The family's jobs with its public statuses. security_invoker: the caller's policies decide which rows are visible.
-- windows_done, windows_total: of the date range; null until the worker has started (a retry has them at once).
-- eta_seconds: at the pace of this job; windows_before were done when it started, so it is null until one more is done.
create view public.historical_sync_jobs with (security_invoker = true) as
select
  e.id as job_id,
  e.agency_id,
  e.connection_id,
  app.public_status(e) as status,
  (e.spec ->> 'date_from')::date as date_from,
  (e.spec ->> 'date_to')::date as date_to,
  e.spec -> 'resources' as resources,
  e.records,
  (e.progress ->> 'windows_done')::int as windows_done,
  (e.progress ->> 'windows_total')::int as windows_total,
  case when e.status = 'completed' then 100
    else coalesce(
      floor(100 * (e.progress ->> 'windows_done')::numeric / nullif((e.progress ->> 'windows_total')::numeric, 0)), 0)::int
  end as percent,
  case when e.status = 'running' and (e.progress ->> 'windows_done')::int > (e.progress ->> 'windows_before')::int
    then ceil(extract(epoch from now() - e.started_at)
      * ((e.progress ->> 'windows_total')::numeric - (e.progress ->> 'windows_done')::numeric)
      / ((e.progress ->> 'windows_done')::numeric - (e.progress ->> 'windows_before')::numeric))::bigint
  end as eta_seconds,
  -- Its position without the page, which may hold what the source meant for the worker only.
  case when e.checkpoint is not null
    then jsonb_build_object('resource', e.checkpoint -> 'resource', 'date', e.checkpoint -> 'date') end as position,
  e.error,
  e.cancelled_by,
  e.cancel_reason,
  e.retry_of,
  e.created_by,
  e.created_at,
  e.started_at,
  e.cancel_requested_at,
  e.finished_at
from app.executions as e
where e.family = 'historical_sync' and e.deleted_at is null;

revoke all on public.historical_sync_jobs from public, anon, authenticated, service_role;
grant select on public.historical_sync_jobs to authenticated, service_role;

-- sync_job/views/sync_jobs.sql
-- The agency's sync jobs with their API's field names. security_invoker: the caller's policies decide which rows are
-- visible.
create view public.sync_jobs with (security_invoker = true) as
select
  d.id,
  d.agency_id as environment_id,
  d.name as label,
  d.settings ->> 'integration_name' as integration_name,
  d.settings -> 'args_schema' as args_schema,
  d.settings -> 'resources' as resources,
  (d.settings ->> 'default_runtime_version')::int as default_runtime_version,
  d.created_at,
  d.updated_at
from app.definitions as d
where d.kind = 'sync_job' and d.deleted_at is null;

revoke all on public.sync_jobs from public, anon, authenticated, service_role;
grant select on public.sync_jobs to authenticated, service_role;

-- sync_job_run/views/sync_job_runs.sql
-- The agency's runs of sync jobs with their API's field names. security_invoker: the caller's policies decide which
-- rows are visible.
create view public.sync_job_runs with (security_invoker = true) as
select
  e.id,
  e.agency_id as environment_id,
  e.definition_id as sync_job_id,
  e.connection_id as integrated_account_id,
  app.public_status(e) as status,
  e.spec ->> 'daemon_group_key' as daemon_group_key,
  e.destination_id as webhook_id,
  e.spec ->> 'error_handling' as error_handling,
  (e.spec ->> 'ignore_previous_run')::boolean as ignore_previous_run,
  (e.spec ->> 'version')::int as version,
  e.created_at,
  greatest(e.created_at, e.started_at, e.finished_at) as updated_at,
  e.started_at,
  e.finished_at
from app.executions as e
where e.family = 'sync_job_run' and e.deleted_at is null;

revoke all on public.sync_job_runs from public, anon, authenticated, service_role;
grant select on public.sync_job_runs to authenticated, service_role;

-- webhook/views/webhooks.sql
-- The agency's webhooks with their API's field names. security_invoker: the caller's policies decide which rows are
-- visible.
create view public.webhooks with (security_invoker = true) as
select
  c.id,
  c.agency_id as environment_id,
  c.config ->> 'target_url' as target_url,
  (c.config ->> 'is_active')::boolean as is_active,
  c.config -> 'event_types' as event_types,
  c.created_at,
  c.updated_at
from app.connections as c
where c.kind = 'webhook' and c.deleted_at is null;

revoke all on public.webhooks from public, anon, authenticated, service_role;
grant select on public.webhooks to authenticated, service_role;

-- api_key/api_key_object.sql
-- Returns an API key as its agency sees it. The key itself is not stored, only its hash.
create or replace function app.api_key_object(key_id uuid)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select jsonb_build_object(
      'id', k.id, 'name', k.name, 'hint', k.hint, 'created_at', k.created_at, 'created_by', k.created_by,
      'last_used_at', k.last_used_at, 'revoked_at', k.revoked_at, 'revoked_by', k.revoked_by)
    from app.api_keys as k where k.id = key_id);
end $$;

revoke all on function app.api_key_object from public, anon, authenticated, service_role;
grant execute on function app.api_key_object to authenticated, service_role;

-- bulk_action/act_on_items.sql
-- Acts on one batch of a bulk action's items, which are locked already. Records the items' outcomes and returns the
-- counts.
create or replace function app.act_on_items(job app.executions, items uuid[], out done int, out skipped int)
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  v_actor constant text := 'bulk_action:' || job.id;
  action constant text := job.spec ->> 'action_type';
  changed uuid[];
  was_running boolean;
begin
  if action = 'cancel' then
    with cancelled as (
      update app.executions as e
      set status = app.next_status(e.status, f.cancel_event), event = f.cancel_event, reason = job.spec ->> 'action_reason',
          actor = v_actor
      from app.families as f
      where e.id = any(items) and e.agency_id = job.agency_id and e.id <> job.id and f.family = e.family
        and app.next_status(e.status, f.cancel_event) is not null
      returning e.id, e.started_at is not null as had_started
    )
    select array_agg(c.id), bool_or(c.had_started) into changed, was_running from cancelled as c;
    if was_running then
      perform pg_notify('execution_cancelled', '*'); -- once, for every worker that runs one of them
    end if;
  else
    select array_agg(e.id) into changed
    from app.executions as e
    where e.id = any(items) and e.agency_id = job.agency_id
      and app.restart_execution(e, action, v_actor, job.spec ->> 'action_reason') is not null;
    if changed is not null then
      perform pg_notify('execution_queued', 'bulk_action');
    end if;
  end if;
  update app.bulk_action_items as i
  set outcome = case when i.item_id = any(coalesce(changed, '{}')) then 'done' else 'skipped' end
  where i.agency_id = job.agency_id and i.execution_id = job.id and i.item_id = any(items);
  done := coalesce(cardinality(changed), 0);
  skipped := cardinality(items) - done;
end $$;

revoke all on function app.act_on_items from public, anon, authenticated, service_role;
grant execute on function app.act_on_items to service_role;

-- bulk_action/bulk_action_criteria.sql
-- Validates criteria and returns them as they are stored: {family, status, connection_id, created_before,
-- created_after, ids}, at least one of them. `status` is one of the family's public statuses.
create or replace function app.bulk_action_criteria(criteria jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  criteria := jsonb_strip_nulls(criteria);
  -- An unknown member would not narrow anything down.
  if jsonb_typeof(criteria) is distinct from 'object'
     or criteria - array['family', 'status', 'connection_id', 'created_before', 'created_after', 'ids'] <> '{}' then
    perform app.raise_error(400, 'invalid_criteria',
      'criteria must be an object of family, status, connection_id, created_before, created_after and ids.');
  end if;
  if criteria = '{}' then
    perform app.raise_error(400, 'no_criteria',
      'criteria must have at least one of family, status, connection_id, created_before, created_after and ids.');
  end if;
  if criteria ? 'family' and not exists (
      select from app.families as f where f.family = criteria ->> 'family' and f.family <> 'source_check') then
    perform app.raise_error(400, 'unknown_family', 'Unknown family. Use one of `known`.', jsonb_build_object(
      'known', (select jsonb_agg(f.family) from app.families as f where f.family <> 'source_check')));
  end if;
  if criteria ? 'status' and not criteria ? 'family' then
    perform app.raise_error(400, 'family_required', 'status requires family.');
  end if;
  if criteria ? 'status' then
    perform app.internal_statuses(criteria ->> 'family', criteria ->> 'status');
  end if;
  return criteria;
end $$;

revoke all on function app.bulk_action_criteria from public, anon, authenticated, service_role;
grant execute on function app.bulk_action_criteria to authenticated, service_role;

-- bulk_action/bulk_action_matches.sql
-- Returns the agency's next executions that match the criteria, with ids above `after_id` and up to `horizon`, in id
-- order.
create or replace function app.bulk_action_matches(agency uuid, criteria jsonb, after_id uuid, horizon uuid, "limit" int)
returns uuid[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  statuses constant text[] := case when criteria ? 'status'
    then app.internal_statuses(criteria ->> 'family', criteria ->> 'status') else array['any'] end;
  -- An id is made a moment before its created_at. The minute allows for clocks that are adjusted.
  v_from constant uuid := greatest(after_id, app.uuid_v7_floor((criteria ->> 'created_after')::timestamptz - interval '1 minute'));
  v_to constant uuid := least(horizon, app.uuid_v7_floor((criteria ->> 'created_before')::timestamptz + interval '1 minute'));
  v_ids uuid[];
begin
  -- Status by status, so that an index gives each in id order, and only as many as are wanted.
  execute 'select array(select found.id from unnest($5) as wanted (status), lateral (select e.id from app.executions as e'
    || ' where e.agency_id = $1 and e.deleted_at is null and e.id <= $2'
    || case when v_from is not null then ' and e.id > $3' else '' end
    || case when criteria ? 'family' then ' and e.family = $4' else ' and e.family <> ''source_check''' end
    || case when criteria ? 'status' then ' and e.status = wanted.status' else '' end
    -- For queued executions the public status is more specific. The case keeps the planner from estimating it as rare
    -- and from giving up the indexes' order.
    || case when 'queued' = any(statuses) then ' and case when e.status = ''queued'' then app.public_status(e) = $6 else true end' else '' end
    || case when criteria ? 'connection_id' then ' and e.connection_id = $7' else '' end
    -- The ids already narrow by these two. The case keeps the planner from counting them twice, expecting almost no rows,
    -- and reading all agencies' executions of that time instead.
    || case when criteria ? 'created_before' then ' and case when e.created_at < $8 then true end' else '' end
    || case when criteria ? 'created_after' then ' and case when e.created_at > $9 then true end' else '' end
    || case when criteria ? 'ids' then ' and e.id = any($10)' else '' end
    -- The order of the indexes that serve lists, read backwards; the index of an agency's ids has the plain order.
    || case when criteria ?| array['family', 'connection_id'] then ' order by e.id asc nulls first' else ' order by e.id' end
    || ' limit $11) as found order by found.id limit $11)'
  into v_ids
  using agency, v_to, v_from, criteria ->> 'family', statuses, criteria ->> 'status', (criteria ->> 'connection_id')::uuid,
    (criteria ->> 'created_before')::timestamptz, (criteria ->> 'created_after')::timestamptz,
    array(select jsonb_array_elements_text(criteria -> 'ids'))::uuid[], "limit";
  return v_ids;
end $$;

revoke all on function app.bulk_action_matches from public, anon, authenticated, service_role;
grant execute on function app.bulk_action_matches to authenticated, service_role;

-- bulk_action/bulk_action_object.sql
-- Returns a bulk action as callers see it, with its counts.
create or replace function app.bulk_action_object(job app.executions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  counts app.bulk_actions;
begin
  select * into counts from app.bulk_actions as b where b.agency_id = job.agency_id and b.execution_id = job.id;
  return jsonb_build_object(
    'job_id', job.id,
    'criteria_json', (job.spec -> 'criteria')::text,
    'action_type', job.spec -> 'action_type',
    'action_duration', null,
    'action_reason', job.spec -> 'action_reason',
    'scheduled_at', case when job.spec ->> 'scheduled_at' is not null then job.run_at end,
    'executed_at', job.started_at,
    'completed_at', job.finished_at,
    'max_limit', job.spec -> 'max_limit',
    'preview_count', job.spec -> 'preview_count',
    'affected_count', coalesce(counts.done, 0),
    'counts', jsonb_build_object(
      'matched', coalesce(counts.matched, 0), 'done', coalesce(counts.done, 0), 'failed', coalesce(counts.failed, 0),
      'skipped', coalesce(counts.skipped, 0), 'interrupted', coalesce(counts.interrupted, 0),
      'not_started', coalesce(counts.not_started, 0)),
    'status', app.public_status(job),
    'progress_percent', case when job.status = 'completed' then 100
      when counts.is_collected then 100 * (counts.matched - counts.not_started) / greatest(counts.matched, 1) else 0 end,
    'cancelled_by', job.cancelled_by,
    'cancel_reason', job.cancel_reason,
    'error', job.error,
    'created_by', job.created_by,
    'created_at', job.created_at,
    'updated_at', greatest(job.created_at, job.started_at, job.finished_at));
end $$;

revoke all on function app.bulk_action_object from public, anon, authenticated, service_role;
grant execute on function app.bulk_action_object to authenticated, service_role;

-- bulk_action/lock_referenced_rows.sql
-- Locks the connections and definitions of a bulk action's items, so that they are not deleted while a step starts the
-- items again. Call it before the items are locked, because deletes lock connections, definitions and executions in
-- this order.
create or replace function app.lock_referenced_rows(bulk_action uuid, items uuid[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
  if items = '{}' or (select e.spec ->> 'action_type' = 'cancel' from app.executions as e where e.id = bulk_action) then
    return;
  end if;
  perform from app.connections as c
  where c.id = any(array(
    select e.connection_id from app.executions as e where e.id = any(items)
    union select e.destination_id from app.executions as e where e.id = any(items)))
  order by c.id for share;
  perform from app.definitions as d
  where d.id = any(array(select distinct e.definition_id from app.executions as e where e.id = any(items)))
  order by d.id for share;
end $$;

revoke all on function app.lock_referenced_rows from public, anon, authenticated, service_role;
grant execute on function app.lock_referenced_rows to service_role;

-- bulk_action/restart_execution.sql
-- Creates a new execution of a finished one, for a bulk action. `retry` continues at the checkpoint, `start` starts
-- anew.
-- Returns null if that is impossible: it is not finished, another execution is active in its place, or its connection
-- or definition was deleted.
create or replace function app.restart_execution(ended app.executions, action text, actor text, reason text)
returns uuid
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  v_id uuid;
begin
  if ended.family in ('bulk_action', 'source_check') or ended.finished_at is null
     or action = 'retry' and ended.status = 'completed'
     or exists (select from app.connections as c where c.agency_id = ended.agency_id
                and c.id in (ended.connection_id, ended.destination_id) and c.deleted_at is not null)
     or exists (select from app.definitions as d where d.agency_id = ended.agency_id
                and d.id = ended.definition_id and d.deleted_at is not null) then
    return null;
  end if;
  insert into app.executions
    (agency_id, family, definition_id, connection_id, destination_id, concurrency_key, spec, retry_of, checkpoint, progress,
     actor, reason)
  values
    (ended.agency_id, ended.family, ended.definition_id, ended.connection_id, ended.destination_id, ended.concurrency_key,
     ended.spec, case when action = 'retry' then ended.id end, case when action = 'retry' then ended.checkpoint end,
     case when action = 'retry' then ended.progress || case when ended.progress ? 'windows_done'
       then jsonb_build_object('windows_before', ended.progress -> 'windows_done') else '{}' end else '{}' end, restart_execution.actor,
     restart_execution.reason)
  on conflict (agency_id, family, concurrency_key)
    where status in ('queued', 'running', 'cancelling') and concurrency_key is not null do nothing
  returning id into v_id;
  return v_id;
end $$;

revoke all on function app.restart_execution from public, anon, authenticated, service_role;
grant execute on function app.restart_execution to service_role;

-- bulk_sync/bulk_sync_execution_object.sql
-- Returns an execution as callers see it, with the status of each schema: created until its first batch, completed
-- after its last, and the status of the execution if that ended earlier.
create or replace function app.bulk_sync_execution_object(execution app.executions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  schemas jsonb;
begin
  if execution.id is null then
    return null;
  end if;
  select jsonb_agg(jsonb_build_object(
    'schema', s.value -> 'id',
    'output_name', s.value -> 'output_name',
    'status', case
      when r.finished_at is not null then 'completed'
      when execution.finished_at is not null then app.public_status(execution)
      when r.started_at is not null then 'running'
      else 'created' end,
    'status_message', case when r.finished_at is null and execution.finished_at is not null then execution.error ->> 'message' end,
    'record_count', coalesce(r.records, 0),
    'error_count', coalesce(r.failed, 0),
    'warning_count', 0,
    'created_at', execution.created_at,
    'started_at', r.started_at,
    'completed_at', coalesce(r.finished_at, execution.finished_at),
    'updated_at', coalesce(r.finished_at, execution.finished_at, r.started_at, execution.created_at)
  ) order by s.position)
  into schemas
  from jsonb_array_elements(execution.spec -> 'schemas') with ordinality as s (value, position)
  left join app.execution_resources as r
    on r.agency_id = execution.agency_id and r.execution_id = execution.id and r.resource = s.value ->> 'output_name';

  return jsonb_build_object(
    'id', execution.id,
    'status', app.public_status(execution),
    'status_message', execution.error -> 'message',
    'type', 'manual',
    'created_at', execution.created_at,
    'started_at', execution.started_at,
    'completed_at', execution.finished_at,
    'updated_at', greatest(execution.created_at, execution.started_at, execution.cancel_requested_at, execution.finished_at),
    'is_test', false,
    'is_resync', false,
    'is_partial', execution.spec -> 'is_partial',
    'fetch_mode', 'full',
    'output_disposition', 'retain',
    'version', execution.seq::text,
    'record_count', execution.records,
    'error_count', (select coalesce(sum((s ->> 'error_count')::bigint), 0) from jsonb_array_elements(schemas) as s),
    'warning_count', 0,
    'cancel_requested_at', execution.cancel_requested_at,
    'cancel_deadline', case when execution.status = 'cancelling' then execution.cancel_deadline end,
    'cancelled_by', execution.cancelled_by,
    'schemas', schemas);
end $$;

revoke all on function app.bulk_sync_execution_object from public, anon, authenticated, service_role;
grant execute on function app.bulk_sync_execution_object to authenticated, service_role;

-- bulk_sync/bulk_sync_object.sql
-- Returns a bulk sync as callers see it: a superset of what the published versions of the API return.
create or replace function app.bulk_sync_object(sync app.definitions)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  manual constant jsonb := jsonb_build_object('frequency', 'manual');
begin
  return jsonb_build_object(
    'id', sync.id,
    'name', sync.name,
    'organization_id', sync.agency_id,
    'active', sync.active,
    'mode', sync.settings -> 'mode',
    'source_connection_id', sync.source_id,
    'source_configuration', '{}'::jsonb,
    'destination_connection_id', sync.destination_id,
    'destination_configuration', sync.settings -> 'destination_configuration',
    'schemas', sync.settings -> 'schemas',
    'schedule', manual,
    'default_schedule', manual || jsonb_build_object('id', sync.id),
    'additional_schedules', '[]'::jsonb,
    'policies', '[]'::jsonb,
    'discover', false,
    'automatically_add_new_fields', 'all',
    'automatically_add_new_objects', 'none',
    'normalize_names', 'disabled',
    'disable_record_timestamps', false,
    'created_at', sync.created_at,
    'created_by', app.actor_object(sync.created_by),
    'updated_at', sync.updated_at,
    'updated_by', app.actor_object(sync.updated_by));
end $$;

revoke all on function app.bulk_sync_object from public, anon, authenticated, service_role;
grant execute on function app.bulk_sync_object to authenticated, service_role;

-- bulk_sync/bulk_sync_schemas.sql
-- Returns the chosen schemas of a source as [{id, output_name}]. Each schema is one resource of the connection.
-- wanted: [{id, enabled}], null for all. `namespace` is the prefix of the names in the destination.
create or replace function app.bulk_sync_schemas(source app.connections, wanted jsonb, namespace text)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  available constant jsonb := case jsonb_typeof(source.config -> 'resources')
    when 'object' then source.config -> 'resources' else '{}' end;
  names text[];
  unknown text;
begin
  if wanted is null then
    names := array(select jsonb_object_keys(available));
  else
    names := array(
      select w.value ->> 'id' from jsonb_array_elements(wanted) with ordinality as w (value, position)
      where coalesce((w.value ->> 'enabled')::boolean, true)
      group by 1 order by min(w.position));
  end if;
  select name into unknown from unnest(names) as name where not available ? name limit 1;
  if found then
    perform app.raise_error(400, 'unknown_schema', 'The source does not have this schema. Use one of `available`.',
      jsonb_build_object('schema', left(unknown, 200), 'available', array(select jsonb_object_keys(available))));
  end if;
  if cardinality(names) = 0 then
    perform app.raise_error(400, 'no_schemas', 'At least one schema must be enabled. Omit schemas for all.');
  end if;
  -- The limit of worker_commit_batch, or no batch could be stored.
  select name into unknown from unnest(names) as name
  where octet_length(concat_ws('.', namespace, name)) not between 1 and 200 limit 1;
  if found then
    perform app.raise_error(400, 'invalid_output_name',
      'The name in the destination, with its prefix, must have 1 to 200 bytes.',
      jsonb_build_object('schema', left(unknown, 200)));
  end if;
  return (
    select jsonb_agg(jsonb_build_object('id', name, 'output_name', concat_ws('.', namespace, name)) order by position)
    from unnest(names) with ordinality as n (name, position));
end $$;

revoke all on function app.bulk_sync_schemas from public, anon, authenticated, service_role;
grant execute on function app.bulk_sync_schemas to authenticated, service_role;

-- connection/connection_object.sql
-- Returns a connection as callers see it, without its secret.
create or replace function app.connection_object(connection app.connections)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'id', connection.id,
    'name', connection.name,
    'organization_id', connection.agency_id,
    'type', jsonb_build_object('id', connection.kind, 'name', initcap(connection.kind)),
    'configuration', connection.config,
    'policies', '[]'::jsonb,
    'saved', true,
    'status', null,
    'status_error', null,
    'created_at', connection.created_at,
    'created_by', case when connection.created_by is not null then app.actor_object(connection.created_by) end,
    'updated_at', connection.updated_at);
end $$;

revoke all on function app.connection_object from public, anon, authenticated, service_role;
grant execute on function app.connection_object to authenticated, service_role;

-- connection/copy_secret_for_check.sql
-- Lets the check of a changed connection use the stored secret, but only if the secret goes to the same address in the
-- same way. Otherwise a caller who does not know the secret could have it sent to themselves.
-- SECURITY DEFINER, because callers cannot read secret_id. Both connections must belong to the caller's agency, and
-- `tested` must have been created for a check.
create or replace function app.copy_secret_for_check(stored uuid, tested uuid)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  agency constant uuid := app.agency_id();
begin
  update app.connections as t set secret_id = s.secret_id
  from app.connections as s
  where s.id = stored and s.agency_id = agency and s.deleted_at is null
    and t.id = tested and t.agency_id = agency and t.deleted_at is not null and t.secret_id is null
    and t.config -> 'base_url' = s.config -> 'base_url'
    and t.config -> 'auth' -> 'type' = s.config -> 'auth' -> 'type';
end $$;

revoke all on function app.copy_secret_for_check from public, anon, authenticated, service_role;
grant execute on function app.copy_secret_for_check to authenticated;

-- connection/insert_connection.sql
-- Stores a connection and returns it without its secret. With `only_test` it is deleted from the start. The secret is
-- part of `configuration`, or was reserved in the external store (`secret_id`).
create or replace function app.insert_connection(
  caller app.caller, name text, kind text, configuration jsonb, secret_id uuid, only_test boolean default false)
returns app.connections
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_config constant jsonb := configuration - 'secret';
  v_secret constant jsonb := coalesce(nullif(configuration -> 'secret', 'null'), '{}');
  connection app.connections;
begin
  perform app.require_agency(caller, 'connection');
  if kind not in ('http', 'records') then
    perform app.raise_error(400, 'unknown_type', 'type must be http or records.');
  end if;
  if (jsonb_typeof(v_config) = 'object' and jsonb_typeof(v_secret) = 'object') is not true then
    perform app.raise_error(400, 'invalid_configuration', 'configuration and configuration.secret must be objects.');
  end if;
  if v_secret <> '{}' and secret_id is not null then
    perform app.raise_error(400, 'invalid_configuration', 'Give either configuration.secret or secret_id, not both.');
  end if;
  if kind = 'http' and jsonb_typeof(v_config -> 'resources') is distinct from 'object' then
    perform app.raise_error(400, 'invalid_configuration',
      'configuration.resources must be an object with a member for each resource.');
  end if;
  if kind = 'records' and (configuration <> '{}' or secret_id is not null) then
    perform app.raise_error(400, 'invalid_configuration',
      'configuration must be empty for a connection of type records.');
  end if;
  insert into app.connections as c (agency_id, kind, name, config, secret_id, created_by, deleted_at)
  values (caller.agency_id, insert_connection.kind, insert_connection.name, v_config,
    case when secret_id is null then app.store_secret(caller.agency_id, v_secret) else app.use_secret(secret_id) end,
    caller.actor, case when only_test then clock_timestamp() end)
  returning c.id, c.agency_id, c.kind, c.name, c.config, c.created_at, c.created_by, c.updated_at
  into connection.id, connection.agency_id, connection.kind, connection.name, connection.config, connection.created_at,
    connection.created_by, connection.updated_at;
  return connection;
end $$;

revoke all on function app.insert_connection from public, anon, authenticated, service_role;
grant execute on function app.insert_connection to authenticated, service_role;

-- connection/require_resources.sql
-- Raises 400 with the first of these resources that the connection does not have.
create or replace function app.require_resources(connection app.connections, names text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  available constant jsonb := case jsonb_typeof(connection.config -> 'resources')
    when 'object' then connection.config -> 'resources' else '{}' end;
  unknown text;
begin
  select name into unknown from unnest(names) as name where (available ? name) is not true limit 1;
  if found then
    perform app.raise_error(400, 'unknown_resource',
      'The connection does not have this resource. Use one of `available`.',
      jsonb_build_object('resource', left(unknown, 200), 'available', array(select jsonb_object_keys(available))));
  end if;
end $$;

revoke all on function app.require_resources from public, anon, authenticated, service_role;
grant execute on function app.require_resources to authenticated, service_role;

-- connection/require_source.sql
-- Raises 400 unless the connection can be read from.
create or replace function app.require_source(connection app.connections)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if connection.kind <> 'http' then
    perform app.raise_error(400, 'not_a_source', 'The source must be a connection of type http.');
  end if;
end $$;

revoke all on function app.require_source from public, anon, authenticated, service_role;
grant execute on function app.require_source to authenticated, service_role;

-- historical_sync/historical_sync_object.sql
-- Returns a job as callers see it.
create or replace function app.historical_sync_object(job public.historical_sync_jobs)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'job_id', job.job_id,
    'status', job.status,
    'connection_id', job.connection_id,
    'date_from', job.date_from,
    'date_to', job.date_to,
    'resources', job.resources,
    'progress', jsonb_build_object(
      'records', job.records,
      'windows_done', job.windows_done,
      'windows_total', job.windows_total,
      'percent', job.percent,
      'eta_seconds', job.eta_seconds),
    'position', job.position,
    'error', job.error,
    'cancelled_by', job.cancelled_by,
    'cancel_reason', job.cancel_reason,
    'retry_of', job.retry_of,
    'created_by', job.created_by,
    'created_at', job.created_at,
    'started_at', job.started_at,
    'cancel_requested_at', job.cancel_requested_at,
    'finished_at', job.finished_at);
end $$;

revoke all on function app.historical_sync_object from public, anon, authenticated, service_role;
grant execute on function app.historical_sync_object to authenticated, service_role;

-- historical_sync/historical_sync_spec.sql
-- Returns what a historical sync will run, validated: {date_from, date_to, resources}. Each resource must exist in the
-- connection; without `resources` all of them are synced.
create or replace function app.historical_sync_spec(connection app.connections, date_from date, date_to date, resources jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Years that every client can read: no infinity, none before year 1.
  if ('0001-01-01' <= date_from and date_from <= date_to and date_to <= '9999-12-31') is not true then
    perform app.raise_error(400, 'invalid_dates',
      'date_from and date_to must be dates, with date_from not after date_to.');
  end if;
  perform app.require_source(connection);
  if resources is null then
    resources := (
      select jsonb_agg(name) from jsonb_object_keys(case jsonb_typeof(connection.config -> 'resources')
        when 'object' then connection.config -> 'resources' end) as name);
  end if;
  if jsonb_typeof(resources) is distinct from 'array' or jsonb_array_length(resources) = 0 then
    perform app.raise_error(400, 'invalid_resources',
      'resources must be a list of at least one name. Omit it for all.');
  end if;
  perform app.require_resources(connection, array(select jsonb_array_elements_text(resources)));
  return jsonb_build_object('date_from', date_from, 'date_to', date_to, 'resources',
    (select jsonb_agg(distinct name) from jsonb_array_elements_text(resources) as name));
end $$;

revoke all on function app.historical_sync_spec from public, anon, authenticated, service_role;
grant execute on function app.historical_sync_spec to authenticated, service_role;

-- model/model_fields.sql
-- Returns the fields that a source check has found, all or the wanted ones: [{id, name, label, type}].
create or replace function app.model_fields(available jsonb, wanted jsonb)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  unknown text;
begin
  select name into unknown from jsonb_array_elements_text(wanted) as name
  where not available @> jsonb_build_array(jsonb_build_object('name', name)) limit 1;
  if unknown is not null then
    perform app.raise_error(400, 'unknown_field', 'The source''s records do not have this field.', jsonb_build_object(
      'field', left(unknown, 200), 'available', (select coalesce(jsonb_agg(f -> 'name'), '[]') from jsonb_array_elements(available) as f)));
  end if;
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', f.value -> 'name', 'name', f.value -> 'name', 'label', f.value -> 'name', 'type', f.value -> 'type'
    ) order by f.position), '[]')
    from jsonb_array_elements(available) with ordinality as f (value, position)
    where wanted is null or wanted ? (f.value ->> 'name'));
end $$;

revoke all on function app.model_fields from public, anon, authenticated, service_role;
grant execute on function app.model_fields to authenticated, service_role;

-- model/model_object.sql
-- Returns a model as callers see it: a query over a resource of a connection, and the fields that a source check has
-- found.
create or replace function app.model_object(model app.definitions)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'id', model.id,
    'name', model.name,
    'organization_id', model.agency_id,
    'connection_id', model.source_id,
    'configuration', model.settings -> 'configuration',
    'fields', model.settings -> 'fields',
    'identifier', model.settings -> 'identifier',
    'type', 'http',
    'version', 1,
    'labels', '[]'::jsonb,
    'policies', '[]'::jsonb,
    'relations', '[]'::jsonb,
    'tracking_columns', '[]'::jsonb,
    'created_at', model.created_at,
    'created_by', app.actor_object(model.created_by),
    'updated_at', model.updated_at,
    'updated_by', app.actor_object(model.updated_by));
end $$;

revoke all on function app.model_object from public, anon, authenticated, service_role;
grant execute on function app.model_object to authenticated, service_role;

-- model_sync/model_sync_execution_object.sql
-- Returns an execution as callers see it, with its counts, which worker_commit_batch keeps in the transaction of the
-- records.
create or replace function app.model_sync_execution_object(execution app.executions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  done app.execution_resources;
begin
  if execution.id is null then
    return null;
  end if;
  select * into done from app.execution_resources as r
  where r.agency_id = execution.agency_id and r.execution_id = execution.id and r.resource = execution.spec ->> 'object';
  return jsonb_build_object(
    'id', execution.id,
    'status', app.public_status(execution),
    'type', 'manual',
    'created_at', execution.created_at,
    'started_at', execution.started_at,
    'completed_at', execution.finished_at,
    'version', execution.seq::text,
    'counts', jsonb_build_object(
      'total', execution.records,
      'insert', coalesce(done.inserted, 0),
      'update', coalesce(done.updated, 0),
      'delete', 0,
      'upserts', 0,
      'error', coalesce(done.failed, 0),
      'warnings', 0),
    'errors', case when execution.error is null then '[]' else jsonb_build_array(execution.error -> 'message') end
      || coalesce(done.errors, '[]'),
    'cancel_requested_at', execution.cancel_requested_at,
    'cancel_deadline', case when execution.status = 'cancelling' then execution.cancel_deadline end,
    'cancelled_by', execution.cancelled_by);
end $$;

revoke all on function app.model_sync_execution_object from public, anon, authenticated, service_role;
grant execute on function app.model_sync_execution_object to authenticated, service_role;

-- model_sync/model_sync_model.sql
-- Returns the one model that these mappings read, locked until the transaction ends. Every field that they name must be
-- one of the model's.
create or replace function app.model_sync_model(fields jsonb, identity jsonb)
returns app.definitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  sources constant jsonb := jsonb_path_query_array(fields, '$[*].source') || coalesce(identity -> 'source', '[]');
  ids constant text[] := array(select distinct s ->> 'model_id' from jsonb_array_elements(sources) as s);
  model app.definitions;
begin
  if cardinality(ids) > 1 then
    perform app.raise_error(422, 'unsupported_field', 'Not supported yet: fields of several models.',
      jsonb_build_object('fields', jsonb_build_array('fields.source.model_id')));
  end if;
  model := app.find_definition('model', ids[1]::uuid, for_share => true);
  perform app.model_fields(
    model.settings -> 'fields', (select jsonb_agg(distinct s -> 'field') from jsonb_array_elements(sources) as s));
  return model;
end $$;

revoke all on function app.model_sync_model from public, anon, authenticated, service_role;
grant execute on function app.model_sync_model to authenticated, service_role;

-- model_sync/model_sync_object.sql
-- Returns a model sync as callers see it: a superset of what the published versions of the API return.
create or replace function app.model_sync_object(sync app.definitions)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'id', sync.id,
    'name', sync.name,
    'organization_id', sync.agency_id,
    'active', sync.active,
    'mode', sync.settings -> 'mode',
    'model_ids', jsonb_build_array(sync.settings -> 'model_id'),
    'fields', sync.settings -> 'fields',
    'identity', sync.settings -> 'identity',
    'target', jsonb_build_object(
      'connection_id', sync.destination_id, 'object', sync.settings -> 'object', 'configuration', '{}'::jsonb),
    'target_connection_id', sync.destination_id,
    'target_object', sync.settings -> 'object',
    'schedule', jsonb_build_object('frequency', 'manual'),
    'sync_all_records', sync.settings -> 'sync_all_records',
    'override_fields', '[]'::jsonb,
    'overrides', '[]'::jsonb,
    'filters', '[]'::jsonb,
    'filter_logic', '',
    'only_enrich_updates', false,
    'skip_initial_backfill', false,
    'policies', '[]'::jsonb,
    'problems', '[]'::jsonb,
    'created_at', sync.created_at,
    'created_by', app.actor_object(sync.created_by),
    'updated_at', sync.updated_at,
    'updated_by', app.actor_object(sync.updated_by));
end $$;

revoke all on function app.model_sync_object from public, anon, authenticated, service_role;
grant execute on function app.model_sync_object to authenticated, service_role;

-- model_sync/require_identity.sql
-- Raises 400 if the destination's object has rows with another identity. Rows of a connection of type records are found
-- by their key, so a sync that matches records must match them by the field that is their key. An empty object gets its
-- keys from the sync.
create or replace function app.require_identity(destination app.connections, object text, identity jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  known app.records;
begin
  if identity is null then
    return;
  end if;
  select * into known from app.records as r
  where r.agency_id = destination.agency_id and r.connection_id = destination.id and r.resource = object
  limit 1;
  if found and (known.key not like '[%' or known.key::jsonb <> jsonb_build_array(known.data -> (identity ->> 'target'))) then
    perform app.raise_error(400, 'not_the_identity',
      'identity must be the field that identifies the rows that the object already has.',
      jsonb_build_object('object', object, 'target', identity -> 'target'));
  end if;
end $$;

revoke all on function app.require_identity from public, anon, authenticated, service_role;
grant execute on function app.require_identity to authenticated, service_role;

-- source_check/start_source_check.sql
-- Queues a check of a source: one page of a resource (null: of any). A caller waits for it, so it should run before
-- everything else.
create or replace function app.start_source_check(connection app.connections, resource text)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  source_check app.executions;
begin
  perform app.require_source(connection);
  if resource is not null then
    perform app.require_resources(connection, array[resource]);
  end if;
  source_check.agency_id := connection.agency_id;
  source_check.family := 'source_check';
  source_check.connection_id := connection.id;
  source_check.spec := jsonb_build_object('resource', resource);
  return app.start_execution(source_check);
end $$;

revoke all on function app.start_source_check from public, anon, authenticated, service_role;
grant execute on function app.start_source_check to authenticated, service_role;

-- sync_job/require_args.sql
-- Validates arguments against their schema, in either of its published forms: {type: object, properties: {name: …}}, or
-- {name: {type, format, required, description}} itself. 400 invalid_argument names the first invalid one.
create or replace function app.require_args(args_schema jsonb, args jsonb)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  properties constant jsonb := case
    when args_schema ->> 'type' = 'object' and jsonb_typeof(args_schema -> 'properties') = 'object' then args_schema -> 'properties'
    else args_schema end;
  also_required constant jsonb := case jsonb_typeof(args_schema -> 'required') when 'array' then args_schema -> 'required' else '[]' end;
  name text;
  rule jsonb;
  value jsonb;
  wrong text;
begin
  for name, rule in select key, p.value from jsonb_each(properties) as p where jsonb_typeof(p.value) = 'object' order by key loop
    value := nullif(args -> name, 'null');
    wrong := case
      when value is null and (rule -> 'required' = 'true' or also_required ? name) then 'is required'
      when value is null then null
      when rule ->> 'type' = 'integer' and not (jsonb_typeof(value) = 'number' and value::text !~ '[.eE]') then 'must be an integer'
      when rule ->> 'type' in ('string', 'number', 'boolean', 'array', 'object') and jsonb_typeof(value) <> rule ->> 'type' then
        'must be of type ' || (rule ->> 'type')
      when jsonb_typeof(rule -> 'enum') = 'array' and not rule -> 'enum' @> jsonb_build_array(value) then 'must be one of the allowed values'
      when rule ->> 'format' in ('integrated_account_id', 'webhook_id', 'datastore_id', 'uuid')
        and value #>> '{}' !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then 'must be a UUID'
      when rule ->> 'format' = 'date' and value #>> '{}' !~ '^\d{4}-\d{2}-\d{2}$' then 'must be a date like 2013-01-31'
      when rule ->> 'format' in ('date-time', 'updated_at') and value #>> '{}' !~ '^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$' then
        'must be a time like 2013-01-31T00:00:00Z'
    end;
    if wrong is not null then
      perform app.raise_error(400, 'invalid_argument',
        'args.' || left(name, 200) || ' ' || wrong || '.', jsonb_build_object('argument', left(name, 200)));
    end if;
  end loop;
end $$;

revoke all on function app.require_args from public, anon, authenticated, service_role;
grant execute on function app.require_args to authenticated, service_role;

-- sync_job/resource_nodes.sql
-- Returns a job's resources as the worker runs them, validated. Each gets `parent`, the position (from 0) of the
-- resource that `depends_on` names (of several with that name, one that is listed rather than fetched), and `persist`.
-- Cycles are rejected.
create or replace function app.resource_nodes(resources jsonb)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  size constant int := case jsonb_typeof(resources) when 'array' then jsonb_array_length(resources) else 0 end;
  node jsonb;
  parents int[] := '{}';
  parent int;
  nodes jsonb := '[]';
begin
  if size not between 1 and 100 then
    perform app.raise_error(400, 'invalid_resources', 'resources must be a list of 1 to 100 resources.');
  end if;
  for i in 0 .. size - 1 loop
    node := resources -> i;
    if (jsonb_typeof(node -> 'resource') = 'string' and length(node ->> 'resource') between 1 and 200) is not true then
      perform app.raise_error(400, 'invalid_resources',
        'resources.' || i || '.resource must be a name of 1 to 200 characters.');
    end if;
    if (node ->> 'method' in ('list', 'get')) is not true then
      perform app.raise_error(422, 'unsupported_field', 'Not supported yet: methods other than list and get.',
        jsonb_build_object('fields', jsonb_build_array('resources.' || i || '.method')));
    end if;
    if node ->> 'method' = 'get' and coalesce(node ->> 'id', '') = '' then
      perform app.raise_error(400, 'invalid_resources', 'resources.' || i || '.id is required for the method get.');
    end if;
    parent := null;
    if node ->> 'depends_on' is not null then
      select j into parent from generate_series(0, size - 1) as j
      where j <> i and resources -> j -> 'resource' = node -> 'depends_on'
      order by resources -> j ->> 'method' = 'list' desc, j limit 1;
      if not found then
        perform app.raise_error(400, 'unknown_dependency',
          'resources.' || i || '.depends_on must be another resource of this job.',
          jsonb_build_object('depends_on', left(node ->> 'depends_on', 200)));
      end if;
    end if;
    parents := parents || parent;
    nodes := nodes || jsonb_build_array(node || jsonb_build_object('parent', parent, 'persist', coalesce(
      (node ->> 'persist')::boolean, position('/' in node ->> 'resource') > 0)));
  end loop;
  for i in 1 .. size loop
    parent := parents[i];
    for step in 1 .. size loop
      exit when parent is null;
      parent := parents[parent + 1];
    end loop;
    if parent is not null then
      perform app.raise_error(400, 'circular_dependency', 'depends_on must not form a cycle.',
        jsonb_build_object('resource', resources -> (i - 1) -> 'resource'));
    end if;
  end loop;
  return nodes;
end $$;

revoke all on function app.resource_nodes from public, anon, authenticated, service_role;
grant execute on function app.resource_nodes to authenticated, service_role;

-- sync_job/sync_job_object.sql
-- Returns a sync job as callers see it, also a deleted one whose run is shown.
create or replace function app.sync_job_object(job app.definitions)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'id', job.id,
    'label', job.name,
    'integration_name', job.settings -> 'integration_name',
    'environment_id', job.agency_id,
    'args_schema', job.settings -> 'args_schema',
    'resources', job.settings -> 'resources',
    'default_runtime_version', job.settings -> 'default_runtime_version',
    'created_at', job.created_at,
    'updated_at', job.updated_at);
end $$;

revoke all on function app.sync_job_object from public, anon, authenticated, service_role;
grant execute on function app.sync_job_object to authenticated, service_role;

-- sync_job/sync_job_settings.sql
-- Returns the settings of a sync job, validated, as they are stored.
create or replace function app.sync_job_settings(
  integration_name text, resources jsonb, args_schema jsonb, default_runtime_version int)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  perform app.resource_nodes(resources);
  if default_runtime_version not between 1 and 3 then
    perform app.raise_error(422, 'unsupported_field', 'Not supported yet: versions other than 1 to 3.',
      jsonb_build_object('fields', jsonb_build_array('default_runtime_version')));
  end if;
  return jsonb_build_object(
    'integration_name', coalesce(integration_name, ''),
    'resources', resources,
    'args_schema', coalesce(args_schema, '{}'),
    'default_runtime_version', coalesce(default_runtime_version, 3));
end $$;

revoke all on function app.sync_job_settings from public, anon, authenticated, service_role;
grant execute on function app.sync_job_settings to authenticated, service_role;

-- sync_job_run/sync_job_run_object.sql
-- Returns a run as callers and webhooks see it, with its sync job. resource_stats: per resource and method, {fetched,
-- persisted} as worker_commit_batch counts them, so never older than the last batch.
create or replace function app.sync_job_run_object(run app.executions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'id', run.id,
    'args', run.spec -> 'args',
    'resources', run.spec -> 'resources',
    'sync_job_id', run.definition_id,
    'integrated_account_id', run.connection_id,
    'environment_id', run.agency_id,
    'status', app.public_status(run),
    'daemon_id', case when run.started_at is not null then run.spec -> 'daemon_group_key' end,
    'daemon_group_key', run.spec -> 'daemon_group_key',
    'webhook_id', run.destination_id,
    'error_handling', run.spec -> 'error_handling',
    'ignore_previous_run', run.spec -> 'ignore_previous_run',
    'version', run.spec -> 'version',
    'resource_stats', (
      select coalesce(jsonb_object_agg(stats.resource, stats.methods), '{}') from (
        select r.resource, jsonb_object_agg(r.method, jsonb_build_object(
          'fetched', r.records, 'persisted', r.inserted + r.updated)) as methods
        from app.execution_resources as r
        where r.agency_id = run.agency_id and r.execution_id = run.id
        group by r.resource) as stats),
    'created_at', run.created_at,
    'updated_at', greatest(run.created_at, run.started_at, run.finished_at),
    'started_at', run.started_at,
    'finished_at', run.finished_at,
    'sync_job', (
      select app.sync_job_object(d) from app.definitions as d
      where d.agency_id = run.agency_id and d.id = run.definition_id));
end $$;

revoke all on function app.sync_job_run_object from public, anon, authenticated, service_role;
grant execute on function app.sync_job_run_object to authenticated, service_role;

-- webhook/find_webhook.sql
-- Returns a webhook of the caller's agency, or raises 404. With `for_share`, it cannot be deleted before this
-- transaction ends. Without `for_share`, the call waits for no lock.
create or replace function app.find_webhook(id uuid, for_share boolean default false)
returns public.webhooks
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  webhook public.webhooks;
begin
  if for_share then
    perform from app.connections as c where c.id = find_webhook.id and c.kind = 'webhook' and c.deleted_at is null for share;
  end if;
  select * into webhook from public.webhooks as w where w.id = find_webhook.id;
  if not found then
    perform app.raise_error(404, 'webhook_not_found', 'There is no webhook with this id.');
  end if;
  return webhook;
end $$;

revoke all on function app.find_webhook from public, anon, authenticated, service_role;
grant execute on function app.find_webhook to authenticated, service_role;

-- webhook/require_webhook.sql
-- Raises 400 if a given value is invalid for a webhook.
create or replace function app.require_webhook(target_url text, event_types jsonb)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if target_url !~ '^https?://[^[:space:]]+$' or length(target_url) > 2000 then
    perform app.raise_error(400, 'invalid_target_url',
      'target_url must be an https address of at most 2000 characters.');
  end if;
  if event_types is not null and (jsonb_typeof(event_types) <> 'array' or jsonb_path_exists(event_types, '$[*] ? (@.type() != "string")')) then
    perform app.raise_error(400, 'invalid_event_types', 'event_types must be a list of event names.');
  end if;
end $$;

revoke all on function app.require_webhook from public, anon, authenticated, service_role;
grant execute on function app.require_webhook to authenticated, service_role;

-- worker/append_errors.sql
-- Appends error messages, up to one hundred of at most 500 characters, enough to see what is wrong however many records
-- fail.
create or replace function app.append_errors(known jsonb, further jsonb)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if jsonb_array_length(known) >= 100 or jsonb_array_length(further) = 0 then
    return known;
  end if;
  return (
    select jsonb_agg(left(message, 500) order by position)
    from jsonb_array_elements_text(known || further) with ordinality as e (message, position)
    where position <= 100);
end $$;

revoke all on function app.append_errors from public, anon, authenticated, service_role;
grant execute on function app.append_errors to service_role;

-- worker/append_records.sql
-- Mode `append` of app.store_records: a new row for each record, with a key that no other batch has. Returns their number.
create or replace function app.append_records(target app.records, records jsonb, seq bigint)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  inserted bigint;
begin
  insert into app.records as r (agency_id, connection_id, resource, key, data, execution_id, stored_at)
  select target.agency_id, target.connection_id, target.resource, target.execution_id || ':' || seq || ':' || item.position,
    item.value -> 'data', target.execution_id, target.stored_at
  from jsonb_array_elements(records) with ordinality as item (value, position);
  get diagnostics inserted = row_count;
  return inserted;
end $$;

revoke all on function app.append_records from public, anon, authenticated, service_role;
grant execute on function app.append_records to service_role;

-- worker/complete_and_claim.sql
-- One turn of a worker in one statement and one commit: completes the executions that `leases` still hold, and claims
-- at most `limit` queued executions of these families, oldest first. It waits for no lock and skips rows that others
-- have locked.
-- leases: {execution_id: lease_token}, at most 100; families: JSON array of names.
-- A plan lives as long as its session and may be made while the table is empty. The settings below leave only the plan
-- that reads the queue's index in order, and no more of it than it takes.
create or replace function app.complete_and_claim(
  leases jsonb, worker text default null, families jsonb default '[]', "limit" int default 0, lease_seconds int default null,
  out completed uuid[], out claimed uuid[])
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan -- the settings below leave one plan: to make it anew takes longer than to run it
set lock_timeout = '5s'
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
as $$
declare
  to_complete uuid[] := '{}';
  wanted text[];
  first_family text;
  last_family text;
begin
  if jsonb_typeof(leases) is distinct from 'object' then
    perform app.raise_error(400, 'invalid_leases', 'leases must be an object of lease tokens by execution id.');
  end if;
  if leases <> '{}' then
    to_complete := array(select jsonb_object_keys(leases)::uuid order by 1);
  end if;
  if cardinality(to_complete) > 100 then
    perform app.raise_error(400, 'invalid_leases', 'At most 100 executions can be completed in one call.');
  end if;
  -- Before Postgres 17 an index scan cannot use the list of families, but it can use their range, so that the claim of one
  -- family skips the others' entries without reading their rows.
  select array_agg(f.family), min(f.family), max(f.family) into wanted, first_family, last_family
  from jsonb_array_elements_text(families) as f (family);
  with changed as (
    -- The guard takes from this what the transition of each row owns.
    update app.executions as e
    set status = case e.status when 'queued' then 'running' else 'completed' end,
        event = case e.status when 'queued' then 'claim' else 'complete' end,
        reason = null, error = null, leased_by = worker, lease_seconds = complete_and_claim.lease_seconds
    where e.id = any(array(
      select q.id from app.executions as q
      where q.id = any(to_complete) and q.lease_token = (leases ->> q.id::text)::bigint and q.status in ('running', 'cancelling')
      for update skip locked) || array(
      select q.id from app.executions as q
      where q.status = 'queued' and q.run_at <= now() and q.family = any(wanted)
        and q.family between first_family and last_family
      order by q.run_at, q.id
      limit complete_and_claim."limit"
      for update skip locked))
    returning e.id, e.status
  )
  select coalesce(array_agg(c.id) filter (where c.status = 'completed'), '{}'),
    coalesce(array_agg(c.id) filter (where c.status = 'running'), '{}')
  into completed, claimed from changed as c;
end $$;

revoke all on function app.complete_and_claim from public, anon, authenticated, service_role;
grant execute on function app.complete_and_claim to service_role;

-- worker/complete_delivery.sql
-- Mode `deliver` of app.store_records: the delivery of this batch is complete. Returns the number of its records.
create or replace function app.complete_delivery(execution_id uuid, seq bigint)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  delivered bigint;
begin
  update app.deliveries as d set status = 'delivered', finished_at = clock_timestamp()
  where d.execution_id = complete_delivery.execution_id and d.number = seq and d.status = 'sending'
  returning d.records into delivered;
  return coalesce(delivered, 0);
end $$;

revoke all on function app.complete_delivery from public, anon, authenticated, service_role;
grant execute on function app.complete_delivery to service_role;

-- worker/insert_new_records.sql
-- Mode `create` of app.store_records: inserts keys that do not exist yet. Returns their number.
create or replace function app.insert_new_records(target app.records, records jsonb)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  inserted bigint;
begin
  insert into app.records as r (agency_id, connection_id, resource, key, data, execution_id, stored_at)
  select distinct on (item.value ->> 'key')
    target.agency_id, target.connection_id, target.resource,
    item.value ->> 'key', item.value -> 'data', target.execution_id, target.stored_at
  from jsonb_array_elements(records) with ordinality as item (value, position)
  order by item.value ->> 'key', item.position desc
  on conflict on constraint records_pkey do nothing;
  get diagnostics inserted = row_count;
  return inserted;
end $$;

revoke all on function app.insert_new_records from public, anon, authenticated, service_role;
grant execute on function app.insert_new_records to service_role;

-- worker/lease_result.sql
-- Returns the result of a worker's call: `continue`; `cancel` with its deadline (stop, then release); `lost`: nothing
-- was stored or changed, and nothing with this lease token ever will be.
create or replace function app.lease_result(execution app.executions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return case execution.status
    when 'running' then jsonb_build_object('result', 'continue')
    when 'cancelling' then jsonb_build_object('result', 'cancel', 'deadline', execution.cancel_deadline)
    else jsonb_build_object('result', 'lost')
  end;
end $$;

revoke all on function app.lease_result from public, anon, authenticated, service_role;
grant execute on function app.lease_result to service_role;

-- worker/lock_leased_execution.sql
-- The fence of every worker call: locks the execution and returns it if this lease still holds it, otherwise null.
create or replace function app.lock_leased_execution(id uuid, lease_token bigint)
returns app.executions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  execution app.executions;
begin
  select * into execution from app.executions as e where e.id = lock_leased_execution.id for update;
  if execution.lease_token = lock_leased_execution.lease_token and execution.status in ('running', 'cancelling') then
    return execution;
  end if;
  return null;
end $$;

revoke all on function app.lock_leased_execution from public, anon, authenticated, service_role;
grant execute on function app.lock_leased_execution to service_role;

-- worker/reap_executions.sql
-- Takes back the executions of dead workers. After a lost lease an execution is queued again, or failed after the last
-- attempt. A cancel that was not acknowledged in time is forced. Rows that other transactions lock are alive and skipped.
-- Returns the counts {released, failed, cancelled}.
create or replace function app.reap_executions("limit" int)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  dead app.executions;
  v_event text;
  released int := 0;
  failed int := 0;
  cancelled int := 0;
begin
  for dead in
    select * from app.executions as e
    where e.status in ('running', 'cancelling')
      and (e.lease_expires_at < clock_timestamp() or e.status = 'cancelling' and e.cancel_deadline < clock_timestamp())
    order by e.id
    limit reap_executions."limit"
    for update skip locked
  loop
    v_event := case
      when dead.status = 'cancelling' then 'expire'
      when dead.attempts + 1 >= dead.max_attempts then 'fail'
      else 'release'
    end;
    update app.executions as e
    set status = app.next_status(e.status, v_event), event = v_event, actor = 'reaper',
        reason = case when dead.lease_expires_at < clock_timestamp() then 'lease_expired' else 'cancel_deadline' end,
        attempts = e.attempts + 1, run_at = now(), -- not clock_timestamp(): a claim that reaps may take it at once
        error = case v_event
          when 'fail' then jsonb_build_object('code', 'worker_lost', 'message', 'The worker stopped responding too often.')
          else e.error end
    where e.id = dead.id;
    released := released + (v_event = 'release')::int;
    failed := failed + (v_event = 'fail')::int;
    cancelled := cancelled + (v_event = 'expire')::int;
  end loop;
  return jsonb_build_object('released', released, 'failed', failed, 'cancelled', cancelled);
end $$;

revoke all on function app.reap_executions from public, anon, authenticated, service_role;
grant execute on function app.reap_executions to service_role;

-- worker/retry_delay.sql
-- Returns the delay after the nth failure in a row: 2 s, 4 s, 8 s … at most 5 minutes.
create or replace function app.retry_delay(attempts int)
returns interval
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return make_interval(secs => least(2 ^ least(attempts, 10), 300));
end $$;

revoke all on function app.retry_delay from public, anon, authenticated, service_role;
grant execute on function app.retry_delay to service_role;

-- worker/store_records.sql
-- Stores a batch's records by the execution's `spec.write`, {mode, only_changed}, which is fixed at the start and never
-- chosen by the worker. Returns how many rows were inserted and how many existing rows were written.
--   replicate        the latest state of each key (the default)
--   append           a new row for each record
--   create           new keys only
--   update           existing keys only; fields that the record lacks stay
--   updateOrCreate   both
--   deliver          stores nothing: the delivery that worker_begin_delivery recorded for this batch is complete
-- The last record of a key counts. Rows are locked in key order, so that two executions never wait for each other.
create or replace function app.store_records(
  execution app.executions, resource text, records jsonb, seq bigint, out inserted bigint, out updated bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  mode constant text := coalesce(execution.spec -> 'write' ->> 'mode', 'replicate');
  only_changed constant boolean := coalesce((execution.spec -> 'write' ->> 'only_changed')::boolean, false);
  target constant app.records := (execution.agency_id, coalesce(execution.destination_id, execution.connection_id),
    resource, null, null, execution.id, clock_timestamp()); -- what all rows of the batch have in common
  upserted record;
begin
  inserted := 0;
  updated := 0;
  case mode
    when 'append' then inserted := app.append_records(target, records, seq);
    when 'create' then inserted := app.insert_new_records(target, records);
    when 'update' then updated := app.update_records(target, records, only_changed);
    when 'deliver' then inserted := app.complete_delivery(execution.id, seq);
    else
      upserted := app.upsert_records(target, records, mode = 'replicate', only_changed);
      inserted := upserted.inserted;
      updated := upserted.updated;
  end case;
end $$;

revoke all on function app.store_records from public, anon, authenticated, service_role;
grant execute on function app.store_records to service_role;

-- worker/update_records.sql
-- Mode `update` of app.store_records: sets the records' members in rows that exist. Returns the number of rows written.
create or replace function app.update_records(target app.records, records jsonb, only_changed boolean)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  updated bigint;
begin
  with wanted as materialized (
    select distinct on (item.value ->> 'key') item.value ->> 'key' as key, item.value -> 'data' as data
    from jsonb_array_elements(records) with ordinality as item (value, position)
    order by item.value ->> 'key', item.position desc
  ), locked as materialized (
    select r.key from app.records as r
    where r.agency_id = target.agency_id and r.connection_id = target.connection_id
      and r.resource = target.resource and r.key in (select w.key from wanted as w)
    order by r.key
    for update
  )
  update app.records as r
  set data = r.data || w.data, execution_id = target.execution_id, stored_at = target.stored_at
  from locked as l join wanted as w on w.key = l.key
  where r.agency_id = target.agency_id and r.connection_id = target.connection_id
    and r.resource = target.resource and r.key = l.key
    and (not only_changed or r.data || w.data <> r.data);
  get diagnostics updated = row_count;
  return updated;
end $$;

revoke all on function app.update_records from public, anon, authenticated, service_role;
grant execute on function app.update_records to service_role;

-- worker/upsert_records.sql
-- Modes `replicate` and `updateOrCreate` of app.store_records: inserts new keys and writes existing ones. With `replace` the
-- record becomes the row's data, otherwise its members are set in it. With `only_changed` equal rows are left alone.
create or replace function app.upsert_records(
  target app.records, records jsonb, replace boolean, only_changed boolean, out inserted bigint, out updated bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  with stored as (
    insert into app.records as r (agency_id, connection_id, resource, key, data, execution_id, stored_at)
    select distinct on (item.value ->> 'key')
      target.agency_id, target.connection_id, target.resource,
      item.value ->> 'key', item.value -> 'data', target.execution_id, target.stored_at
    from jsonb_array_elements(records) with ordinality as item (value, position)
    order by item.value ->> 'key', item.position desc
    on conflict on constraint records_pkey do update
    set data = case when replace then excluded.data else r.data || excluded.data end,
      execution_id = excluded.execution_id, stored_at = excluded.stored_at
    where not only_changed or r.data || excluded.data <> r.data
    returning xmax = 0 as is_new -- xmax is set if an earlier version of the row was locked
  )
  select count(*) filter (where s.is_new), count(*) filter (where not s.is_new) into inserted, updated from stored as s;
end $$;

revoke all on function app.upsert_records from public, anon, authenticated, service_role;
grant execute on function app.upsert_records to service_role;

-- api_key/public/create_api_key.sql
-- Creates an API key for the user's agency. Returns {key, api_key}. The key is shown only this once.
create or replace function public.create_api_key(name text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  -- Two random uuids have 244 random bits.
  key constant text := 'sync_' || replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
  id uuid;
begin
  insert into app.api_keys (agency_id, name, hash, hint, created_by)
  values (caller.agency_id, create_api_key.name, sha256(convert_to(key, 'UTF8')), right(key, 4), caller.actor)
  returning api_keys.id into id;
  return jsonb_build_object('key', key, 'api_key', app.api_key_object(id));
end $$;

revoke all on function public.create_api_key from public, anon, authenticated, service_role;
grant execute on function public.create_api_key to authenticated;

-- api_key/public/list_api_keys.sql
-- Lists the agency's API keys, newest first, including revoked ones. Returns {api_keys}.
create or replace function public.list_api_keys()
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return jsonb_build_object('api_keys', (
    select coalesce(jsonb_agg(app.api_key_object(k.id) order by k.created_at desc, k.id), '[]')
    from (select recent.id, recent.created_at from app.api_keys as recent
          where recent.agency_id = caller.agency_id order by recent.created_at desc, recent.id limit 1000) as k));
end $$;

revoke all on function public.list_api_keys from public, anon, authenticated, service_role;
grant execute on function public.list_api_keys to authenticated;

-- api_key/public/revoke_api_key.sql
-- Revokes an API key. Calls with it are rejected from now on. Revoking it again changes nothing. Returns the API key.
create or replace function public.revoke_api_key(api_key_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
begin
  update app.api_keys as k set revoked_at = clock_timestamp(), revoked_by = caller.actor
  where k.id = api_key_id and k.agency_id = caller.agency_id and k.revoked_at is null;
  if not found and not exists (select from app.api_keys as k where k.id = api_key_id) then
    perform app.raise_error(404, 'api_key_not_found', 'There is no API key with this id.');
  end if;
  return app.api_key_object(api_key_id);
end $$;

revoke all on function public.revoke_api_key from public, anon, authenticated, service_role;
grant execute on function public.revoke_api_key to authenticated;

-- bulk_action/public/cancel_bulk_action.sql
-- Cancels a scheduled or running bulk action. It acts on no further item; finished items stay as they are. The call
-- waits at most for the current batch. Returns {success, job_id, status}. 400 not_cancellable has the current_status.
-- Accepts an Idempotency-Key.
create or replace function public.cancel_bulk_action(job_id uuid, reason text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job_id', job_id, 'reason', reason);
  response jsonb := app.get_idempotent_response(caller, 'cancel_bulk_action', request);
  cancelled app.executions;
begin
  if response is not null then
    return response;
  end if;
  perform app.find_execution('bulk_action', job_id);
  cancelled := app.cancel_execution('bulk_action', job_id, reason);
  response := jsonb_build_object('success', true, 'job_id', cancelled.id, 'status', app.public_status(cancelled));
  return app.save_idempotent_response(caller, 'cancel_bulk_action', request, response);
end $$;

revoke all on function public.cancel_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.cancel_bulk_action to anon, authenticated, service_role;

-- bulk_action/public/create_bulk_action.sql
-- Queues a bulk action: it cancels, retries or starts the agency's executions that match the criteria when it runs, at
-- most max_limit of them. Returns the job. Accepts an Idempotency-Key.
create or replace function public.create_bulk_action(
  action_type text, criteria jsonb, action_reason text default null, max_limit int default 10000,
  scheduled_at timestamptz default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('action_type', action_type, 'criteria', criteria,
    'reason', action_reason, 'max_limit', max_limit, 'scheduled_at', scheduled_at);
  response jsonb := app.get_idempotent_response(caller, 'create_bulk_action', request);
  job app.executions;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_agency(caller, 'bulk action');
  if (action_type in ('cancel', 'retry', 'start') and max_limit between 1 and 1000000
      and coalesce(length(action_reason), 0) <= 500 and coalesce(isfinite(scheduled_at), true)) is not true then
    perform app.raise_error(400, 'invalid_bulk_action',
      'action_type must be cancel, retry or start, max_limit 1 to 1000000, action_reason at most 500 characters, and scheduled_at finite.');
  end if;
  job.agency_id := caller.agency_id;
  job.family := 'bulk_action';
  job.run_at := scheduled_at;
  job.spec := jsonb_build_object(
    'action_type', action_type, 'criteria', app.bulk_action_criteria(criteria), 'action_reason', action_reason,
    'max_limit', max_limit, 'scheduled_at', scheduled_at);
  job.spec := job.spec || jsonb_build_object('preview_count', cardinality(app.bulk_action_matches(
    caller.agency_id, job.spec -> 'criteria', null, 'ffffffff-ffff-ffff-ffff-ffffffffffff', least(max_limit, 10000))));
  job := app.start_execution(job);
  response := app.bulk_action_object(job);
  return app.save_idempotent_response(caller, 'create_bulk_action', request, response);
end $$;

revoke all on function public.create_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.create_bulk_action to anon, authenticated, service_role;

-- bulk_action/public/delete_bulk_action.sql
-- Deletes a finished bulk action for its callers. The audit keeps it. Returns {success, job_id, status}. 400
-- not_deletable has the current_status of an unfinished one.
create or replace function public.delete_bulk_action(job_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  job constant app.executions := app.find_execution('bulk_action', job_id);
begin
  if job.finished_at is null then
    perform app.raise_error(400, 'not_deletable', 'This job has not ended. Cancel it first.',
      jsonb_build_object('current_status', app.public_status(job)));
  end if;
  update app.executions as e set deleted_at = clock_timestamp() where e.id = job.id and e.deleted_at is null;
  return jsonb_build_object('success', true, 'job_id', job.id, 'status', app.public_status(job));
end $$;

revoke all on function public.delete_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.delete_bulk_action to anon, authenticated, service_role;

-- bulk_action/public/get_bulk_action.sql
-- Returns a bulk action with its counts.
create or replace function public.get_bulk_action(job_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return app.bulk_action_object(app.find_execution('bulk_action', job_id));
end $$;

revoke all on function public.get_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.get_bulk_action to anon, authenticated, service_role;

-- bulk_action/public/list_bulk_actions.sql
-- Lists the agency's bulk actions, newest first. `status` is one of the family's public statuses, `cursor` the
-- `next_cursor` of the previous page. Returns {jobs, next_cursor}; `next_cursor` is null on the last page.
create or replace function public.list_bulk_actions(status text default null, "limit" int default 20, cursor uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  size constant int := case when "limit" between 1 and 100 then "limit" else 20 end;
  statuses constant text[] := case when status is not null then app.internal_statuses('bulk_action', status) end;
  ids uuid[];
begin
  ids := array(
    select e.id from app.executions as e
    where e.family = 'bulk_action' and e.deleted_at is null and (caller.agency_id is null or e.agency_id = caller.agency_id)
      and (statuses is null or e.status = any(statuses) and app.public_status(e) = list_bulk_actions.status)
      and (cursor is null or e.id < cursor)
    order by e.id desc nulls last limit size + 1);
  return jsonb_build_object(
    'jobs', (
      select coalesce(jsonb_agg(app.bulk_action_object(e) order by e.id desc), '[]')
      from app.executions as e where e.id = any(ids[:size])),
    'next_cursor', case when cardinality(ids) > size then ids[size] end);
end $$;

revoke all on function public.list_bulk_actions from public, anon, authenticated, service_role;
grant execute on function public.list_bulk_actions to anon, authenticated, service_role;

-- bulk_action/public/preview_bulk_action.sql
-- Counts the executions that a bulk action would act on now (up to max_limit, at most 10,000) and returns the first of
-- them. Changes nothing. Returns {total_count, is_exact, sample: [{id, family, status, created_at}]}.
create or replace function public.preview_bulk_action(criteria jsonb, max_limit int default 10000)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  v_max constant int := least(greatest(max_limit, 1), 10000);
  ids uuid[];
begin
  perform app.require_agency(caller, 'bulk action');
  ids := app.bulk_action_matches(
    caller.agency_id, app.bulk_action_criteria(criteria), null, 'ffffffff-ffff-ffff-ffff-ffffffffffff', v_max + 1);
  return jsonb_build_object(
    'total_count', least(cardinality(ids), v_max),
    'is_exact', cardinality(ids) <= v_max,
    'sample', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', e.id, 'family', e.family, 'status', app.public_status(e), 'created_at', e.created_at) order by e.id), '[]')
      from app.executions as e where e.id = any(ids[:least(v_max, 10)])));
end $$;

revoke all on function public.preview_bulk_action from public, anon, authenticated, service_role;
grant execute on function public.preview_bulk_action to anon, authenticated, service_role;

-- bulk_sync/public/cancel_bulk_sync.sql
-- Cancels the bulk sync's active execution (see app.cancel_definition).
create or replace function public.cancel_bulk_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return app.cancel_definition(caller, 'bulk_sync', sync_id);
end $$;

revoke all on function public.cancel_bulk_sync from public, anon, authenticated, service_role;
grant execute on function public.cancel_bulk_sync to anon, authenticated, service_role;

-- bulk_sync/public/create_bulk_sync.sql
-- Creates a bulk sync, which copies schemas (resources of the source) to a connection of type records.
-- schemas: [{id, enabled}], null for all that exist now. destination_configuration: {schema}, a prefix of the names
-- there.
-- Returns {data: the bulk sync}. Accepts an Idempotency-Key.
create or replace function public.create_bulk_sync(
  name text, source_connection_id uuid, destination_connection_id uuid, destination_configuration jsonb default '{}',
  schemas jsonb default null, mode text default 'replicate', active boolean default true, organization_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object(
    'name', name, 'source', source_connection_id, 'destination', destination_connection_id,
    'configuration', destination_configuration, 'schemas', schemas, 'mode', mode, 'active', active);
  response jsonb := app.get_idempotent_response(caller, 'create_bulk_sync', request);
  source app.connections;
  destination app.connections;
  sync app.definitions;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_organization(caller, organization_id);
  source := app.find_connection(source_connection_id);
  destination := app.find_connection(destination_connection_id);
  perform app.require_source(source);
  if destination.kind <> 'records' then
    perform app.raise_error(400, 'not_a_destination', 'The destination must be a connection of type records.');
  end if;
  if source.agency_id <> destination.agency_id then
    perform app.raise_error(404, 'connection_not_found', 'There is no connection with this id.');
  end if;
  if mode not in ('replicate', 'append') then
    perform app.raise_error(422, 'unsupported_field',
      'mode must be replicate or append.', jsonb_build_object('fields', jsonb_build_array('mode')));
  end if;
  insert into app.definitions (agency_id, kind, name, source_id, destination_id, active, settings, created_by, updated_by)
  values (
    source.agency_id, 'bulk_sync', create_bulk_sync.name, source.id, destination.id, create_bulk_sync.active,
    jsonb_build_object(
      'mode', mode,
      'destination_configuration', destination_configuration,
      'schemas', app.bulk_sync_schemas(source, schemas, destination_configuration ->> 'schema')),
    caller.actor, caller.actor)
  returning * into sync;
  response := jsonb_build_object('data', app.bulk_sync_object(sync));
  return app.save_idempotent_response(caller, 'create_bulk_sync', request, response);
end $$;

revoke all on function public.create_bulk_sync from public, anon, authenticated, service_role;
grant execute on function public.create_bulk_sync to anon, authenticated, service_role;

-- bulk_sync/public/delete_bulk_sync.sql
-- Cancels the active execution and deletes the bulk sync. Returns null.
create or replace function public.delete_bulk_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  perform app.delete_definition('bulk_sync', sync_id);
  return null;
end $$;

revoke all on function public.delete_bulk_sync from public, anon, authenticated, service_role;
grant execute on function public.delete_bulk_sync to anon, authenticated, service_role;

-- bulk_sync/public/get_bulk_sync.sql
-- Returns {data: the bulk sync}.
create or replace function public.get_bulk_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return jsonb_build_object('data', app.bulk_sync_object(app.find_definition('bulk_sync', sync_id)));
end $$;

revoke all on function public.get_bulk_sync from public, anon, authenticated, service_role;
grant execute on function public.get_bulk_sync to anon, authenticated, service_role;

-- bulk_sync/public/get_bulk_sync_execution.sql
-- Returns {data: an execution of the bulk sync}, with the status and counts of each schema.
create or replace function public.get_bulk_sync_execution(sync_id uuid, execution_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  sync constant app.definitions := app.find_definition('bulk_sync', sync_id);
begin
  return jsonb_build_object('data', app.bulk_sync_execution_object(app.find_execution(sync.kind, execution_id, sync.id)));
end $$;

revoke all on function public.get_bulk_sync_execution from public, anon, authenticated, service_role;
grant execute on function public.get_bulk_sync_execution to anon, authenticated, service_role;

-- bulk_sync/public/get_bulk_sync_status.sql
-- Returns the newest execution, which stays current after its end until another starts, and the newest finished one:
-- {data: {current_execution, last_execution, next_execution_time, ingestion_status}}.
create or replace function public.get_bulk_sync_status(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  sync constant app.definitions := app.find_definition('bulk_sync', sync_id);
begin
  return jsonb_build_object('data', jsonb_build_object(
    'current_execution', app.bulk_sync_execution_object(app.newest_execution(sync)),
    'last_execution', app.bulk_sync_execution_object(app.newest_execution(sync, ended => true)),
    'next_execution_time', null,
    'ingestion_status', null));
end $$;

revoke all on function public.get_bulk_sync_status from public, anon, authenticated, service_role;
grant execute on function public.get_bulk_sync_status to anon, authenticated, service_role;

-- bulk_sync/public/list_bulk_sync_executions.sql
-- Lists a bulk sync's executions, newest first (with `ascending` oldest first), at most `limit` (up to 100) per page.
-- Returns {data: [execution], pagination: {next_page_token}}; the token is empty on the last page.
create or replace function public.list_bulk_sync_executions(
  sync_id uuid, page_token text default null, "limit" int default null, ascending boolean default false,
  only_terminal boolean default false)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  page constant record := app.executions_page(
    app.find_definition('bulk_sync', sync_id), page_token, "limit", ascending, only_terminal);
begin
  return jsonb_build_object(
    'data', (
      select coalesce(jsonb_agg(app.bulk_sync_execution_object(e) order by listed.position), '[]')
      from unnest(page.ids) with ordinality as listed (id, position) join app.executions as e on e.id = listed.id),
    'pagination', jsonb_build_object('next_page_token', page.next_page_token));
end $$;

revoke all on function public.list_bulk_sync_executions from public, anon, authenticated, service_role;
grant execute on function public.list_bulk_sync_executions to anon, authenticated, service_role;

-- bulk_sync/public/list_bulk_syncs.sql
-- Lists the agency's bulk syncs, last updated first, at most `limit` (up to 50) per page.
-- Returns {data: [bulk sync], pagination: {next_page_token}}; the token is empty on the last page.
create or replace function public.list_bulk_syncs(
  active boolean default null, page_token text default null, "limit" int default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  page constant record := app.definitions_page('bulk_sync', page_token, "limit", active);
begin
  return jsonb_build_object(
    'data', (
      select coalesce(jsonb_agg(app.bulk_sync_object(d) order by listed.position), '[]')
      from unnest(page.ids) with ordinality as listed (id, position) join app.definitions as d on d.id = listed.id),
    'pagination', jsonb_build_object('next_page_token', page.next_page_token));
end $$;

revoke all on function public.list_bulk_syncs from public, anon, authenticated, service_role;
grant execute on function public.list_bulk_syncs to anon, authenticated, service_role;

-- bulk_sync/public/start_bulk_sync.sql
-- Queues an execution of a bulk sync. schemas: ids, null for all. 409 already_active if one is active.
-- Returns {data: the execution}. Accepts an Idempotency-Key.
create or replace function public.start_bulk_sync(sync_id uuid, schemas jsonb default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('sync_id', sync_id, 'schemas', schemas);
  response jsonb := app.get_idempotent_response(caller, 'start_bulk_sync', request);
  sync app.definitions;
  started app.executions;
  chosen jsonb;
  unknown text;
begin
  if response is not null then
    return response;
  end if;
  sync := app.find_definition('bulk_sync', sync_id, for_share => true);
  select jsonb_agg(s.value order by s.position) into chosen
  from jsonb_array_elements(sync.settings -> 'schemas') with ordinality as s (value, position)
  where schemas is null or schemas ? (s.value ->> 'id');
  select id into unknown from jsonb_array_elements_text(schemas) as id
  where not sync.settings -> 'schemas' @> jsonb_build_array(jsonb_build_object('id', id)) limit 1;
  if unknown is not null or chosen is null then
    perform app.raise_error(400, 'unknown_schema',
      'schemas must have at least one of this sync''s schemas and no other.', jsonb_build_object(
      'schema', left(unknown, 200), 'available', (select jsonb_agg(s -> 'id') from jsonb_array_elements(sync.settings -> 'schemas') as s)));
  end if;

  started.agency_id := sync.agency_id;
  started.family := 'bulk_sync';
  started.definition_id := sync.id;
  started.connection_id := sync.source_id;
  started.destination_id := sync.destination_id;
  started.concurrency_key := sync.id;
  started.spec := jsonb_build_object(
    'schemas', chosen, 'is_partial', schemas is not null, 'write', jsonb_build_object('mode', sync.settings -> 'mode'));
  started := app.start_execution(started);
  response := jsonb_build_object('data', app.bulk_sync_execution_object(started));
  return app.save_idempotent_response(caller, 'start_bulk_sync', request, response);
end $$;

revoke all on function public.start_bulk_sync from public, anon, authenticated, service_role;
grant execute on function public.start_bulk_sync to anon, authenticated, service_role;

-- connection/public/create_connection.sql
-- Creates a connection. `configuration.secret` is for the worker only and is never returned.
-- type: http (see the connector's configuration) or records (the destination of syncs, configuration {}). If the secret
-- is in an external store, `secret_id` names it (see reserve_secret). Returns {data: the connection}.
-- With `validate` the source is checked first (see test_connection): the call returns {check_id}; call again without
-- `validate` once the check has completed.
-- Accepts an Idempotency-Key; an external secret is compared by its fingerprint.
create or replace function public.create_connection(
  name text, type text, configuration jsonb default '{}', organization_id uuid default null, secret_id uuid default null,
  validate boolean default false)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  fingerprint constant text := case when secret_id is not null then app.secret_fingerprint(secret_id) end;
  -- Stored for a day for comparison, so only as a hash. The key salts it, so that two stored requests do not reveal that
  -- they have the same secret.
  request constant jsonb := jsonb_build_object('name', name, 'type', type,
    'configuration', encode(sha256(convert_to(
      jsonb_build_array(app.idempotency_key(), configuration, fingerprint)::text, 'UTF8')), 'hex'));
  response jsonb := app.get_idempotent_response(caller, 'create_connection', request);
  connection app.connections;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_organization(caller, organization_id);
  if validate and type <> 'records' then
    return public.test_connection(type, configuration, secret_id => secret_id);
  end if;
  connection := app.insert_connection(caller, name, type, configuration, secret_id);
  response := jsonb_build_object('data', app.connection_object(connection));
  return app.save_idempotent_response(caller, 'create_connection', request, response);
end $$;

revoke all on function public.create_connection from public, anon, authenticated, service_role;
grant execute on function public.create_connection to anon, authenticated, service_role;

-- connection/public/delete_connection.sql
-- Deletes a connection and its secret. If syncs or models use it: 422 connection_in_use with their ids, or, with
-- `force`, they are deleted too. Active executions are cancelled first. Returns null.
create or replace function public.delete_connection(connection_id uuid, force boolean default false)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  used_by jsonb;
  definition app.definitions;
begin
  -- Weaker than `for update`, so that a start that has locked its definition can still refer to the connection. It is
  -- cancelled below.
  perform from app.connections as c where c.id = connection_id and c.deleted_at is null and c.kind <> 'webhook' for no key update;
  if not found then
    perform app.find_connection(connection_id);
  end if;
  select jsonb_agg(jsonb_build_object('type', d.kind, 'id', d.id, 'name', d.name) order by d.kind, d.name) into used_by
  from app.definitions as d where d.deleted_at is null and connection_id in (d.source_id, d.destination_id);
  if used_by is not null and not coalesce(force, false) then
    perform app.raise_error(422, 'connection_in_use',
      'Syncs or models use this connection. Delete them first, or pass force=true.',
      jsonb_build_object('used_by', used_by));
  end if;
  -- All in id order, also the executions, which the definitions' deletes would otherwise lock in the definitions' order.
  perform from app.definitions as d
  where d.deleted_at is null and connection_id in (d.source_id, d.destination_id)
  order by d.id for update;
  perform from app.executions as e
  where e.status in ('queued', 'running', 'cancelling') and delete_connection.connection_id in (e.connection_id, e.destination_id)
  order by e.id for update;
  for definition in
    select * from app.definitions as d
    where d.deleted_at is null and connection_id in (d.source_id, d.destination_id)
    order by d.id
  loop
    perform app.delete_definition(definition.kind, definition.id);
  end loop;
  perform app.cancel_each(array(
    select e.id from app.executions as e
    where e.status in ('queued', 'running', 'cancelling') and delete_connection.connection_id in (e.connection_id, e.destination_id)),
    'connection deleted');
  update app.connections as c set deleted_at = clock_timestamp() where c.id = connection_id;
  return null;
end $$;

revoke all on function public.delete_connection from public, anon, authenticated, service_role;
grant execute on function public.delete_connection to anon, authenticated, service_role;

-- connection/public/get_connection.sql
-- Returns {data: the connection}, without its secret.
create or replace function public.get_connection(connection_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return jsonb_build_object('data', app.connection_object(app.find_connection(connection_id, for_share => false)));
end $$;

revoke all on function public.get_connection from public, anon, authenticated, service_role;
grant execute on function public.get_connection to anon, authenticated, service_role;

-- connection/public/list_connections.sql
-- Lists the agency's connections without their secrets, last updated first, at most 50 per page.
-- Returns {data: [connection], pagination: {next_page_token}}; the token is empty on the last page.
create or replace function public.list_connections(page_token text default null, "limit" int default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  size constant int := app.page_size("limit", 50);
  after constant record := app.read_page_token(page_token);
  response jsonb;
begin
  -- One statement, so that a connection deleted meanwhile is on the page or not, and the page is complete.
  with listed as (
    select c.id, c.agency_id, c.kind, c.name, c.config, c.created_at, c.created_by, c.updated_at
    from app.connections as c
    where c.deleted_at is null and c.kind <> 'webhook' and (caller.agency_id is null or c.agency_id = caller.agency_id)
      and (after.id is null or c.updated_at <= after.updated_at and (c.updated_at < after.updated_at or c.id > after.id))
    order by c.updated_at desc, c.id
    limit size + 1
  ), page as (
    select jsonb_populate_record(null::app.connections, to_jsonb(l)) as connection,
      row_number() over (order by l.updated_at desc, l.id) as position,
      app.page_token(l.updated_at, l.id) as token
    from listed as l
  )
  select jsonb_build_object(
    'data', coalesce(jsonb_agg(app.connection_object(p.connection) order by p.position) filter (where p.position <= size), '[]'),
    'pagination', jsonb_build_object('next_page_token',
      case when count(*) > size then max(p.token) filter (where p.position = size) else '' end))
  into response
  from page as p;
  return response;
end $$;

revoke all on function public.list_connections from public, anon, authenticated, service_role;
grant execute on function public.list_connections to anon, authenticated, service_role;

-- connection/public/reserve_secret.sql
-- Reserves a name in the external secret store. The secret stored under it becomes a connection's through `secret_id`
-- within an hour, or is deleted. fingerprint: SHA-256 of Idempotency-Key and secret, by which a repeated request is
-- recognized.
-- Returns {secret_id, name}.
create or replace function public.reserve_secret(fingerprint text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  reserved app.secrets;
begin
  perform app.require_agency(caller, 'secret');
  if fingerprint !~ '^[0-9a-f]{64}$' then
    perform app.raise_error(400, 'invalid_fingerprint', 'fingerprint must be a SHA-256 in lower-case hexadecimal.');
  end if;
  reserved := app.reserve_secret(fingerprint);
  return jsonb_build_object('secret_id', reserved.id, 'name', reserved.name);
end $$;

revoke all on function public.reserve_secret from public, anon, authenticated, service_role;
grant execute on function public.reserve_secret to anon, authenticated, service_role;

-- connection/public/test_connection.sql
-- Starts a check of a source: the stored connection (if `connection_id` is given) with this configuration over it. A
-- secret in the configuration or in `secret_id` (see reserve_secret) replaces the stored one. Nothing stays: the
-- connection under test is deleted from the start, its secret within minutes.
-- Returns {check_id} for get_source_check; it is null for a type that cannot fail.
create or replace function public.test_connection(
  type text, configuration jsonb, connection_id uuid default null, secret_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  stored app.connections;
  tested app.connections;
begin
  if connection_id is not null then
    stored := app.find_connection(connection_id);
    if stored.kind <> type then
      perform app.raise_error(400, 'other_type', 'type must be that of the stored connection.');
    end if;
    configuration := stored.config || configuration;
  end if;
  tested := app.insert_connection(caller, coalesce(stored.name, 'test'), type, configuration, secret_id, only_test => true);
  if stored.id is not null and secret_id is null and nullif(configuration -> 'secret', 'null') is null then
    perform app.copy_secret_for_check(stored.id, tested.id);
  end if;
  if tested.kind = 'records' then
    return '{"check_id": null}';
  end if;
  return jsonb_build_object('check_id', (app.start_source_check(tested, null)).id);
end $$;

revoke all on function public.test_connection from public, anon, authenticated, service_role;
grant execute on function public.test_connection to anon, authenticated, service_role;

-- historical_sync/public/cancel_sync_job.sql
-- Cancels a pending or running historical sync. After it returns, no further write of that job is accepted.
-- Returns {job_id, status}. 400 not_cancellable has the current_status. Accepts an Idempotency-Key.
create or replace function public.cancel_sync_job(job_id uuid, reason text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job_id', job_id, 'reason', reason);
  response jsonb := app.get_idempotent_response(caller, 'cancel_sync_job', request);
  cancelled app.executions;
begin
  if response is not null then
    return response;
  end if;
  cancelled := app.cancel_execution('historical_sync', job_id, reason);
  response := jsonb_build_object('job_id', cancelled.id, 'status', app.public_status(cancelled));
  return app.save_idempotent_response(caller, 'cancel_sync_job', request, response);
end $$;

revoke all on function public.cancel_sync_job from public, anon, authenticated, service_role;
grant execute on function public.cancel_sync_job to authenticated, service_role;

-- historical_sync/public/get_historical_sync.sql
-- Returns a historical sync: status, progress, position, error, who cancelled it and why, timestamps.
create or replace function public.get_historical_sync(job_id uuid)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  job public.historical_sync_jobs;
begin
  select * into job from public.historical_sync_jobs as j where j.job_id = get_historical_sync.job_id;
  if not found then
    perform app.raise_not_found('historical_sync', 'historical_sync', 'job', job_id);
  end if;
  return app.historical_sync_object(job);
end $$;

revoke all on function public.get_historical_sync from public, anon, authenticated, service_role;
grant execute on function public.get_historical_sync to authenticated, service_role;

-- historical_sync/public/list_historical_syncs.sql
-- Lists the caller's historical syncs, newest first, at most `limit` (1 to 100). `status` is one of the family's public
-- statuses, `cursor` the previous page's `next_cursor`. Ids are time-ordered and a page begins after one, so paging
-- neither skips nor repeats the jobs that existed when it began. Returns {jobs, next_cursor}; `next_cursor` is null on
-- the last page.
create or replace function public.list_historical_syncs(
  status text default null, connection_id uuid default null, "limit" int default 20, cursor uuid default null)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  size constant int := coalesce("limit", 20);
  -- A connection has one agency, so a trusted server that names a connection finds its executions as fast.
  of_agency constant boolean := caller.agency_id is not null or connection_id is not null;
  agency constant uuid := coalesce(caller.agency_id, (select c.agency_id from app.connections as c where c.id = connection_id));
  statuses constant text[] := case when status is not null then app.internal_statuses('historical_sync', status) end;
  jobs jsonb;
  ids uuid[];
begin
  if size not between 1 and 100 then
    perform app.raise_error(400, 'invalid_limit', 'limit must be a number from 1 to 100.');
  end if;
  -- Planned for the given filters, because each combination has its index. `nulls last` is the order of an agency's
  -- indexes and not of the primary key, which would be read past all other agencies' rows.
  execute 'select array(select e.id from app.executions as e where e.family = ''historical_sync'' and e.deleted_at is null'
    || case when of_agency then ' and e.agency_id = $1' else '' end
    || case when connection_id is not null then ' and e.connection_id = $2' else '' end
    || case when cardinality(statuses) = 1 then ' and e.status = ($3)[1]' when status is not null then ' and e.status = any($3)' else '' end
    || case when 'queued' = any(statuses) then ' and app.public_status(e) = $4' else '' end
    || case when cursor is not null then ' and e.id < $5' else '' end
    || ' order by e.id desc' || case when of_agency then ' nulls last' else '' end || ' limit $6)'
  into ids
  using agency, connection_id, statuses, status, cursor, size + 1;

  select jsonb_agg(app.historical_sync_object(j) order by j.job_id desc) into jobs
  from unnest(ids[:size]) as listed (id) join public.historical_sync_jobs as j on j.job_id = listed.id; -- one lookup each
  return jsonb_build_object(
    'jobs', coalesce(jobs, '[]'),
    'next_cursor', case when cardinality(ids) > size then ids[size] end);
end $$;

revoke all on function public.list_historical_syncs from public, anon, authenticated, service_role;
grant execute on function public.list_historical_syncs to authenticated, service_role;

-- historical_sync/public/retry_historical_sync.sql
-- Continues a failed or cancelled historical sync from its checkpoint, as a new job with the same range.
-- Returns {job_id, status, retry_of}. 400 not_retryable has the current_status. Accepts an Idempotency-Key.
create or replace function public.retry_historical_sync(job_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job_id', job_id);
  response jsonb := app.get_idempotent_response(caller, 'retry_historical_sync', request);
  ended app.executions;
  started app.executions;
begin
  if response is not null then
    return response;
  end if;
  select * into ended from app.executions as e
  where e.id = retry_historical_sync.job_id and e.family = 'historical_sync' and e.deleted_at is null;
  if not found then
    perform app.raise_not_found('historical_sync', 'historical_sync', 'job', job_id);
  end if;
  if ended.status not in ('failed', 'cancelled') then
    perform app.raise_error(400, 'not_retryable', 'Only failed and cancelled jobs can be retried.',
      jsonb_build_object('current_status', app.public_status(ended)));
  end if;
  perform from app.connections as c where c.id = ended.connection_id and c.deleted_at is null for share;
  if not found and ended.connection_id is not null then
    perform app.raise_error(404, 'connection_not_found', 'The connection of this job was deleted. Start a new job.');
  end if;

  started := ended;
  started.retry_of := ended.id;
  started.run_at := null;
  if ended.progress ? 'windows_done' then
    started.progress := ended.progress || jsonb_build_object('windows_before', ended.progress -> 'windows_done');
  end if;
  started := app.start_execution(started);
  response := jsonb_build_object('job_id', started.id, 'status', app.public_status(started), 'retry_of', started.retry_of);
  return app.save_idempotent_response(caller, 'retry_historical_sync', request, response);
end $$;

revoke all on function public.retry_historical_sync from public, anon, authenticated, service_role;
grant execute on function public.retry_historical_sync to authenticated, service_role;

-- historical_sync/public/start_historical_sync.sql
-- Queues a historical sync of a date range; both days are included. resources: JSON array of names, null for all.
-- Returns {job_id, status}. One job per connection can be active: otherwise 409 already_active with its job_id.
-- Accepts an Idempotency-Key.
create or replace function public.start_historical_sync(
  connection_id uuid, date_from date, date_to date, resources jsonb default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object(
    'connection_id', connection_id, 'date_from', date_from, 'date_to', date_to, 'resources', resources);
  response jsonb := app.get_idempotent_response(caller, 'start_historical_sync', request);
  connection app.connections;
  started app.executions;
begin
  if response is not null then
    return response;
  end if;
  -- Without the secret, which callers may not read.
  select c.id, c.agency_id, c.kind, c.config into connection.id, connection.agency_id, connection.kind, connection.config
  from app.connections as c where c.id = start_historical_sync.connection_id and c.deleted_at is null
  for share; -- so that it is not deleted meanwhile
  if not found then
    perform app.raise_not_found('historical_sync', 'connection', 'connection', connection_id);
  end if;

  started.agency_id := connection.agency_id;
  started.family := 'historical_sync';
  started.connection_id := connection.id;
  started.concurrency_key := connection.id;
  started.spec := app.historical_sync_spec(connection, date_from, date_to, resources);
  started := app.start_execution(started);
  response := jsonb_build_object('job_id', started.id, 'status', app.public_status(started));
  return app.save_idempotent_response(caller, 'start_historical_sync', request, response);
end $$;

revoke all on function public.start_historical_sync from public, anon, authenticated, service_role;
grant execute on function public.start_historical_sync to authenticated, service_role;

-- model/public/create_model.sql
-- Creates a model. configuration: {resource}. Its fields are those that a completed source check of this resource
-- (`check_id`) has found, or the ones among them that `fields` names. Without `check_id` the call starts a check and
-- returns {check_id} for get_source_check; call again with it. Returns {data: the model}. Accepts an Idempotency-Key.
create or replace function public.create_model(
  name text, connection_id uuid, configuration jsonb, check_id uuid default null, fields jsonb default null,
  identifier text default null, organization_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  -- Without check_id, because a repeated request has another.
  request constant jsonb := jsonb_build_object('name', name, 'connection_id', connection_id,
    'configuration', configuration, 'fields', fields, 'identifier', identifier);
  response jsonb := app.get_idempotent_response(caller, 'create_model', request);
  connection app.connections;
  source_check app.executions;
  found_fields jsonb;
  model app.definitions;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_organization(caller, organization_id);
  connection := app.find_connection(connection_id);
  if check_id is null then
    return jsonb_build_object('check_id', (app.start_source_check(connection, coalesce(configuration ->> 'resource', ''))).id);
  end if;
  select * into source_check from app.executions as e
  where e.id = check_id and e.family = 'source_check' and e.status = 'completed' and e.agency_id = connection.agency_id
    and e.connection_id = connection.id and e.spec ->> 'resource' = configuration ->> 'resource';
  if not found then
    perform app.raise_error(400, 'not_checked', 'check_id must be a completed source check of this resource.');
  end if;
  found_fields := source_check.progress -> 'fields';
  if identifier is not null then
    perform app.model_fields(found_fields, jsonb_build_array(identifier));
  end if;
  insert into app.definitions (agency_id, kind, name, source_id, settings, created_by, updated_by)
  values (
    connection.agency_id, 'model', create_model.name, connection.id,
    jsonb_build_object(
      'configuration', jsonb_build_object('resource', configuration -> 'resource'),
      'fields', app.model_fields(found_fields, create_model.fields),
      'identifier', identifier),
    caller.actor, caller.actor)
  returning * into model;
  response := jsonb_build_object('data', app.model_object(model));
  return app.save_idempotent_response(caller, 'create_model', request, response);
end $$;

revoke all on function public.create_model from public, anon, authenticated, service_role;
grant execute on function public.create_model to anon, authenticated, service_role;

-- model/public/delete_model.sql
-- Deletes a model. 422 model_in_use, with the model syncs that read it, if there are any. Returns null.
create or replace function public.delete_model(model_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  -- First, because a model sync that is being created locks the model and is visible after that.
  model constant app.definitions := app.delete_definition('model', model_id);
  used_by jsonb;
begin
  select jsonb_agg(jsonb_build_object('type', d.kind, 'id', d.id, 'name', d.name) order by d.name) into used_by
  from app.definitions as d
  where d.agency_id = model.agency_id and d.kind = 'model_sync' and d.deleted_at is null
    and d.settings ->> 'model_id' = model.id::text;
  if used_by is not null then
    perform app.raise_error(422, 'model_in_use',
      'Model syncs read this model. Delete them first.', jsonb_build_object('used_by', used_by));
  end if;
  return null;
end $$;

revoke all on function public.delete_model from public, anon, authenticated, service_role;
grant execute on function public.delete_model to anon, authenticated, service_role;

-- model/public/get_model.sql
-- Returns {data: the model}.
create or replace function public.get_model(model_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return jsonb_build_object('data', app.model_object(app.find_definition('model', model_id)));
end $$;

revoke all on function public.get_model from public, anon, authenticated, service_role;
grant execute on function public.get_model to anon, authenticated, service_role;

-- model/public/list_models.sql
-- Lists the agency's models, last updated first, at most `limit` (up to 50) per page.
-- Returns {data: [model], pagination: {next_page_token}}; the token is empty on the last page.
create or replace function public.list_models(page_token text default null, "limit" int default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  page constant record := app.definitions_page('model', page_token, "limit");
begin
  return jsonb_build_object(
    'data', (
      select coalesce(jsonb_agg(app.model_object(d) order by listed.position), '[]')
      from unnest(page.ids) with ordinality as listed (id, position) join app.definitions as d on d.id = listed.id),
    'pagination', jsonb_build_object('next_page_token', page.next_page_token));
end $$;

revoke all on function public.list_models from public, anon, authenticated, service_role;
grant execute on function public.list_models to anon, authenticated, service_role;

-- model_sync/public/cancel_model_sync.sql
-- Cancels the model sync's active execution (see app.cancel_definition).
create or replace function public.cancel_model_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return app.cancel_definition(caller, 'model_sync', sync_id);
end $$;

revoke all on function public.cancel_model_sync from public, anon, authenticated, service_role;
grant execute on function public.cancel_model_sync to anon, authenticated, service_role;

-- model_sync/public/create_model_sync.sql
-- Creates a model sync, which writes fields of a model to the rows of an object (a resource of a connection of type
-- records).
--   fields    [{source: {model_id, field}, target}], at least one, each target once
--   identity  {source: {model_id, field}, target, function: Equality}: how a record finds its row; not for mode append
--   mode      create, update, updateOrCreate or append; with sync_all_records false, unchanged rows are not written
-- Returns {data: the model sync}. Accepts an Idempotency-Key.
create or replace function public.create_model_sync(
  name text, mode text, target jsonb, fields jsonb, identity jsonb default null, active boolean default true,
  sync_all_records boolean default true, organization_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('name', name, 'mode', mode, 'target', target, 'fields', fields,
    'identity', identity, 'active', active, 'all', sync_all_records);
  response jsonb := app.get_idempotent_response(caller, 'create_model_sync', request);
  destination app.connections;
  model app.definitions;
  sync app.definitions;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_organization(caller, organization_id);
  if (mode in ('create', 'update', 'updateOrCreate', 'append')) is not true then
    perform app.raise_error(422, 'unsupported_field', 'mode must be create, update, updateOrCreate or append.',
      jsonb_build_object('fields', jsonb_build_array('mode')));
  end if;
  if mode <> 'append' and identity is null then
    perform app.raise_error(400, 'identity_required', 'identity is required unless mode is append.');
  end if;
  if jsonb_array_length(fields) <> (select count(distinct f ->> 'target') from jsonb_array_elements(fields) as f)
     or exists (select from jsonb_array_elements(fields) as f
                where f ->> 'target' = identity ->> 'target' and f -> 'source' <> identity -> 'source') then
    perform app.raise_error(400, 'ambiguous_target', 'Each target must be used by one field only.');
  end if;
  model := app.model_sync_model(fields, identity);
  destination := app.find_connection((target ->> 'connection_id')::uuid);
  if destination.kind <> 'records' then
    perform app.raise_error(400, 'not_a_destination', 'target.connection_id must be a connection of type records.');
  end if;
  if destination.agency_id <> model.agency_id then
    perform app.raise_error(404, 'connection_not_found', 'There is no connection with this id.');
  end if;
  perform app.require_identity(destination, target ->> 'object', case when mode <> 'append' then identity end);
  insert into app.definitions (agency_id, kind, name, source_id, destination_id, active, settings, created_by, updated_by)
  values (
    model.agency_id, 'model_sync', create_model_sync.name, model.source_id, destination.id, create_model_sync.active,
    jsonb_build_object(
      'mode', mode,
      'model_id', model.id,
      'resource', model.settings -> 'configuration' -> 'resource',
      'object', target -> 'object',
      'fields', fields,
      'identity', identity,
      'sync_all_records', sync_all_records),
    caller.actor, caller.actor)
  returning * into sync;
  response := jsonb_build_object('data', app.model_sync_object(sync));
  return app.save_idempotent_response(caller, 'create_model_sync', request, response);
end $$;

revoke all on function public.create_model_sync from public, anon, authenticated, service_role;
grant execute on function public.create_model_sync to anon, authenticated, service_role;

-- model_sync/public/delete_model_sync.sql
-- Cancels the active execution and deletes the model sync. Returns null.
create or replace function public.delete_model_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  perform app.delete_definition('model_sync', sync_id);
  return null;
end $$;

revoke all on function public.delete_model_sync from public, anon, authenticated, service_role;
grant execute on function public.delete_model_sync to anon, authenticated, service_role;

-- model_sync/public/get_model_sync.sql
-- Returns {data: the model sync}.
create or replace function public.get_model_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return jsonb_build_object('data', app.model_sync_object(app.find_definition('model_sync', sync_id)));
end $$;

revoke all on function public.get_model_sync from public, anon, authenticated, service_role;
grant execute on function public.get_model_sync to anon, authenticated, service_role;

-- model_sync/public/get_model_sync_execution.sql
-- Returns {data: an execution of the model sync}, with its counts.
create or replace function public.get_model_sync_execution(sync_id uuid, execution_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  sync constant app.definitions := app.find_definition('model_sync', sync_id);
begin
  return jsonb_build_object('data', app.model_sync_execution_object(app.find_execution(sync.kind, execution_id, sync.id)));
end $$;

revoke all on function public.get_model_sync_execution from public, anon, authenticated, service_role;
grant execute on function public.get_model_sync_execution to anon, authenticated, service_role;

-- model_sync/public/get_model_sync_status.sql
-- Returns the newest execution, which stays current after its end until another starts, and the newest finished one:
-- {data: {current_execution, last_execution, next_execution_time}}.
create or replace function public.get_model_sync_status(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  sync constant app.definitions := app.find_definition('model_sync', sync_id);
begin
  return jsonb_build_object('data', jsonb_build_object(
    'current_execution', app.model_sync_execution_object(app.newest_execution(sync)),
    'last_execution', app.model_sync_execution_object(app.newest_execution(sync, ended => true)),
    'next_execution_time', null));
end $$;

revoke all on function public.get_model_sync_status from public, anon, authenticated, service_role;
grant execute on function public.get_model_sync_status to anon, authenticated, service_role;

-- model_sync/public/list_model_sync_executions.sql
-- Lists a model sync's executions, newest first (with `ascending` oldest first), at most `limit` (up to 100) per page.
-- Returns {data: [execution], pagination: {next_page_token}}; the token is empty on the last page.
create or replace function public.list_model_sync_executions(
  sync_id uuid, page_token text default null, "limit" int default null, ascending boolean default false,
  only_completed boolean default false)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  page constant record := app.executions_page(
    app.find_definition('model_sync', sync_id), page_token, "limit", ascending, only_completed);
begin
  return jsonb_build_object(
    'data', (
      select coalesce(jsonb_agg(app.model_sync_execution_object(e) order by listed.position), '[]')
      from unnest(page.ids) with ordinality as listed (id, position) join app.executions as e on e.id = listed.id),
    'pagination', jsonb_build_object('next_page_token', page.next_page_token));
end $$;

revoke all on function public.list_model_sync_executions from public, anon, authenticated, service_role;
grant execute on function public.list_model_sync_executions to anon, authenticated, service_role;

-- model_sync/public/list_model_syncs.sql
-- Lists the agency's model syncs, last updated first, at most `limit` (up to 50) per page.
-- Returns {data: [model sync], pagination: {next_page_token}}; the token is empty on the last page.
create or replace function public.list_model_syncs(
  active boolean default null, mode text default null, target_connection_id uuid default null, page_token text default null, "limit" int default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  page constant record := app.definitions_page(
    'model_sync', page_token, "limit", active, target_connection_id, mode);
begin
  return jsonb_build_object(
    'data', (
      select coalesce(jsonb_agg(app.model_sync_object(d) order by listed.position), '[]')
      from unnest(page.ids) with ordinality as listed (id, position) join app.definitions as d on d.id = listed.id),
    'pagination', jsonb_build_object('next_page_token', page.next_page_token));
end $$;

revoke all on function public.list_model_syncs from public, anon, authenticated, service_role;
grant execute on function public.list_model_syncs to anon, authenticated, service_role;

-- model_sync/public/start_model_sync.sql
-- Queues an execution of a model sync. 409 already_active if one is active.
-- Returns {data: the execution}. Accepts an Idempotency-Key.
create or replace function public.start_model_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('sync_id', sync_id);
  response jsonb := app.get_idempotent_response(caller, 'start_model_sync', request);
  sync app.definitions;
  started app.executions;
begin
  if response is not null then
    return response;
  end if;
  sync := app.find_definition('model_sync', sync_id, for_share => true);
  started.agency_id := sync.agency_id;
  started.family := 'model_sync';
  started.definition_id := sync.id;
  started.connection_id := sync.source_id;
  started.destination_id := sync.destination_id;
  started.concurrency_key := sync.id;
  started.spec := jsonb_build_object(
    'resource', sync.settings -> 'resource',
    'object', sync.settings -> 'object',
    'fields', sync.settings -> 'fields',
    'identity', case when sync.settings ->> 'mode' <> 'append' then sync.settings -> 'identity' end,
    'write', jsonb_build_object(
      'mode', sync.settings -> 'mode', 'only_changed', not (sync.settings ->> 'sync_all_records')::boolean));
  -- Without a lock, because a delete of the connection may already wait for this sync, and waiting for it would be a
  -- deadlock.
  perform app.require_identity(
    app.find_connection(sync.destination_id, for_share => false), started.spec ->> 'object', nullif(started.spec -> 'identity', 'null'));
  started := app.start_execution(started);
  response := jsonb_build_object('data', app.model_sync_execution_object(started));
  return app.save_idempotent_response(caller, 'start_model_sync', request, response);
end $$;

revoke all on function public.start_model_sync from public, anon, authenticated, service_role;
grant execute on function public.start_model_sync to anon, authenticated, service_role;

-- source_check/public/cancel_source_check.sql
-- Cancels a source check whose caller no longer waits, so that no worker runs it later. Returns what get_source_check
-- returns. A finished check stays as it is.
create or replace function public.cancel_source_check(check_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  perform public.get_source_check(check_id); -- raises 404 unless it is one of the caller's
  perform app.cancel_each(array[check_id], 'no caller waits');
  return public.get_source_check(check_id);
end $$;

revoke all on function public.cancel_source_check from public, anon, authenticated, service_role;
grant execute on function public.cancel_source_check to anon, authenticated, service_role;

-- source_check/public/get_source_check.sql
-- Returns the result of a source check: {status, fields: [{name, type}], error: {code, message}}.
create or replace function public.get_source_check(check_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  source_check app.executions;
begin
  select * into source_check from app.executions as e where e.id = check_id and e.family = 'source_check';
  if not found then
    perform app.raise_error(404, 'source_check_not_found', 'There is no source check with this id.');
  end if;
  return jsonb_build_object('status', app.public_status(source_check), 'fields', source_check.progress -> 'fields', 'error', source_check.error);
end $$;

revoke all on function public.get_source_check from public, anon, authenticated, service_role;
grant execute on function public.get_source_check to anon, authenticated, service_role;

-- sync_job/public/create_sync_job.sql
-- Creates a sync job: the resources to read, how they depend on each other, and their arguments. Returns the sync job.
-- Accepts an Idempotency-Key.
create or replace function public.create_sync_job(
  resources jsonb, label text default 'Untitled', integration_name text default '', args_schema jsonb default '{}',
  default_runtime_version int default 3, environment_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('resources', resources, 'label', label, 'integration', integration_name,
    'args_schema', args_schema, 'version', default_runtime_version);
  response jsonb := app.get_idempotent_response(caller, 'create_sync_job', request);
  job app.definitions;
begin
  if response is not null then
    return response;
  end if;
  perform app.require_organization(caller, environment_id);
  perform app.require_agency(caller, 'sync job');
  insert into app.definitions (agency_id, kind, name, settings, created_by, updated_by)
  values (caller.agency_id, 'sync_job', label,
    app.sync_job_settings(integration_name, resources, args_schema, default_runtime_version), caller.actor, caller.actor)
  returning * into job;
  response := app.sync_job_object(job);
  return app.save_idempotent_response(caller, 'create_sync_job', request, response);
end $$;

revoke all on function public.create_sync_job from public, anon, authenticated, service_role;
grant execute on function public.create_sync_job to anon, authenticated, service_role;

-- sync_job/public/delete_sync_job.sql
-- Stops the active runs of a sync job and deletes it; its runs stay. Returns {id}.
create or replace function public.delete_sync_job(job_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  job constant app.definitions := app.delete_definition('sync_job', job_id);
begin
  perform app.cancel_each(array(
    select e.id from app.executions as e
    where e.agency_id = job.agency_id and e.definition_id = job.id and e.status in ('queued', 'running', 'cancelling')),
    'sync job deleted');
  return jsonb_build_object('id', job.id);
end $$;

revoke all on function public.delete_sync_job from public, anon, authenticated, service_role;
grant execute on function public.delete_sync_job to anon, authenticated, service_role;

-- sync_job/public/get_sync_job.sql
-- Returns a sync job.
create or replace function public.get_sync_job(job_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return app.sync_job_object(app.find_definition('sync_job', job_id));
end $$;

revoke all on function public.get_sync_job from public, anon, authenticated, service_role;
grant execute on function public.get_sync_job to anon, authenticated, service_role;

-- sync_job/public/list_sync_jobs.sql
-- Lists the agency's sync jobs. Returns {result, next_cursor, prev_cursor, limit}.
create or replace function public.list_sync_jobs(
  filters jsonb default '[]', "limit" int default null, next_cursor text default null, prev_cursor text default null,
  sort text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  page constant record := app.filtered_page('public.sync_jobs', filters, "limit", next_cursor, prev_cursor, sort);
begin
  return app.page_response((
    select jsonb_agg(one.object order by listed.position)
    from unnest(page.ids) with ordinality as listed (id, position),
      lateral (select app.sync_job_object(d) as object from app.definitions as d where d.id = listed.id limit 1) as one), -- one lookup each
    page.next_page, page.prev_page, page.size);
end $$;

revoke all on function public.list_sync_jobs from public, anon, authenticated, service_role;
grant execute on function public.list_sync_jobs to anon, authenticated, service_role;

-- sync_job/public/update_sync_job.sql
-- Changes the given fields of a sync job. Runs that exist already keep theirs. Returns the sync job.
create or replace function public.update_sync_job(
  job_id uuid, resources jsonb default null, label text default null, integration_name text default null,
  args_schema jsonb default null, default_runtime_version int default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  job app.definitions;
begin
  -- Locked for the update at once, because two calls that first share the row would wait for each other.
  perform from app.definitions as d where d.id = job_id and d.kind = 'sync_job' and d.deleted_at is null for no key update;
  job := app.find_definition('sync_job', job_id);
  update app.definitions as d
  set name = coalesce(label, d.name),
      settings = app.sync_job_settings(
        coalesce(update_sync_job.integration_name, d.settings ->> 'integration_name'),
        coalesce(update_sync_job.resources, d.settings -> 'resources'),
        coalesce(update_sync_job.args_schema, d.settings -> 'args_schema'),
        coalesce(update_sync_job.default_runtime_version, (d.settings ->> 'default_runtime_version')::int)),
      updated_at = clock_timestamp(), updated_by = caller.actor
  where d.id = job.id
  returning * into job;
  return app.sync_job_object(job);
end $$;

revoke all on function public.update_sync_job from public, anon, authenticated, service_role;
grant execute on function public.update_sync_job to anon, authenticated, service_role;

-- sync_job_run/public/create_sync_job_run.sql
-- Queues a run of a sync job on an integrated account (a connection of type http). Its records are stored
-- (daemon_group_key) or delivered (webhook_id); exactly one of the two must be given. args: validated against the job's
-- args_schema.
-- Returns the run. Accepts an Idempotency-Key.
create or replace function public.create_sync_job_run(
  sync_job_id uuid, integrated_account_id uuid, args jsonb default '{}', webhook_id uuid default null,
  daemon_group_key text default null, error_handling text default 'fail_fast', ignore_previous_run boolean default false,
  version int default null, resources jsonb default null, events_to_send jsonb default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job', sync_job_id, 'account', integrated_account_id, 'args', args,
    'webhook', webhook_id, 'daemon', daemon_group_key, 'errors', error_handling, 'ignore', ignore_previous_run,
    'version', version, 'resources', resources, 'events', events_to_send);
  response jsonb := app.get_idempotent_response(caller, 'create_sync_job_run', request);
  job app.definitions;
  account app.connections;
  nodes jsonb;
  job_version int;
  run app.executions;
begin
  if response is not null then
    return response;
  end if;
  if (webhook_id is null) = (daemon_group_key is null) then
    perform app.raise_error(400, 'one_destination',
      'Give either daemon_group_key, to store the records, or webhook_id, to deliver them.');
  end if;
  job := app.find_definition('sync_job', sync_job_id, for_share => true);
  account := app.find_connection(integrated_account_id);
  perform app.require_source(account);
  if webhook_id is not null then
    perform app.find_webhook(webhook_id, for_share => true);
  end if;
  if account.agency_id <> job.agency_id then
    perform app.raise_error(404, 'connection_not_found', 'There is no connection with this id.');
  end if;
  job_version := (job.settings ->> 'default_runtime_version')::int;
  if version is distinct from job_version and version is not null and not (job_version = 2 and version = 3) then
    perform app.raise_error(400, 'other_version',
      'version must be that of the job.', jsonb_build_object('version', job_version));
  end if;
  if error_handling not in ('fail_fast', 'ignore', 'batch') or error_handling = 'batch' and coalesce(version, job_version) < 2 then
    perform app.raise_error(400, 'invalid_error_handling',
      'error_handling must be fail_fast, ignore or, from version 2 on, batch.');
  end if;
  perform app.require_args(job.settings -> 'args_schema', args);
  resources := coalesce(resources, job.settings -> 'resources');
  nodes := app.resource_nodes(resources);
  perform app.require_resources(account, array(select n ->> 'resource' from jsonb_array_elements(nodes) as n));

  run.agency_id := job.agency_id;
  run.family := 'sync_job_run';
  run.definition_id := job.id;
  run.connection_id := account.id;
  run.destination_id := webhook_id;
  run.spec := jsonb_build_object(
    'args', args, 'resources', resources, 'nodes', nodes, 'daemon_group_key', daemon_group_key,
    'error_handling', error_handling, 'ignore_previous_run', ignore_previous_run,
    'version', coalesce(version, job_version), 'events_to_send', events_to_send,
    'previous_run_date', case when not ignore_previous_run then (
      select max(e.started_at) from app.executions as e
      where e.agency_id = job.agency_id and e.definition_id = job.id and e.connection_id = account.id and e.status = 'completed') end,
    'write', jsonb_build_object('mode', case when webhook_id is not null then 'deliver' else 'replicate' end));
  run := app.start_execution(run);
  response := app.sync_job_run_object(run);
  return app.save_idempotent_response(caller, 'create_sync_job_run', request, response);
end $$;

revoke all on function public.create_sync_job_run from public, anon, authenticated, service_role;
grant execute on function public.create_sync_job_run to anon, authenticated, service_role;

-- sync_job_run/public/get_sync_job_run.sql
-- Returns a run, with its sync job and its counts so far.
create or replace function public.get_sync_job_run(run_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return app.sync_job_run_object(app.find_execution('sync_job_run', run_id));
end $$;

revoke all on function public.get_sync_job_run from public, anon, authenticated, service_role;
grant execute on function public.get_sync_job_run to anon, authenticated, service_role;

-- sync_job_run/public/list_sync_job_runs.sql
-- Lists the agency's runs, newest first. Returns {result, next_cursor, prev_cursor, limit}.
create or replace function public.list_sync_job_runs(
  filters jsonb default '[]', "limit" int default null, next_cursor text default null, prev_cursor text default null,
  sort text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  page constant record := app.filtered_page('public.sync_job_runs', filters, "limit", next_cursor, prev_cursor, sort);
begin
  return app.page_response((
    select jsonb_agg(one.object order by listed.position)
    from unnest(page.ids) with ordinality as listed (id, position),
      lateral (select app.sync_job_run_object(e) as object from app.executions as e where e.id = listed.id limit 1) as one), -- one lookup each
    page.next_page, page.prev_page, page.size);
end $$;

revoke all on function public.list_sync_job_runs from public, anon, authenticated, service_role;
grant execute on function public.list_sync_job_runs to anon, authenticated, service_role;

-- sync_job_run/public/stop_sync_job_run.sql
-- Stops a queued or running run at once. After it returns, nothing more is stored and no delivery begins. The run
-- stays.
-- Returns the run. 400 not_cancellable has the current_status. Accepts an Idempotency-Key.
create or replace function public.stop_sync_job_run(run_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('run_id', run_id);
  response jsonb := app.get_idempotent_response(caller, 'stop_sync_job_run', request);
  run app.executions;
begin
  if response is not null then
    return response;
  end if;
  perform app.find_execution('sync_job_run', run_id);
  -- Two statements, so that the second sees what was stored by a batch that the first waited for.
  run := app.cancel_execution('sync_job_run', run_id, null);
  response := app.sync_job_run_object(run);
  return app.save_idempotent_response(caller, 'stop_sync_job_run', request, response);
end $$;

revoke all on function public.stop_sync_job_run from public, anon, authenticated, service_role;
grant execute on function public.stop_sync_job_run to anon, authenticated, service_role;

-- webhook/public/create_webhook.sql
-- Creates a webhook that receives events at an https address. Returns it with its `secret`, which is shown only this
-- once.
create or replace function public.create_webhook(
  target_url text, event_types jsonb default '[]', is_active boolean default true, environment_id uuid default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  v_secret constant text := gen_random_uuid();
  v_id uuid;
begin
  perform app.require_organization(caller, environment_id);
  perform app.require_webhook(target_url, event_types);
  perform app.require_agency(caller, 'webhook');
  insert into app.connections as c (agency_id, kind, name, config, secret_id, created_by)
  values (caller.agency_id, 'webhook', left(target_url, 200),
    jsonb_build_object('target_url', target_url, 'event_types', event_types, 'is_active', is_active),
    app.store_secret(caller.agency_id, jsonb_build_object('secret', v_secret)), caller.actor)
  returning c.id into v_id;
  return to_jsonb(app.find_webhook(v_id)) || jsonb_build_object('secret', v_secret);
end $$;

revoke all on function public.create_webhook from public, anon, authenticated, service_role;
grant execute on function public.create_webhook to anon, authenticated, service_role;

-- webhook/public/delete_webhook.sql
-- Stops the runs that deliver to a webhook, then deletes it and its secret. Returns {id}.
create or replace function public.delete_webhook(webhook_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
begin
  perform from app.connections as c
  where c.id = webhook_id and c.kind = 'webhook' and c.deleted_at is null for no key update;
  if not found then
    perform app.find_webhook(webhook_id);
  end if;
  perform app.cancel_each(array(
    select e.id from app.executions as e
    where e.status in ('queued', 'running', 'cancelling') and e.destination_id = webhook_id), 'webhook deleted');
  update app.connections as c set deleted_at = clock_timestamp() where c.id = webhook_id;
  return jsonb_build_object('id', webhook_id);
end $$;

revoke all on function public.delete_webhook from public, anon, authenticated, service_role;
grant execute on function public.delete_webhook to anon, authenticated, service_role;

-- webhook/public/get_webhook.sql
-- Returns a webhook, without its secret.
create or replace function public.get_webhook(webhook_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
begin
  return to_jsonb(app.find_webhook(webhook_id));
end $$;

revoke all on function public.get_webhook from public, anon, authenticated, service_role;
grant execute on function public.get_webhook to anon, authenticated, service_role;

-- webhook/public/list_webhooks.sql
-- Lists the agency's webhooks, without their secrets. Returns {result, next_cursor, prev_cursor, limit}.
create or replace function public.list_webhooks(
  filters jsonb default '[]', "limit" int default null, next_cursor text default null, prev_cursor text default null,
  sort text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  page constant record := app.filtered_page('public.webhooks', filters, "limit", next_cursor, prev_cursor, sort);
begin
  return app.page_response((
    select jsonb_agg(one.object order by listed.position)
    from unnest(page.ids) with ordinality as listed (id, position),
      lateral (select to_jsonb(w) as object from public.webhooks as w where w.id = listed.id limit 1) as one), -- one lookup each
    page.next_page, page.prev_page, page.size);
end $$;

revoke all on function public.list_webhooks from public, anon, authenticated, service_role;
grant execute on function public.list_webhooks to anon, authenticated, service_role;

-- webhook/public/update_webhook.sql
-- Changes the given fields of a webhook. Returns it without its secret.
create or replace function public.update_webhook(
  webhook_id uuid, target_url text default null, event_types jsonb default null, is_active boolean default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
begin
  -- Locked for the update at once, because two calls that first share the row would wait for each other.
  perform from app.connections as c
  where c.id = webhook_id and c.kind = 'webhook' and c.deleted_at is null for no key update;
  if not found then
    perform app.find_webhook(webhook_id);
  end if;
  perform app.require_webhook(target_url, event_types);
  update app.connections as c
  set config = c.config || jsonb_strip_nulls(jsonb_build_object(
        'target_url', target_url, 'event_types', event_types, 'is_active', is_active)),
      updated_at = clock_timestamp()
  where c.id = webhook_id;
  return to_jsonb(app.find_webhook(webhook_id));
end $$;

revoke all on function public.update_webhook from public, anon, authenticated, service_role;
grant execute on function public.update_webhook to anon, authenticated, service_role;

-- worker/public/worker_ack_deleted_secret.sql
-- Deletes the row of a claimed secret (worker_claim_deleted_secrets) that the external store has deleted. Returns null.
create or replace function public.worker_ack_deleted_secret(secret_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
  delete from app.secrets as s where s.id = secret_id and s.delete_at is not null and s.used_at is not null;
  return null;
end $$;

revoke all on function public.worker_ack_deleted_secret from public, anon, authenticated, service_role;
grant execute on function public.worker_ack_deleted_secret to service_role;

-- worker/public/worker_ack_event.sql
-- Records the outcome of an attempt to send an event: it is delivered, or tried again after a growing delay, five times
-- in all. An attempt has no effect if a later one has begun. Returns {result: status | lost}.
create or replace function public.worker_ack_event(delivery_id uuid, attempt int, delivered boolean)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  v_status text;
begin
  update app.deliveries as d
  set status = case when delivered then 'delivered' when d.attempts >= 5 then 'failed' else 'queued' end,
      due_at = case when not delivered and d.attempts < 5 then clock_timestamp() + app.retry_delay(d.attempts) end,
      finished_at = case when delivered or d.attempts >= 5 then clock_timestamp() end
  where d.id = delivery_id and d.status = 'queued' and d.attempts = attempt
  returning d.status into v_status;
  return jsonb_build_object('result', coalesce(v_status, 'lost'));
end $$;

revoke all on function public.worker_ack_event from public, anon, authenticated, service_role;
grant execute on function public.worker_ack_event to service_role;

-- worker/public/worker_begin_delivery.sql
-- Records that batch `seq` is about to be sent to the execution's webhook. It is committed before each attempt to send.
-- At most one delivery is in progress, and after the lease is lost none begins. `records`: how many the batch holds.
-- Returns what app.lease_result returns, with `delivery` (its id) and `created_at`, the same for every attempt. With
-- `wanted` false the webhook does not receive this event, and nothing was recorded.
create or replace function public.worker_begin_delivery(execution_id uuid, lease_token bigint, seq bigint, event text, records int default 0)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_leased_execution(execution_id, lease_token);
  response constant jsonb := app.lease_result(execution);
  delivery app.deliveries;
begin
  if response ->> 'result' <> 'continue' then
    return response;
  end if;
  if seq is distinct from execution.seq + 1 then
    perform app.raise_error(409, 'unexpected_seq', 'seq must be ' || execution.seq + 1 || '.',
      jsonb_build_object('expected_seq', execution.seq + 1));
  end if;
  if not app.is_subscribed(execution, event) then
    return response || jsonb_build_object('wanted', false);
  end if;
  insert into app.deliveries as d (agency_id, execution_id, number, event, records, status, attempts)
  values (execution.agency_id, execution.id, seq, worker_begin_delivery.event, worker_begin_delivery.records, 'sending', 1)
  on conflict on constraint deliveries_agency_id_execution_id_number_key do update
  set status = 'sending', event = excluded.event, records = excluded.records, attempts = d.attempts + 1, finished_at = null
  where d.status in ('sending', 'unknown')
  returning * into delivery;
  return response || jsonb_build_object('wanted', true, 'delivery', delivery.id, 'created_at', delivery.created_at);
end $$;

revoke all on function public.worker_begin_delivery from public, anon, authenticated, service_role;
grant execute on function public.worker_begin_delivery to service_role;

-- worker/public/worker_claim.sql
-- Hands out at most `max_executions` queued executions of these families, oldest first, each with a new lease token, its
-- connection and the connection's secret (see app.get_secret). If the queue has fewer, executions of dead workers are
-- released and handed out too; with a longer queue that is left to the tick (worker_reap).
-- families: JSON array of names. protocol: see worker_complete_and_claim. Returns a JSON array of executions.
create or replace function public.worker_claim(
  worker text, families jsonb, max_executions int default 1, lease_seconds int default 30, protocol int default 1)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
  return public.worker_complete_and_claim('{}', worker, families, max_executions, lease_seconds, protocol) -> 'claimed';
end $$;

revoke all on function public.worker_claim from public, anon, authenticated, service_role;
grant execute on function public.worker_claim to service_role;

-- worker/public/worker_claim_deleted_secrets.sql
-- Hands out at most `max_secrets` secrets for the worker to delete in the external store: those of deleted connections,
-- and reserved ones that no connection used. Each is handed out again after five minutes unless
-- worker_ack_deleted_secret was called.
-- Returns a JSON array of {id, name}.
create or replace function public.worker_claim_deleted_secrets(max_secrets int default 100)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  claimed jsonb;
begin
  if (max_secrets between 1 and 1000) is not true then
    perform app.raise_error(400, 'invalid_limit', 'max_secrets must be 1 to 1000.');
  end if;
  with taken as (
    update app.secrets as s set used_at = coalesce(s.used_at, now()), delete_at = now() + interval '5 minutes'
    where s.id = any(array(
      select s.id from app.secrets as s
      where s.delete_at <= now()
      order by s.delete_at limit worker_claim_deleted_secrets.max_secrets for update skip locked))
    returning s.id, s.name
  )
  select coalesce(jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name) order by t.id), '[]') into claimed
  from taken as t;
  return claimed;
end $$;

revoke all on function public.worker_claim_deleted_secrets from public, anon, authenticated, service_role;
grant execute on function public.worker_claim_deleted_secrets to service_role;

-- worker/public/worker_claim_events.sql
-- Hands out at most `max_events` events about finished executions, to be sent to their webhooks. Each is handed out
-- again after a minute unless worker_ack_event was called, ten times at most. Events of a deleted webhook fail.
-- Returns a JSON array of {id, attempt, event, payload, created_at, environment_id, webhook_id, url, secret}.
create or replace function public.worker_claim_events(max_events int default 10)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  claimed jsonb;
begin
  if (max_events between 1 and 100) is not true then
    perform app.raise_error(400, 'invalid_limit', 'max_events must be 1 to 100.');
  end if;
  update app.deliveries as d set status = 'failed', due_at = null, finished_at = clock_timestamp()
  where d.id = any(array(
    select q.id from app.deliveries as q
    join app.executions as e on (e.agency_id, e.id) = (q.agency_id, q.execution_id)
    join app.connections as c on (c.agency_id, c.id) = (e.agency_id, e.destination_id)
    where q.status = 'queued' and q.due_at <= now() and (c.deleted_at is not null or q.attempts >= 10)
    order by q.due_at limit 100 for update of q skip locked));
  with taken as (
    update app.deliveries as d set attempts = d.attempts + 1, due_at = now() + interval '1 minute'
    where d.id = any(array(
      select q.id from app.deliveries as q where q.status = 'queued' and q.due_at <= now()
      order by q.due_at limit worker_claim_events.max_events for update skip locked))
    returning d.*
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'id', t.id, 'attempt', t.attempts, 'event', t.event, 'payload', app.sync_job_run_object(e), 'created_at', t.created_at,
    'environment_id', t.agency_id, 'webhook_id', c.id, 'url', c.config -> 'target_url', 'secret', app.get_secret(c.secret_id) #> '{secret,secret}')
    order by t.due_at, t.id), '[]')
  into claimed
  from taken as t
  join app.executions as e on (e.agency_id, e.id) = (t.agency_id, t.execution_id)
  join app.connections as c on (c.agency_id, c.id) = (e.agency_id, e.destination_id);
  return claimed;
end $$;

revoke all on function public.worker_claim_events from public, anon, authenticated, service_role;
grant execute on function public.worker_claim_events to service_role;

-- worker/public/worker_commit_batch.sql
-- Stores one batch with its checkpoint and progress, all or nothing, under the row's lock, so that committing is the
-- cancel check. `continue` and `cancel` mean stored, `lost` means that nothing was (see app.lease_result).
--   seq      the last committed + 1 stores; the last repeats its result, so a call whose response was lost can be repeated
--   records  JSON array of {key, data}, at most 5,000 and 16 MiB; a key (text, at most 2,000
--            bytes, because it is indexed) that exists is updated (see app.store_records)
--   errors   JSON array of messages, one for each record of the source that cannot be stored
--   done     this was the resource's last batch
--   fetched  how many records were read, if they are not among `records`: passed on only, or delivered
create or replace function public.worker_commit_batch(
  execution_id uuid, lease_token bigint, seq bigint, resource text, records jsonb, checkpoint jsonb, progress jsonb,
  done boolean default false, errors jsonb default '[]', method text default 'list', fetched int default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  size int;
  execution app.executions;
  stored record;
begin
  if (jsonb_typeof(records) = 'array' and jsonb_typeof(checkpoint) = 'object' and jsonb_typeof(progress) = 'object'
      and jsonb_typeof(errors) = 'array' and done is not null and length(method) between 1 and 50
      and octet_length(resource) between 1 and 200) is not true then
    perform app.raise_error(400, 'invalid_batch',
      'resource must have 1 to 200 bytes, records and errors must be lists, checkpoint and progress objects.');
  end if;
  size := jsonb_array_length(records);
  if size + jsonb_array_length(errors) > 5000 or fetched not between 0 and 100000 or pg_column_size(records) > 16 * 1024 * 1024 then
    perform app.raise_error(413, 'batch_too_large', 'A batch must have at most 5000 records and 16 MiB. Split it.');
  end if;
  if exists (
    select from jsonb_array_elements(records) as item
    where (jsonb_typeof(item -> 'key') = 'string' and octet_length(item ->> 'key') <= 2000 and item ? 'data') is not true
  ) then
    perform app.raise_error(400, 'invalid_batch',
      'Each record must have data and a key, a text of at most 2000 bytes.');
  end if;
  execution := app.lock_leased_execution(execution_id, lease_token);
  if execution.id is null or execution.seq = worker_commit_batch.seq and worker_commit_batch.seq > 0 then
    return app.lease_result(execution);
  end if;
  if execution.seq + 1 is distinct from worker_commit_batch.seq then
    perform app.raise_error(409, 'unexpected_seq', 'seq must be ' || execution.seq + 1 || '.',
      jsonb_build_object('expected_seq', execution.seq + 1));
  end if;

  stored := app.store_records(execution, resource, records, seq);
  size := coalesce(fetched, size + jsonb_array_length(errors));
  insert into app.execution_resources as r
    (agency_id, execution_id, resource, method, started_at, finished_at, records, inserted, updated, failed, errors)
  values
    (execution.agency_id, execution.id, worker_commit_batch.resource, worker_commit_batch.method, clock_timestamp(),
     case when done then clock_timestamp() end, size, stored.inserted, stored.updated,
     jsonb_array_length(worker_commit_batch.errors), app.append_errors('[]', worker_commit_batch.errors))
  on conflict on constraint execution_resources_pkey do update
  set finished_at = excluded.finished_at, records = r.records + excluded.records, inserted = r.inserted + excluded.inserted,
      updated = r.updated + excluded.updated, failed = r.failed + excluded.failed,
      errors = app.append_errors(r.errors, worker_commit_batch.errors);

  update app.executions as e
  set seq = worker_commit_batch.seq, checkpoint = worker_commit_batch.checkpoint, progress = worker_commit_batch.progress,
      records = e.records + size, attempts = 0,
      lease_expires_at = clock_timestamp() + make_interval(secs => e.lease_seconds)
  where e.id = execution.id;
  return app.lease_result(execution);
end $$;

revoke all on function public.worker_commit_batch from public, anon, authenticated, service_role;
grant execute on function public.worker_commit_batch to service_role;

-- worker/public/worker_complete.sql
-- Completes an execution: running or cancelling → completed. Returns {result: completed | lost}.
create or replace function public.worker_complete(execution_id uuid, lease_token bigint, progress jsonb default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_leased_execution(execution_id, lease_token);
begin
  if execution.id is null then
    return app.lease_result(execution);
  end if;
  update app.executions as e
  set status = 'completed', event = 'complete', actor = 'worker:' || e.leased_by, reason = null,
      progress = coalesce(worker_complete.progress, e.progress), error = null
  where e.id = execution.id;
  return jsonb_build_object('result', 'completed');
end $$;

revoke all on function public.worker_complete from public, anon, authenticated, service_role;
grant execute on function public.worker_complete to service_role;

-- worker/public/worker_complete_all.sql
-- Completes several executions in one commit: those that their lease still holds (see app.complete_and_claim).
-- leases: {execution_id: lease_token}, at most 100. Returns a JSON array of the completed ids; worker_complete returns
-- the result for each of the others.
create or replace function public.worker_complete_all(leases jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
  return to_jsonb((app.complete_and_claim(leases)).completed);
end $$;

revoke all on function public.worker_complete_all from public, anon, authenticated, service_role;
grant execute on function public.worker_complete_all to service_role;

-- worker/public/worker_complete_and_claim.sql
-- Completes what is done and claims what is next in one call and one commit: worker_complete_all, then worker_claim.
-- Returns {completed, claimed}, the results of the two.
-- protocol: the number of the worker's protocol, the names, arguments and results of the worker_* functions. A change that
-- older workers cannot follow gets the next number, and both are supported for one migration. An unknown number raises
-- 400 unsupported_protocol with the numbers that are supported, so that a worker stops before it has claimed anything.
create or replace function public.worker_complete_and_claim(
  leases jsonb, worker text, families jsonb, max_executions int default 1, lease_seconds int default 30,
  protocol int default 1)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan -- as in app.complete_and_claim
set lock_timeout = '5s'
set enable_seqscan = off
as $$
declare
  turn record;
  claimed uuid[];
begin
  if protocol is distinct from 1 then
    perform app.raise_error(400, 'unsupported_protocol',
      'Worker protocol ' || coalesce(protocol::text, 'null') || ' is not supported. Deploy the worker of this database''s version.',
      jsonb_build_object('supported', jsonb_build_array(1)));
  end if;
  if (max_executions between 1 and 100 and lease_seconds between 1 and 3600 and length(worker) between 1 and 200
      and jsonb_typeof(families) = 'array') is not true then
    perform app.raise_error(400, 'invalid_claim',
      'max_executions must be 1 to 100, lease_seconds 1 to 3600, worker 1 to 200 characters, and families a list.');
  end if;
  turn := app.complete_and_claim(leases, worker, families, max_executions, lease_seconds);
  claimed := turn.claimed;
  if cardinality(claimed) < max_executions and (app.reap_executions(max_executions) ->> 'released')::int > 0 then
    claimed := claimed
      || (app.complete_and_claim('{}', worker, families, max_executions - cardinality(claimed), lease_seconds)).claimed;
  end if;
  return jsonb_build_object('completed', turn.completed, 'claimed', coalesce((
    select jsonb_agg(jsonb_build_object(
      'id', e.id, 'agency_id', e.agency_id, 'family', e.family, 'lease_token', e.lease_token, 'spec', e.spec, 'seq', e.seq,
      'checkpoint', e.checkpoint, 'progress', e.progress, 'connection_id', e.connection_id, 'definition_id', e.definition_id,
      'connection', (
        select jsonb_build_object('kind', c.kind, 'config', c.config) || app.get_secret(c.secret_id)
        from app.connections as c where c.agency_id = e.agency_id and c.id = e.connection_id),
      'destination', (
        select jsonb_build_object('id', c.id, 'kind', c.kind, 'config', c.config) || app.get_secret(c.secret_id)
        from app.connections as c where c.agency_id = e.agency_id and c.id = e.destination_id)
      ) order by e.id)
    from app.executions as e where e.id = any(claimed)), '[]'));
end $$;

revoke all on function public.worker_complete_and_claim from public, anon, authenticated, service_role;
grant execute on function public.worker_complete_and_claim to service_role;

-- worker/public/worker_fail.sql
-- Reports a failure. With `retry`, the execution is queued again after a growing delay until its attempts are used up;
-- otherwise it is failed. An execution that is being cancelled is cancelled instead of retried.
-- error: {code, message}, shown to users. Returns {result: queued | failed | cancelled | lost}.
create or replace function public.worker_fail(execution_id uuid, lease_token bigint, error jsonb, retry boolean default true)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_leased_execution(execution_id, lease_token);
  v_event text;
begin
  if execution.id is null then
    return app.lease_result(execution);
  end if;
  v_event := case
    when not retry then 'fail'
    when execution.status = 'cancelling' then 'acknowledge'
    when execution.attempts + 1 >= execution.max_attempts then 'fail'
    else 'release'
  end;
  update app.executions as e
  set status = app.next_status(e.status, v_event), event = v_event, actor = 'worker:' || e.leased_by,
      reason = left(worker_fail.error ->> 'code', 500), error = worker_fail.error, attempts = e.attempts + 1,
      run_at = clock_timestamp() + app.retry_delay(e.attempts + 1)
  where e.id = execution.id
  returning * into execution;
  return jsonb_build_object('result', execution.status);
end $$;

revoke all on function public.worker_fail from public, anon, authenticated, service_role;
grant execute on function public.worker_fail to service_role;

-- worker/public/worker_heartbeat.sql
-- Extends the lease by the `lease_seconds` of its claim. Returns what app.lease_result returns.
create or replace function public.worker_heartbeat(execution_id uuid, lease_token bigint)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_leased_execution(execution_id, lease_token);
begin
  if execution.id is not null then
    update app.executions as e
    set lease_expires_at = clock_timestamp() + make_interval(secs => e.lease_seconds)
    where e.id = execution.id;
  end if;
  return app.lease_result(execution);
end $$;

revoke all on function public.worker_heartbeat from public, anon, authenticated, service_role;
grant execute on function public.worker_heartbeat to service_role;

-- worker/public/worker_queue_stats.sql
-- Counts the executions of these families that can be claimed now, up to `limit`, and returns for how long the oldest
-- has been claimable. families: JSON array of names. Returns {executions, oldest_seconds}.
create or replace function public.worker_queue_stats(families jsonb, "limit" int default 20)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  wanted text[];
begin
  if ("limit" between 1 and 100 and jsonb_typeof(families) = 'array') is not true then
    perform app.raise_error(400, 'invalid_limit', 'limit must be 1 to 100, and families a list.');
  end if;
  wanted := array(select jsonb_array_elements_text(families));
  return (
    select jsonb_build_object('executions', count(*),
      'oldest_seconds', coalesce(round(extract(epoch from now() - min(q.run_at))), 0))
    from (
      select e.run_at from app.executions as e
      where e.status = 'queued' and e.run_at <= now() and e.family = any(wanted)
      order by e.run_at, e.id limit worker_queue_stats."limit") as q);
end $$;

revoke all on function public.worker_queue_stats from public, anon, authenticated, service_role;
grant execute on function public.worker_queue_stats to service_role;

-- worker/public/worker_reap.sql
-- The tick: runs app.reap_executions, deletes idempotent responses after a day, and detaches the secrets of connections
-- under test after five minutes.
-- Returns the counts {released, failed, cancelled}, and `warnings` if users could change their agency (see
-- app.check_adopted_tables).
create or replace function public.worker_reap("limit" int default 100)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  warnings constant jsonb := (select jsonb_agg(problem) from app.check_adopted_tables());
begin
  if ("limit" between 1 and 1000) is not true then
    perform app.raise_error(400, 'invalid_limit', 'limit must be 1 to 1000.');
  end if;
  delete from app.idempotency_keys as k
  where k.id = any(array(
    select old.id from app.idempotency_keys as old
    where old.created_at < now() - interval '24 hours'
    order by old.created_at limit 1000 for update skip locked));
  update app.connections as c set secret_id = null
  where c.id = any(array(
    select tested.id from app.connections as tested
    where tested.deleted_at < now() - interval '5 minutes' and tested.secret_id is not null
    order by tested.id limit 1000 for update skip locked));
  return app.reap_executions("limit") || jsonb_strip_nulls(jsonb_build_object('warnings', warnings));
end $$;

revoke all on function public.worker_reap from public, anon, authenticated, service_role;
grant execute on function public.worker_reap to service_role;

-- worker/public/worker_release.sql
-- Ends the worker's turn by its own decision: out of time, shutting down, or cancelled. The checkpoint is kept and
-- no attempt is counted. An execution that is being cancelled is cancelled now. Returns {result: queued | cancelled |
-- lost}.
create or replace function public.worker_release(execution_id uuid, lease_token bigint, reason text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_leased_execution(execution_id, lease_token);
  v_event constant text := case execution.status when 'cancelling' then 'acknowledge' else 'release' end;
begin
  if execution.id is null then
    return app.lease_result(execution);
  end if;
  update app.executions as e
  set status = app.next_status(e.status, v_event), event = v_event, actor = 'worker:' || e.leased_by,
      reason = left(worker_release.reason, 500), run_at = clock_timestamp()
  where e.id = execution.id
  returning * into execution;
  return jsonb_build_object('result', execution.status);
end $$;

revoke all on function public.worker_release from public, anon, authenticated, service_role;
grant execute on function public.worker_release to service_role;

-- worker/public/worker_run_bulk_action_step.sql
-- One step of a bulk action, a short transaction of its own: finds its next 5,000 items and, once all are found, acts
-- on the next 500. Its rows, the bulk action's own among them, are locked in id order, as in all code that locks
-- several executions.
-- Returns what app.lease_result returns, with `more` while work is left.
create or replace function public.worker_run_bulk_action_step(execution_id uuid, lease_token bigint)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  job app.executions;
  action app.bulk_actions;
  items uuid[];
  counts record;
begin
  items := array(
    select i.item_id from app.bulk_action_items as i
    where i.execution_id = worker_run_bulk_action_step.execution_id and i.outcome is null
      and exists (select from app.bulk_actions as b where b.agency_id = i.agency_id and b.execution_id = i.execution_id and b.is_collected)
    order by i.item_id limit 500);
  perform app.lock_referenced_rows(execution_id, items);
  perform from app.executions as e where e.id = any(items || execution_id) order by e.id for update;
  job := app.lock_leased_execution(execution_id, lease_token);
  if job.id is null or job.status <> 'running' then
    return app.lease_result(job);
  end if;
  -- A step whose response was lost is called again while the first may still run. Its items are done by now.
  items := array(
    select i.item_id from app.bulk_action_items as i
    where i.execution_id = job.id and i.item_id = any(items) and i.outcome is null
    order by i.item_id);

  select * into action from app.bulk_actions as b where b.agency_id = job.agency_id and b.execution_id = job.id;
  if not found then
    insert into app.bulk_actions (agency_id, execution_id, horizon) values (job.agency_id, job.id, app.uuid_v7())
    returning * into action;
  end if;
  if not action.is_collected then
    items := app.bulk_action_matches(job.agency_id, job.spec -> 'criteria', action.collected_to, action.horizon,
      least(5000, (job.spec ->> 'max_limit')::int - action.matched));
    insert into app.bulk_action_items (agency_id, execution_id, item_id)
    select job.agency_id, job.id, item from unnest(items) as item;
    update app.bulk_actions as b
    set matched = b.matched + cardinality(items), not_started = b.not_started + cardinality(items),
        collected_to = coalesce(items[cardinality(items)], b.collected_to),
        is_collected = cardinality(items) < 5000 or b.matched + cardinality(items) >= (job.spec ->> 'max_limit')::int
    where b.agency_id = job.agency_id and b.execution_id = job.id;
    return app.lease_result(job) || jsonb_build_object('more', true);
  end if;

  select * into counts from app.act_on_items(job, items);
  update app.bulk_actions as b
  set done = b.done + counts.done, skipped = b.skipped + counts.skipped, not_started = b.not_started - cardinality(items)
  where b.agency_id = job.agency_id and b.execution_id = job.id
  returning * into action;
  update app.executions as e
  set seq = e.seq + 1, attempts = 0, lease_expires_at = clock_timestamp() + make_interval(secs => e.lease_seconds)
  where e.id = job.id;
  return app.lease_result(job) || jsonb_build_object('more', action.not_started > 0);
end $$;

revoke all on function public.worker_run_bulk_action_step from public, anon, authenticated, service_role;
grant execute on function public.worker_run_bulk_action_step to service_role;

-- worker/public/worker_stop.sql
-- Cancels an execution on behalf of its webhook, which does not want it, at once. Returns {result: cancelled | lost}.
create or replace function public.worker_stop(execution_id uuid, lease_token bigint, reason text)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_leased_execution(execution_id, lease_token);
begin
  if execution.id is null then
    return app.lease_result(execution);
  end if;
  execution := app.cancel_execution(execution.family, execution.id, reason);
  return jsonb_build_object('result', execution.status);
end $$;

revoke all on function public.worker_stop from public, anon, authenticated, service_role;
grant execute on function public.worker_stop to service_role;

notify pgrst, 'reload schema';
