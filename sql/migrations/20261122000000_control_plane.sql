-- 00_app.sql
-- Tables and rules live in `app`, which no API exposes; `public` holds what callers may use, and nothing else.
create schema app;
revoke all on schema app from public;
grant usage on schema app to authenticated, service_role;

-- 10_core/00_refuse.sql
-- Every refusal: PostgREST turns SQLSTATE PTnnn into HTTP status nnn, and the direct door does the same.
-- message = stable code, detail = a sentence, hint = further members of the answer as JSON.
create or replace function app.refuse(http_status int, code text, sentence text, members jsonb default '{}')
returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using errcode = 'PT' || http_status, message = code, detail = sentence, hint = members::text;
end $$;

revoke all on function app.refuse from public;
grant execute on function app.refuse to authenticated, service_role;

-- 10_core/01_uuid_v7.sql
-- Time-ordered ids (RFC 9562) keep the primary key's index warm; Postgres has its own only from 18 on.
create or replace function app.uuid_v7()
returns uuid
language plpgsql
volatile
set search_path = ''
as $$
declare
  milliseconds constant bytea := substring(
    pg_catalog.int8send((extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint) from 3);
  bytes bytea := overlay(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) placing milliseconds from 1 for 6);
begin
  -- A random uuid is version 4 (0100); 7 is 0111.
  bytes := pg_catalog.set_bit(pg_catalog.set_bit(bytes, 52, 1), 53, 1);
  return pg_catalog.encode(bytes, 'hex')::uuid;
end $$;

revoke all on function app.uuid_v7 from public;
grant execute on function app.uuid_v7 to authenticated, service_role;

-- 10_core/02_families.sql
-- The vocabulary of each family on one screen: how it cancels, what it calls each status, and what a stranger sees.
--   cancel_event    `cancel` ends at once; `request_cancel` leaves the worker until the deadline (`grace`)
--   queued          the word while it may start; `scheduled` while its `run_at` is still to come
--   foreign_status  the HTTP status for a row of another agency
create view app.families with (security_invoker = true) as
select * from (values
  ('historical_sync', 'cancel',         interval '0',   403, 'pending',   'pending',   'in_progress', null,        'completed', 'failed', 'cancelled'),
  ('sync_job_run',    'cancel',         interval '0',   404, 'created',   'created',   'running',     null,        'completed', 'failed', 'stopped'),
  ('bulk_sync',       'request_cancel', interval '30s', 404, 'created',   'scheduled', 'running',     'canceling', 'completed', 'failed', 'canceled'),
  ('model_sync',      'request_cancel', interval '30s', 404, 'created',   'scheduled', 'running',     'canceling', 'completed', 'failed', 'canceled'),
  ('bulk_action',     'cancel',         interval '0',   404, 'scheduled', 'scheduled', 'running',     null,        'completed', 'failed', 'cancelled')
) as vocabulary (family, cancel_event, grace, foreign_status, queued, scheduled, running, cancelling, completed, failed, cancelled);

revoke all on app.families from public;
grant select on app.families to authenticated, service_role;

-- 10_core/03_next_status.sql
-- The whole machine on one screen. Null: the move is not allowed. No move leaves completed, failed or cancelled.
create or replace function app.next_status(status text, event text)
returns text
language plpgsql
immutable
parallel safe
set search_path = ''
as $$
begin
  return (
    select move.to_status
    from (values
      (null,         'start',          'queued'),
      ('queued',     'claim',          'running'),
      ('queued',     'cancel',         'cancelled'),
      ('running',    'cancel',         'cancelled'),
      ('queued',     'request_cancel', 'cancelled'),
      ('running',    'request_cancel', 'cancelling'),
      ('cancelling', 'acknowledge',    'cancelled'),
      ('cancelling', 'expire',         'cancelled'),
      ('running',    'complete',       'completed'),
      ('cancelling', 'complete',       'completed'),
      ('running',    'fail',           'failed'),
      ('cancelling', 'fail',           'failed'),
      ('running',    'release',        'queued')
    ) as move (from_status, event, to_status)
    where move.from_status is not distinct from next_status.status and move.event = next_status.event
  );
end $$;

revoke all on function app.next_status from public;
grant execute on function app.next_status to authenticated, service_role;

-- 10_core/10_tables/10_agencies.sql
create table public.agencies (
  id uuid primary key default gen_random_uuid(),
  name text not null check (length(name) between 1 and 200),
  created_at timestamptz not null default now()
);

alter table public.agencies enable row level security;
revoke all on public.agencies from public, anon, authenticated, service_role;
grant select on public.agencies to authenticated;
grant select, insert, update, delete on public.agencies to service_role;

-- 10_core/10_tables/20_users.sql
-- The only source of a user's agency: nothing that a user can edit is asked.
create table public.users (
  id uuid primary key references auth.users on delete cascade,
  agency_id uuid references public.agencies,
  created_at timestamptz not null default now()
);

create index users_agency on public.users (agency_id);

alter table public.users enable row level security;
revoke all on public.users from public, anon, authenticated, service_role;
grant select on public.users to authenticated;
grant select, insert, update, delete on public.users to service_role;

-- 10_core/10_tables/30_connections.sql
-- A system that data comes from or goes to. `secret` is for the worker alone.
create table app.connections (
  id uuid primary key default gen_random_uuid(),
  agency_id uuid not null references public.agencies,
  kind text not null check (kind in ('http', 'records')),
  name text not null check (length(name) between 1 and 200),
  config jsonb not null default '{}' check (jsonb_typeof(config) = 'object'),
  secret jsonb not null default '{}' check (jsonb_typeof(secret) = 'object'),
  created_at timestamptz not null default now(),
  unique (agency_id, id)
);

alter table app.connections enable row level security;
revoke all on app.connections from public;
grant select (id, agency_id, kind, name, config, created_at) on app.connections to authenticated;
grant select, insert, update, delete on app.connections to service_role;

-- 10_core/10_tables/40_executions.sql
-- One row is one execution of any family; the guard trigger decides what may happen to it.
create table app.executions (
  id uuid primary key default app.uuid_v7(),
  agency_id uuid not null references public.agencies,
  family text not null,
  connection_id uuid,
  concurrency_key text, -- at most one active execution per (agency, family, key)
  spec jsonb not null default '{}', -- what to run, frozen at the start
  retry_of uuid,
  created_at timestamptz not null,
  created_by text not null,

  status text not null,
  run_at timestamptz not null default now(), -- not to be claimed before
  started_at timestamptz, -- the first claim
  finished_at timestamptz,
  deleted_at timestamptz,

  -- The last move, as the audit event will say it. Set with the move, never alone.
  event text not null,
  actor text not null,
  reason text,
  request_id text,

  -- Every claim and every fencing adds one; a worker's calls carry the lease that its claim answered.
  lease bigint not null default 0,
  leased_by text,
  lease_seconds int,
  lease_expires_at timestamptz, -- not indexed: heartbeats stay HOT
  attempts int not null default 0, -- failures and lost leases since the last committed batch
  max_attempts int not null default 5,

  seq bigint not null default 0, -- the last committed batch
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
  foreign key (agency_id, connection_id) references app.connections (agency_id, id),
  foreign key (agency_id, retry_of) references app.executions (agency_id, id) on delete set null (retry_of),

  constraint status_is_known
    check (status in ('queued', 'running', 'cancelling', 'completed', 'failed', 'cancelled')),
  constraint leased_while_running
    check ((status in ('running', 'cancelling')) = (leased_by is not null and lease_expires_at is not null)),
  constraint finished_when_terminal
    check ((status in ('completed', 'failed', 'cancelled')) = (finished_at is not null)),
  constraint cancelling_has_a_deadline
    check (status <> 'cancelling' or cancel_deadline is not null),
  constraint cancelled_by_somebody
    check (status <> 'cancelled' or (cancelled_by is not null and cancel_requested_at is not null)),
  constraint reason_is_short check (length(reason) <= 500)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01);

-- In the claim's order, claimable rows only: history costs a claim nothing.
create index executions_claimable on app.executions (run_at, id, family) where status = 'queued';
create index executions_leased on app.executions (id) where status in ('running', 'cancelling');
create unique index executions_one_active on app.executions (agency_id, family, concurrency_key)
  where status in ('queued', 'running', 'cancelling');
-- Lists, newest first (ids are time-ordered): all of a family, by status, by connection.
create index executions_newest on app.executions (agency_id, family, id desc nulls last);
create index executions_by_status on app.executions (agency_id, family, status, id desc nulls last);
create index executions_by_connection on app.executions (agency_id, connection_id, id desc nulls last, status);
create index executions_finished on app.executions (finished_at) where finished_at is not null; -- for retention
create index executions_retry_of on app.executions (agency_id, retry_of) where retry_of is not null;

alter table app.executions enable row level security;
revoke all on app.executions from public;
grant select on app.executions to authenticated;
grant insert (agency_id, family, connection_id, concurrency_key, spec, retry_of, run_at, checkpoint, progress, reason)
  on app.executions to authenticated;
grant update (status, event, reason) on app.executions to authenticated;
grant select, insert, update on app.executions to service_role;

-- 10_core/10_tables/50_execution_events.sql
-- The audit: one row per move, written by a trigger alone. Nobody holds INSERT, UPDATE or DELETE.
create table app.execution_events (
  id bigint generated always as identity primary key,
  agency_id uuid not null,
  execution_id uuid not null,
  at timestamptz not null,
  event text not null,
  from_status text,
  to_status text not null,
  lease bigint not null,
  actor text not null,
  reason text,
  request_id text,
  -- Retention drops an execution with its events; nothing else can delete one.
  foreign key (agency_id, execution_id) references app.executions (agency_id, id) on delete cascade
);

create index execution_events_execution on app.execution_events (agency_id, execution_id, id);

alter table app.execution_events enable row level security;
revoke all on app.execution_events from public;
grant select on app.execution_events to authenticated, service_role;

-- 10_core/10_tables/60_records.sql
-- Where synced rows land: the latest state of each source row, by the connection it belongs to.
-- No foreign keys: only commit_batch writes here, with ids from the execution it has locked, and a check per record costs.
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

-- 10_core/10_tables/70_idempotency_keys.sql
-- Answers that may be asked for again for a day, each written in its move's own transaction.
create table app.idempotency_keys (
  id bigint generated always as identity primary key,
  agency_id uuid, -- null: a trusted server's
  actor text not null,
  function text not null,
  key text not null check (length(key) between 1 and 255),
  request jsonb not null, -- the arguments; a request is at most 1 MiB, usually some hundred bytes
  answer jsonb not null,
  created_at timestamptz not null default now(),
  unique nulls not distinct (agency_id, actor, function, key)
);

create index idempotency_keys_age on app.idempotency_keys (created_at);

alter table app.idempotency_keys enable row level security;
revoke all on app.idempotency_keys from public;
grant select, insert, delete on app.idempotency_keys to authenticated;
-- `for update` in the reaper asks for UPDATE, though it only deletes.
grant select, insert, update, delete on app.idempotency_keys to service_role;

-- 10_core/20_caller/10_identify.sql
-- Who holds the token of this request: a definer, because callers cannot read the auth schema.
-- It reads the verified claims, never an argument, so it tells nobody about anybody else.
-- `is_live` is false for a deleted user and for a session that was signed out: as strict as asking the Auth server.
create or replace function app.identify(out user_id uuid, out agency_id uuid, out is_live boolean)
language plpgsql
stable
security definer
set search_path = ''
as $$
declare
  claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  uuid_pattern constant text := '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$';
  session constant text := claims ->> 'session_id';
begin
  is_live := false;
  if claims ->> 'sub' ~ uuid_pattern and coalesce(session ~ uuid_pattern, true) then
    select person.id, member.agency_id, true into user_id, agency_id, is_live
    from auth.users as person
    left join public.users as member on member.id = person.id
    where person.id = (claims ->> 'sub')::uuid
      and person.deleted_at is null
      -- The Auth server allows tokens without a session.
      and (session is null or exists (
        select from auth.sessions as s where s.id = session::uuid and s.user_id = person.id));
    is_live := coalesce(is_live, false);
  end if;
end $$;

revoke all on function app.identify from public;
grant execute on function app.identify to authenticated;

-- 10_core/20_caller/20_agency_id.sql
-- The agency of the policies; null, so that nothing matches, for whoever is not live or belongs to none.
create or replace function app.agency_id()
returns uuid
language plpgsql
stable
set search_path = ''
as $$
begin
  return (select identity.agency_id from app.identify() as identity where identity.is_live);
end $$;

revoke all on function app.agency_id from public;
grant execute on function app.agency_id to authenticated;

-- 10_core/20_caller/25_caller_type.sql
-- Who calls, as app.caller() answers: the agency (null: any) and the name that the audit shows.
create type app.caller as (agency_id uuid, actor text);

-- 10_core/20_caller/30_caller.sql
-- The first call of every RPC, reads included. 401: revoked or deleted; 403: a user without an agency.
-- A trusted server calls as service_role: no agency, so it acts for any.
create or replace function app.caller()
returns app.caller
language plpgsql
stable
set search_path = ''
as $$
declare
  identity record;
begin
  if current_user <> 'authenticated' then
    return (null, current_user::text)::app.caller;
  end if;
  select * into identity from app.identify();
  if not identity.is_live then
    perform app.refuse(401, 'revoked_token', 'This session has ended or its user is gone. Sign in again.');
  end if;
  if identity.agency_id is null then
    perform app.refuse(403, 'no_agency', 'Your user belongs to no agency. Ask an administrator to add you to one.');
  end if;
  return (identity.agency_id, 'user:' || identity.user_id)::app.caller;
end $$;

revoke all on function app.caller from public;
grant execute on function app.caller to authenticated, service_role;

-- 10_core/20_caller/40_request_id.sql
-- The id that the door gave this request (header x-request-id), for the audit.
create or replace function app.request_id()
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return left(nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-request-id', 100);
end $$;

revoke all on function app.request_id from public;
grant execute on function app.request_id to authenticated, service_role;

-- 10_core/20_caller/50_policies.sql
-- Whose row it is, and nothing else: a status in an UPDATE policy would hide rows from `for update`.
create policy "Users see themselves" on public.users
  for select to authenticated
  using (id = (select identity.user_id from app.identify() as identity where identity.is_live));

create policy "Members see their agency" on public.agencies
  for select to authenticated using (id = (select app.agency_id()));

create policy "Members see their agency's connections" on app.connections
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Members see their agency's executions" on app.executions
  for select to authenticated using (agency_id = (select app.agency_id()));
create policy "Members start executions of their agency" on app.executions
  for insert to authenticated with check (agency_id = (select app.agency_id()));
create policy "Members cancel executions of their agency" on app.executions
  for update to authenticated
  using (agency_id = (select app.agency_id())) with check (agency_id = (select app.agency_id()));

create policy "Members see their agency's audit" on app.execution_events
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Members see their agency's records" on app.records
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Callers see their own answers" on app.idempotency_keys
  for all to authenticated
  using (agency_id = (select app.agency_id()) and actor = (select (app.caller()).actor))
  with check (agency_id = (select app.agency_id()) and actor = (select (app.caller()).actor));

-- 10_core/25_idempotency/10_idempotency_key.sql
-- The request's Idempotency-Key header, or null.
create or replace function app.idempotency_key()
returns text
language plpgsql
stable
set search_path = ''
as $$
begin
  return nullif(nullif(current_setting('request.headers', true), '')::jsonb ->> 'idempotency-key', '');
end $$;

revoke all on function app.idempotency_key from public;
grant execute on function app.idempotency_key to authenticated, service_role;

-- 10_core/25_idempotency/20_recall_answer.sql
-- The answer that this caller was given before for this Idempotency-Key. Null: do the work, then app.remember_answer.
--   409 idempotency_key_in_use   its first use is still under way
--   422 idempotency_key_reused   it came with another request before
create or replace function app.recall_answer(caller app.caller, function text, request jsonb)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  key_ constant text := app.idempotency_key();
  known app.idempotency_keys;
begin
  if key_ is null then
    return null;
  end if;
  if length(key_) > 255 then
    perform app.refuse(400, 'invalid_idempotency_key', 'An Idempotency-Key has at most 255 characters.');
  end if;
  -- Whoever comes second is told so at once instead of waiting. The lock ends with the transaction.
  if not pg_try_advisory_xact_lock(
      hashtextextended(jsonb_build_array(caller.agency_id, caller.actor, function, key_)::text, 0)) then
    perform app.refuse(409, 'idempotency_key_in_use',
      'A request with this Idempotency-Key is still under way. Try again in a moment.');
  end if;
  select * into known from app.idempotency_keys as k
  where k.agency_id is not distinct from caller.agency_id and k.actor = caller.actor
    and k.function = recall_answer.function and k.key = key_;
  if known.created_at < now() - interval '24 hours' then
    delete from app.idempotency_keys as k where k.id = known.id;
    return null;
  end if;
  if known.request <> request then
    perform app.refuse(422, 'idempotency_key_reused', 'This Idempotency-Key came with another request. Use a new one.');
  end if;
  return known.answer;
end $$;

revoke all on function app.recall_answer from public;
grant execute on function app.recall_answer to authenticated, service_role;

-- 10_core/25_idempotency/30_remember_answer.sql
-- Stores an answer for its Idempotency-Key, if there is one, in the transaction of the move that it is about.
create or replace function app.remember_answer(caller app.caller, function text, request jsonb, answer jsonb)
returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  if app.idempotency_key() is not null then
    insert into app.idempotency_keys (agency_id, actor, function, key, request, answer)
    values (caller.agency_id, caller.actor, remember_answer.function, app.idempotency_key(),
            remember_answer.request, remember_answer.answer);
  end if;
  return answer;
end $$;

revoke all on function app.remember_answer from public;
grant execute on function app.remember_answer to authenticated, service_role;

-- 10_core/30_guard/05_apply_move.sql
-- A legal move's consequences for the row. Starting from the old row, so that a move changes nothing it does not own.
create or replace function app.apply_move(before app.executions, wanted app.executions, now_ timestamptz)
returns app.executions
language plpgsql
set search_path = ''
as $$
declare
  row_ app.executions := before;
begin
  row_.status := wanted.status;
  row_.event := wanted.event;
  row_.reason := wanted.reason;
  row_.request_id := app.request_id();
  -- Whoever cancels is asked who they are; the reaper names itself; all else is done by the worker with the lease.
  row_.actor := case
    when wanted.event in ('cancel', 'request_cancel') then (app.caller()).actor
    when wanted.actor = 'reaper' and wanted.event in ('expire', 'fail', 'release') then 'reaper'
    else 'worker:' || case wanted.event when 'claim' then wanted.leased_by else before.leased_by end
  end;

  -- From here on nothing that carries the old lease is accepted.
  if wanted.event in ('claim', 'cancel', 'request_cancel', 'expire', 'release') and wanted.status <> 'cancelling' then
    row_.lease := before.lease + 1;
  end if;

  if wanted.status = 'running' then
    row_.started_at := coalesce(before.started_at, now_);
    row_.leased_by := wanted.leased_by;
    row_.lease_seconds := wanted.lease_seconds;
    row_.lease_expires_at := now_ + make_interval(secs => wanted.lease_seconds);
  elsif wanted.status <> 'cancelling' then
    row_.leased_by := null;
    row_.lease_seconds := null;
    row_.lease_expires_at := null;
  end if;

  if wanted.event in ('complete', 'fail', 'release') then
    row_.progress := wanted.progress;
    row_.error := wanted.error;
    row_.attempts := wanted.attempts;
    row_.run_at := wanted.run_at;
  end if;

  if wanted.event in ('cancel', 'request_cancel') then
    row_.cancel_requested_at := now_;
    row_.cancelled_by := row_.actor;
    row_.cancel_reason := wanted.reason;
    row_.cancel_deadline := now_ + (select f.grace from app.families as f where f.family = before.family);
  end if;

  if wanted.status in ('completed', 'failed', 'cancelled') then
    row_.finished_at := now_;
  end if;
  return row_;
end $$;

revoke all on function app.apply_move from public;
grant execute on function app.apply_move to authenticated, service_role;

-- 10_core/30_guard/10_guard_execution.sql
-- What the database allows, whoever asks: authenticated users start and cancel, trusted roles make the other legal
-- moves, and nobody makes an illegal one. It alone sets lease, actor of a user, and timestamps; it runs after the
-- row is locked, hence clock_timestamp(). SECURITY INVOKER: current_user is whoever it really is.
create or replace function app.guard_execution()
returns trigger
language plpgsql
set search_path = ''
as $$
declare
  by_user constant boolean := current_user = 'authenticated';
  owner constant text := pg_catalog.pg_get_userbyid((select c.relowner from pg_catalog.pg_class c where c.oid = tg_relid));
  now_ constant timestamptz := clock_timestamp();
  probe app.executions;
begin
  if not by_user and current_user not in ('service_role', owner) then
    perform app.refuse(403, 'role_not_allowed', 'This role may not change executions.');
  end if;

  if tg_op = 'TRUNCATE' then
    perform app.refuse(403, 'not_deletable', 'Only retention deletes executions, and only finished ones.');
  end if;

  if tg_op = 'DELETE' then
    if current_user <> owner or old.finished_at is null then
      perform app.refuse(403, 'not_deletable', 'Only retention deletes executions, and only finished ones.');
    end if;
    return old;
  end if;

  if tg_op = 'INSERT' then
    if not exists (select from app.families as f where f.family = new.family) then
      perform app.refuse(400, 'unknown_family', 'There is no such family of executions.');
    end if;
    new.status := 'queued';
    new.event := 'start';
    new.actor := (app.caller()).actor;
    new.request_id := app.request_id();
    new.created_at := now_;
    new.created_by := new.actor;
    -- Everything that moves set begins empty, whatever the statement said.
    select 0, null, null, null, 0, 0, 0, null, null, null, null, null, null, null, null
    into new.lease, new.leased_by, new.lease_seconds, new.lease_expires_at, new.attempts, new.seq, new.records,
      new.error, new.started_at, new.finished_at, new.deleted_at,
      new.cancel_requested_at, new.cancel_deadline, new.cancelled_by, new.cancel_reason;
    return new;
  end if;

  if new.status = old.status then
    -- No move. A finished row may be marked as deleted; a leased one moves forward; anything else is refused,
    -- but for the foreign key's own update, when retention drops what this execution retried.
    probe := new;
    if new.retry_of is null and old.retry_of is not null
       and not exists (select from app.executions as e where e.id = old.retry_of) then
      probe.retry_of := old.retry_of;
    end if;
    if old.finished_at is not null then
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
      perform app.refuse(403, 'not_a_move', 'An execution changes by its moves alone.', jsonb_build_object('current_status', old.status));
    end if;
    return new;
  end if;

  if app.next_status(old.status, new.event) is distinct from new.status
     or by_user and new.event not in ('cancel', 'request_cancel')
     or new.event in ('cancel', 'request_cancel')
       and new.event <> (select f.cancel_event from app.families as f where f.family = old.family) then
    perform app.refuse(409, 'illegal_move', 'An execution that is ' || old.status || ' cannot do that.', jsonb_build_object('current_status', old.status));
  end if;
  return app.apply_move(old, new, now_);
end $$;

revoke all on function app.guard_execution from public;

-- 10_core/30_guard/20_record_event.sql
-- The only writer of the audit: a definer, because nobody holds INSERT on it.
create or replace function app.record_event()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  insert into app.execution_events
    (agency_id, execution_id, at, event, from_status, to_status, lease, actor, reason, request_id)
  values
    (new.agency_id, new.id, clock_timestamp(), new.event, case when tg_op = 'UPDATE' then old.status end, new.status,
     new.lease, new.actor, new.reason, new.request_id);
  return null;
end $$;

revoke all on function app.record_event from public;

-- 10_core/30_guard/25_guard_event.sql
-- The audit is closed to its owner too: an event comes from a move's trigger, and goes with its execution (the foreign
-- key's cascade), so either is done from inside another trigger.
create or replace function app.guard_event()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if tg_op in ('UPDATE', 'TRUNCATE') or pg_trigger_depth() < 2 then
    perform app.refuse(403, 'audit_is_closed', 'The audit is written by moves alone.');
  end if;
  return null;
end $$;

revoke all on function app.guard_event from public;

-- 10_core/30_guard/30_triggers.sql
create trigger guard before insert or update or delete on app.executions
  for each row execute function app.guard_execution();
create trigger guard_truncate before truncate on app.executions
  for each statement execute function app.guard_execution();

create trigger audit_start after insert on app.executions
  for each row execute function app.record_event();
create trigger audit_move after update on app.executions
  for each row when (old.status is distinct from new.status) execute function app.record_event();

create trigger guard before insert or update or delete or truncate on app.execution_events
  for each statement execute function app.guard_event();

-- 10_core/40_executions/10_status_word.sql
-- What the family calls this execution's status. One that has begun before reads as running while it waits again.
create or replace function app.status_word(execution app.executions)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  word app.families;
begin
  select * into word from app.families as f where f.family = execution.family;
  return case execution.status
    when 'queued' then case
      when execution.started_at is not null then word.running
      when execution.run_at > now() then word.scheduled
      else word.queued end
    when 'running' then word.running
    when 'cancelling' then word.cancelling
    when 'completed' then word.completed
    when 'failed' then word.failed
    when 'cancelled' then word.cancelled
  end;
end $$;

revoke all on function app.status_word from public;
grant execute on function app.status_word to authenticated, service_role;

-- 10_core/40_executions/20_exists_elsewhere.sql
-- Tells a stranger's row from no row at all, and nothing else about it.
create or replace function app.exists_elsewhere(kind text, id uuid)
returns boolean
language plpgsql
stable
security definer
set search_path = ''
as $$
begin
  return case kind
    when 'connection' then exists (select from app.connections as c where c.id = exists_elsewhere.id)
    else exists (
      select from app.executions as e
      where e.id = exists_elsewhere.id and e.family = kind and e.deleted_at is null)
  end;
end $$;

revoke all on function app.exists_elsewhere from public;
grant execute on function app.exists_elsewhere to authenticated, service_role;

-- 10_core/40_executions/30_refuse_missing.sql
-- For a row that the caller cannot see: 403 where the family's document says so, else 404. `noun`: job, connection, …
create or replace function app.refuse_missing(family text, kind text, noun text, id uuid)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  shows_foreign constant boolean := exists (
    select from app.families as f where f.family = refuse_missing.family and f.foreign_status = 403);
begin
  if shows_foreign and app.exists_elsewhere(kind, id) then
    perform app.refuse(403, noun || '_of_another_agency', 'This ' || noun || ' belongs to another agency.');
  end if;
  perform app.refuse(404, noun || '_not_found', 'There is no ' || noun || ' with this id.');
end $$;

revoke all on function app.refuse_missing from public;
grant execute on function app.refuse_missing to authenticated, service_role;

-- 10_core/40_executions/40_cancel_execution.sql
-- A caller's cancel, for every family. The lock is a statement of its own: what follows sees the row as it is now,
-- so of a cancel and an outcome exactly one wins, and the row tells which.
create or replace function app.cancel_execution(family text, id uuid, reason text)
returns app.executions
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  caller constant app.caller := app.caller();
  cancel_event constant text := (select f.cancel_event from app.families as f where f.family = cancel_execution.family);
  execution app.executions;
  was_running boolean;
  next_ text;
begin
  if length(reason) > 500 then
    perform app.refuse(400, 'reason_too_long', 'The reason may have at most 500 characters.');
  end if;
  select * into execution from app.executions as e
  where e.id = cancel_execution.id and e.family = cancel_execution.family and e.deleted_at is null
  for update;
  if not found then
    perform app.refuse_missing(family, family, 'job', id);
  end if;

  next_ := app.next_status(execution.status, cancel_event);
  if next_ is null then
    perform app.refuse(400, 'not_cancellable',
      'This job is ' || app.status_word(execution) || ' and can no longer be cancelled.',
      jsonb_build_object('current_status', app.status_word(execution)));
  end if;

  was_running := execution.status = 'running';
  update app.executions as e
  set status = next_, event = cancel_event, reason = cancel_execution.reason
  where e.id = execution.id
  returning * into execution;
  if was_running then
    -- A hint for the worker, which asks the row before it believes it.
    perform pg_notify('execution_cancelled', execution.id::text);
  end if;
  return execution;
end $$;

revoke all on function app.cancel_execution from public;
grant execute on function app.cancel_execution to authenticated, service_role;

-- 10_core/40_executions/50_start_execution.sql
-- Queues an execution and wakes a worker; of `wanted`, what a caller may choose. With a concurrency key there is at most
-- one active execution: then 409 already_active, and its id.
create or replace function app.start_execution(wanted app.executions)
returns app.executions
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  started app.executions;
  active uuid;
begin
  loop
    insert into app.executions
      (agency_id, family, connection_id, concurrency_key, spec, run_at, retry_of, checkpoint, progress)
    values
      (wanted.agency_id, wanted.family, wanted.connection_id, wanted.concurrency_key, wanted.spec,
       coalesce(wanted.run_at, now()), wanted.retry_of, wanted.checkpoint, coalesce(wanted.progress, '{}'))
    on conflict (agency_id, family, concurrency_key) where status in ('queued', 'running', 'cancelling') do nothing
    returning * into started;
    exit when found;

    select e.id into active from app.executions as e
    where e.agency_id = wanted.agency_id and e.family = wanted.family
      and e.concurrency_key = wanted.concurrency_key and e.status in ('queued', 'running', 'cancelling');
    if found then
      perform app.refuse(409, 'already_active', 'A job is already active here. Wait for it, or cancel it first.',
        jsonb_build_object('job_id', active));
    end if;
    -- It ended between the two statements: try again.
  end loop;
  perform pg_notify('execution_queued', wanted.family);
  return started;
end $$;

revoke all on function app.start_execution from public;
grant execute on function app.start_execution to authenticated, service_role;

-- 10_core/40_executions/60_drop_finished.sql
-- Retention: drops finished executions with their events, at most `limit_` of them. For the owner alone.
create or replace function app.drop_finished(older_than interval, limit_ int default 1000)
returns int
language plpgsql
set search_path = ''
as $$
declare
  dropped int;
begin
  delete from app.executions as e
  where e.id = any(array(
    select f.id from app.executions as f
    where f.finished_at < now() - older_than
    order by f.finished_at limit limit_ for update skip locked));
  get diagnostics dropped = row_count;
  return dropped;
end $$;

revoke all on function app.drop_finished from public;

-- 10_core/40_executions/70_words_statuses.sql
-- Which statuses a family's word may stand for: the index narrows by these, app.status_word decides. A word that the
-- family does not have is refused.
create or replace function app.words_statuses(family text, word text)
returns text[]
language plpgsql
stable
set search_path = ''
as $$
declare
  v app.families;
  statuses text[];
begin
  select * into v from app.families as f where f.family = words_statuses.family;
  statuses := array_remove(array[
    case when word in (v.queued, v.scheduled, v.running) then 'queued' end,
    case when word = v.running then 'running' end,
    case when word = v.cancelling then 'cancelling' end,
    case when word = v.completed then 'completed' end,
    case when word = v.failed then 'failed' end,
    case when word = v.cancelled then 'cancelled' end], null);
  if statuses = '{}' then
    perform app.refuse(400, 'unknown_status', 'There is no such status.', jsonb_build_object('known',
      (select jsonb_agg(distinct known) from unnest(array[v.queued, v.scheduled, v.running, v.cancelling, v.completed,
        v.failed, v.cancelled]) as known where known is not null)));
  end if;
  return statuses;
end $$;

revoke all on function app.words_statuses from public;
grant execute on function app.words_statuses to authenticated, service_role;

-- 20_worker/10_lock_lease.sql
-- The fence of every worker call: the execution, locked, if this lease still holds it; else null.
create or replace function app.lock_lease(id uuid, lease bigint)
returns app.executions
language plpgsql
set search_path = ''
as $$
declare
  execution app.executions;
begin
  select * into execution from app.executions as e where e.id = lock_lease.id for update;
  if execution.lease = lock_lease.lease and execution.status in ('running', 'cancelling') then
    return execution;
  end if;
  return null;
end $$;

revoke all on function app.lock_lease from public;
grant execute on function app.lock_lease to service_role;

-- 20_worker/20_lease_answer.sql
-- What every worker call answers: `continue`; `cancel` (with its deadline: stop, then release); `lost`: nothing was
-- stored or changed, and nothing with this lease ever will be.
create or replace function app.lease_answer(execution app.executions)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
  return case execution.status
    when 'running' then jsonb_build_object('answer', 'continue')
    when 'cancelling' then jsonb_build_object('answer', 'cancel', 'deadline', execution.cancel_deadline)
    else jsonb_build_object('answer', 'lost')
  end;
end $$;

revoke all on function app.lease_answer from public;
grant execute on function app.lease_answer to service_role;

-- 20_worker/30_retry_delay.sql
-- How long an execution waits after its nth failure in a row: 2 s, 4 s, 8 s … at most 5 minutes.
create or replace function app.retry_delay(attempts int)
returns interval
language plpgsql
immutable
set search_path = ''
as $$
begin
  return make_interval(secs => least(2 ^ least(attempts, 10), 300));
end $$;

revoke all on function app.retry_delay from public;
grant execute on function app.retry_delay to service_role;

-- 20_worker/40_reap_executions.sql
-- Takes back what dead workers hold: a lost lease is queued again, or failed after the last attempt; a cancel that
-- nobody acknowledged in time is forced. Rows that somebody has locked are alive and left alone.
-- Answer: {released, failed, cancelled}, counts.
create or replace function app.reap_executions("limit" int)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  dead app.executions;
  event_ text;
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
    event_ := case
      when dead.status = 'cancelling' then 'expire'
      when dead.attempts + 1 >= dead.max_attempts then 'fail'
      else 'release'
    end;
    update app.executions as e
    set status = app.next_status(e.status, event_), event = event_, actor = 'reaper',
        reason = case when dead.lease_expires_at < clock_timestamp() then 'lease_expired' else 'cancel_deadline' end,
        attempts = e.attempts + 1, run_at = now(), -- not clock_timestamp(): a claim that reaps may take it at once
        error = case event_
          when 'fail' then jsonb_build_object('code', 'worker_lost', 'message', 'The worker stopped answering too often.')
          else e.error end
    where e.id = dead.id;
    released := released + (event_ = 'release')::int;
    failed := failed + (event_ = 'fail')::int;
    cancelled := cancelled + (event_ = 'expire')::int;
  end loop;
  return jsonb_build_object('released', released, 'failed', failed, 'cancelled', cancelled);
end $$;

revoke all on function app.reap_executions from public;
grant execute on function app.reap_executions to service_role;

-- 20_worker/public/claim.sql
-- Hands at most `limit` queued executions of these families to a worker, oldest first, each with a new lease, its
-- connection and the connection's secret. What a dead worker left behind is released first.
-- families: JSON array of family names. Answer: JSON array of executions.
create or replace function public.claim(worker text, families jsonb, "limit" int default 1, lease_seconds int default 30)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  wanted text[];
  claimed jsonb;
begin
  if ("limit" between 1 and 100 and lease_seconds between 1 and 3600 and length(worker) between 1 and 200
      and jsonb_typeof(families) = 'array') is not true then
    perform app.refuse(400, 'invalid_claim',
      'limit is 1 to 100, lease_seconds 1 to 3600, worker 1 to 200 characters, families a list.');
  end if;
  wanted := array(select jsonb_array_elements_text(families));
  perform app.reap_executions("limit");

  with taken as (
    update app.executions as e
    set status = 'running', event = 'claim', actor = 'worker:' || worker, reason = null,
        leased_by = worker, lease_seconds = claim.lease_seconds
    where e.id = any(array(
      select q.id from app.executions as q
      where q.status = 'queued' and q.run_at <= now() and q.family = any(wanted)
      order by q.run_at, q.id
      limit claim."limit"
      for update skip locked))
    returning e.*
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'id', t.id, 'agency_id', t.agency_id, 'family', t.family, 'lease', t.lease, 'spec', t.spec, 'seq', t.seq,
    'checkpoint', t.checkpoint, 'progress', t.progress, 'connection_id', t.connection_id,
    'connection', (
      select jsonb_build_object('kind', c.kind, 'config', c.config, 'secret', c.secret)
      from app.connections as c where c.agency_id = t.agency_id and c.id = t.connection_id)
  ) order by t.id), '[]')
  into claimed
  from taken as t;
  return claimed;
end $$;

revoke all on function public.claim from public, anon, authenticated, service_role;
grant execute on function public.claim to service_role;

-- 20_worker/public/commit_batch.sql
-- Stores one batch with its checkpoint and progress, all or nothing, under the row's lock: to persist is to ask
-- whether to go on. `continue` and `cancel` mean stored, `lost` means nothing was (see app.lease_answer).
--   seq      the last committed + 1 stores; the last repeats its answer, so a lost answer can be asked for again
--   records  JSON array of {key, data}, at most 5,000 and 16 MiB; a key (text, at most 2,000 bytes: it is indexed) sent
--            before is replaced
create or replace function public.commit_batch(
  execution_id uuid, lease bigint, seq bigint, resource text, records jsonb, checkpoint jsonb, progress jsonb)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  size int;
  execution app.executions;
begin
  if (jsonb_typeof(records) = 'array' and jsonb_typeof(checkpoint) = 'object' and jsonb_typeof(progress) = 'object'
      and octet_length(resource) between 1 and 200) is not true then
    perform app.refuse(400, 'invalid_batch',
      'A batch has a resource of 1 to 200 bytes, a list of records, and a checkpoint and progress that are objects.');
  end if;
  size := jsonb_array_length(records);
  if size > 5000 or pg_column_size(records) > 16 * 1024 * 1024 then
    perform app.refuse(413, 'batch_too_large', 'A batch has at most 5000 records and 16 MiB.');
  end if;
  if exists (
    select from jsonb_array_elements(records) as item
    where (jsonb_typeof(item -> 'key') = 'string' and octet_length(item ->> 'key') <= 2000 and item ? 'data') is not true
  ) then
    perform app.refuse(400, 'invalid_batch', 'A record has a key, which is a text of at most 2000 bytes, and data.');
  end if;
  execution := app.lock_lease(execution_id, lease);
  if execution.id is null or execution.seq = commit_batch.seq and commit_batch.seq > 0 then
    return app.lease_answer(execution);
  end if;
  if execution.seq + 1 is distinct from commit_batch.seq then
    perform app.refuse(409, 'unexpected_seq', 'The next batch is number ' || execution.seq + 1 || '.',
      jsonb_build_object('expected_seq', execution.seq + 1));
  end if;

  -- Sorted, so that two executions of one connection lock records in one order; of a repeated key the last counts.
  insert into app.records as r (agency_id, connection_id, resource, key, data, execution_id, stored_at)
  select distinct on (item.value ->> 'key')
    execution.agency_id, execution.connection_id, commit_batch.resource,
    item.value ->> 'key', item.value -> 'data', execution.id, clock_timestamp()
  from jsonb_array_elements(commit_batch.records) with ordinality as item (value, position)
  order by item.value ->> 'key', item.position desc
  on conflict on constraint records_pkey do update
  set data = excluded.data, execution_id = excluded.execution_id, stored_at = excluded.stored_at;

  update app.executions as e
  set seq = commit_batch.seq, checkpoint = commit_batch.checkpoint, progress = commit_batch.progress,
      records = e.records + size, attempts = 0,
      lease_expires_at = clock_timestamp() + make_interval(secs => e.lease_seconds)
  where e.id = execution.id;
  return app.lease_answer(execution);
end $$;

revoke all on function public.commit_batch from public, anon, authenticated, service_role;
grant execute on function public.commit_batch to service_role;

-- 20_worker/public/fail.sql
-- The work failed. With `retry` it is queued again after a growing delay, until its attempts are used up; without,
-- or then, it is failed. One that was being cancelled is cancelled instead of retried.
-- error: {code, message}, shown to users. Answer: {answer: queued | failed | cancelled | lost}.
create or replace function public.fail(execution_id uuid, lease bigint, error jsonb, retry boolean default true)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_lease(execution_id, lease);
  event_ text;
begin
  if execution.id is null then
    return app.lease_answer(execution);
  end if;
  event_ := case
    when not retry then 'fail'
    when execution.status = 'cancelling' then 'acknowledge'
    when execution.attempts + 1 >= execution.max_attempts then 'fail'
    else 'release'
  end;
  update app.executions as e
  set status = app.next_status(e.status, event_), event = event_, actor = 'worker:' || e.leased_by,
      reason = left(fail.error ->> 'code', 500), error = fail.error, attempts = e.attempts + 1,
      run_at = clock_timestamp() + app.retry_delay(e.attempts + 1)
  where e.id = execution.id
  returning * into execution;
  return jsonb_build_object('answer', execution.status);
end $$;

revoke all on function public.fail from public, anon, authenticated, service_role;
grant execute on function public.fail to service_role;

-- 20_worker/public/finish.sql
-- The work is done: running or cancelling → completed. Answer: {answer: completed | lost}.
create or replace function public.finish(execution_id uuid, lease bigint, progress jsonb default null)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_lease(execution_id, lease);
begin
  if execution.id is null then
    return app.lease_answer(execution);
  end if;
  update app.executions as e
  set status = 'completed', event = 'complete', actor = 'worker:' || e.leased_by, reason = null,
      progress = coalesce(finish.progress, e.progress), error = null
  where e.id = execution.id;
  return jsonb_build_object('answer', 'completed');
end $$;

revoke all on function public.finish from public, anon, authenticated, service_role;
grant execute on function public.finish to service_role;

-- 20_worker/public/heartbeat.sql
-- Keeps the lease for another `lease_seconds` of its claim. Answer: see app.lease_answer.
create or replace function public.heartbeat(execution_id uuid, lease bigint)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_lease(execution_id, lease);
begin
  if execution.id is not null then
    update app.executions as e
    set lease_expires_at = clock_timestamp() + make_interval(secs => e.lease_seconds)
    where e.id = execution.id;
  end if;
  return app.lease_answer(execution);
end $$;

revoke all on function public.heartbeat from public, anon, authenticated, service_role;
grant execute on function public.heartbeat to service_role;

-- 20_worker/public/reap.sql
-- The tick: app.reap_executions, and answers that were remembered for a day are forgotten.
-- Answer: {released, failed, cancelled}, counts of executions.
create or replace function public.reap("limit" int default 100)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
begin
  if ("limit" between 1 and 1000) is not true then
    perform app.refuse(400, 'invalid_limit', 'limit is 1 to 1000.');
  end if;
  delete from app.idempotency_keys as k
  where k.id = any(array(
    select old.id from app.idempotency_keys as old
    where old.created_at < now() - interval '24 hours'
    order by old.created_at limit 1000 for update skip locked));
  return app.reap_executions("limit");
end $$;

revoke all on function public.reap from public, anon, authenticated, service_role;
grant execute on function public.reap to service_role;

-- 20_worker/public/release.sql
-- The worker stops here of its own accord: out of time, shutting down, or told to cancel. The checkpoint is kept and no
-- attempt is counted; one that is being cancelled is cancelled now. Answer: {answer: queued | cancelled | lost}.
create or replace function public.release(execution_id uuid, lease bigint, reason text default null)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  execution app.executions := app.lock_lease(execution_id, lease);
  event_ constant text := case execution.status when 'cancelling' then 'acknowledge' else 'release' end;
begin
  if execution.id is null then
    return app.lease_answer(execution);
  end if;
  update app.executions as e
  set status = app.next_status(e.status, event_), event = event_, actor = 'worker:' || e.leased_by,
      reason = left(release.reason, 500), run_at = clock_timestamp()
  where e.id = execution.id
  returning * into execution;
  return jsonb_build_object('answer', execution.status);
end $$;

revoke all on function public.release from public, anon, authenticated, service_role;
grant execute on function public.release to service_role;

-- 30_historical_sync/10_historical_sync_jobs.sql
-- The family's jobs in its own words. security_invoker: the caller's policies decide which rows.
-- windows_done, windows_total: of the date range, null until its worker has begun (a retry knows at once).
-- eta_seconds: at this job's own pace (windows_before were done when it began), so null until it has done one.
create view public.historical_sync_jobs with (security_invoker = true) as
select
  e.id as job_id,
  e.agency_id,
  e.connection_id,
  app.status_word(e) as status,
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
  -- Where it stands. The page is left out: it may hold what the source meant for the worker alone.
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

-- 30_historical_sync/15_historical_sync_object.sql
-- One job as callers see it.
create or replace function app.historical_sync_object(job public.historical_sync_jobs)
returns jsonb
language plpgsql
stable
set search_path = ''
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

revoke all on function app.historical_sync_object from public;
grant execute on function app.historical_sync_object to authenticated, service_role;

-- 30_historical_sync/20_historical_sync_spec.sql
-- What a historical sync will run, checked before it exists: {date_from, date_to, resources}, every resource one that
-- the connection has (all of them when none is named).
create or replace function app.historical_sync_spec(connection app.connections, date_from date, date_to date, resources jsonb)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  available constant jsonb := case jsonb_typeof(connection.config -> 'resources')
    when 'object' then connection.config -> 'resources' else '{}' end;
  unknown text;
begin
  -- Of the years that others can read too: no infinity, none before Christ.
  if ('0001-01-01' <= date_from and date_from <= date_to and date_to <= '9999-12-31') is not true then
    perform app.refuse(400, 'invalid_dates', 'date_from and date_to are dates, the first not after the second.');
  end if;
  if connection.kind = 'records' then
    perform app.refuse(400, 'not_a_source', 'This connection receives records. Choose one that can be read from.');
  end if;
  if resources is null then
    resources := (select jsonb_agg(name) from jsonb_object_keys(available) as name);
  end if;
  if jsonb_typeof(resources) is distinct from 'array' or jsonb_array_length(resources) = 0 then
    perform app.refuse(400, 'invalid_resources', 'resources is a list of at least one name; leave it out for all.');
  end if;
  select name into unknown from jsonb_array_elements_text(resources) as name where (available ? name) is not true limit 1;
  if found then
    perform app.refuse(400, 'unknown_resource', 'This connection has no resource of that name.',
      jsonb_build_object('resource', left(unknown, 200), 'available', array(select jsonb_object_keys(available))));
  end if;
  return jsonb_build_object('date_from', date_from, 'date_to', date_to, 'resources',
    (select jsonb_agg(distinct name) from jsonb_array_elements_text(resources) as name));
end $$;

revoke all on function app.historical_sync_spec from public;
grant execute on function app.historical_sync_spec to authenticated, service_role;

-- 30_historical_sync/public/cancel_sync_job.sql
-- Cancels a historical sync that is pending or in progress; when it answers, nothing more of that job is accepted.
-- Answer: {job_id, status}. 400 not_cancellable names the current_status. Heeds an Idempotency-Key.
create or replace function public.cancel_sync_job(job_id uuid, reason text default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job_id', job_id, 'reason', reason);
  answer jsonb := app.recall_answer(caller, 'cancel_sync_job', request);
  cancelled app.executions;
begin
  if answer is not null then
    return answer;
  end if;
  cancelled := app.cancel_execution('historical_sync', job_id, reason);
  answer := jsonb_build_object('job_id', cancelled.id, 'status', app.status_word(cancelled));
  return app.remember_answer(caller, 'cancel_sync_job', request, answer);
end $$;

revoke all on function public.cancel_sync_job from public, anon, authenticated, service_role;
grant execute on function public.cancel_sync_job to authenticated, service_role;

-- 30_historical_sync/public/get_historical_sync.sql
-- One historical sync: status, progress, position, error, who cancelled it and why, timestamps.
create or replace function public.get_historical_sync(job_id uuid)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  job public.historical_sync_jobs;
begin
  select * into job from public.historical_sync_jobs as j where j.job_id = get_historical_sync.job_id;
  if not found then
    perform app.refuse_missing('historical_sync', 'historical_sync', 'job', job_id);
  end if;
  return app.historical_sync_object(job);
end $$;

revoke all on function public.get_historical_sync from public, anon, authenticated, service_role;
grant execute on function public.get_historical_sync to authenticated, service_role;

-- 30_historical_sync/public/list_historical_syncs.sql
-- The caller's historical syncs, newest first, at most `limit` (1 to 100). status: a word of the family; cursor: the
-- `next_cursor` of the answer before. Ids are ordered by time and a page begins after one, so a walk neither skips nor
-- repeats what was there when it began, whatever is started meanwhile. Answer: {jobs, next_cursor}; null ends.
create or replace function public.list_historical_syncs(
  status text default null, connection_id uuid default null, "limit" int default 20, cursor uuid default null)
returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  size constant int := coalesce("limit", 20);
  -- A connection has one agency: a trusted server that names one finds its executions as fast.
  of_agency constant boolean := caller.agency_id is not null or connection_id is not null;
  agency constant uuid := coalesce(caller.agency_id, (select c.agency_id from app.connections as c where c.id = connection_id));
  statuses constant text[] := case when status is not null then app.words_statuses('historical_sync', status) end;
  jobs jsonb;
  ids uuid[];
begin
  if size not between 1 and 100 then
    perform app.refuse(400, 'invalid_limit', 'limit is a number from 1 to 100.');
  end if;
  -- Planned for the filters at hand: each combination has its index. `nulls last` is the order of an agency's indexes and
  -- not of the primary key's, which would be read past all other agencies' rows.
  execute 'select array(select e.id from app.executions as e where e.family = ''historical_sync'' and e.deleted_at is null'
    || case when of_agency then ' and e.agency_id = $1' else '' end
    || case when connection_id is not null then ' and e.connection_id = $2' else '' end
    || case when cardinality(statuses) = 1 then ' and e.status = ($3)[1]' when status is not null then ' and e.status = any($3)' else '' end
    || case when 'queued' = any(statuses) then ' and app.status_word(e) = $4' else '' end
    || case when cursor is not null then ' and e.id < $5' else '' end
    || ' order by e.id desc' || case when of_agency then ' nulls last' else '' end || ' limit $6)'
  into ids
  using agency, connection_id, statuses, status, cursor, size + 1;

  select jsonb_agg(app.historical_sync_object(j) order by j.job_id desc) into jobs
  from unnest(ids[:size]) as listed (id) join public.historical_sync_jobs as j on j.job_id = listed.id; -- one by one
  return jsonb_build_object(
    'jobs', coalesce(jobs, '[]'),
    'next_cursor', case when cardinality(ids) > size then ids[size] end);
end $$;

revoke all on function public.list_historical_syncs from public, anon, authenticated, service_role;
grant execute on function public.list_historical_syncs to authenticated, service_role;

-- 30_historical_sync/public/retry_historical_sync.sql
-- Continues a failed or cancelled historical sync where it stood, as a new job: same range, checkpoint copied.
-- Answer: {job_id, status, retry_of}. 400 not_retryable names the current_status. Heeds an Idempotency-Key.
create or replace function public.retry_historical_sync(job_id uuid)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('job_id', job_id);
  answer jsonb := app.recall_answer(caller, 'retry_historical_sync', request);
  ended app.executions;
  started app.executions;
begin
  if answer is not null then
    return answer;
  end if;
  select * into ended from app.executions as e
  where e.id = retry_historical_sync.job_id and e.family = 'historical_sync' and e.deleted_at is null;
  if not found then
    perform app.refuse_missing('historical_sync', 'historical_sync', 'job', job_id);
  end if;
  if ended.status not in ('failed', 'cancelled') then
    perform app.refuse(400, 'not_retryable', 'Only a failed or cancelled job can be retried.',
      jsonb_build_object('current_status', app.status_word(ended)));
  end if;

  started := ended;
  started.retry_of := ended.id;
  started.run_at := null;
  if ended.progress ? 'windows_done' then
    started.progress := ended.progress || jsonb_build_object('windows_before', ended.progress -> 'windows_done');
  end if;
  started := app.start_execution(started);
  answer := jsonb_build_object('job_id', started.id, 'status', app.status_word(started), 'retry_of', started.retry_of);
  return app.remember_answer(caller, 'retry_historical_sync', request, answer);
end $$;

revoke all on function public.retry_historical_sync from public, anon, authenticated, service_role;
grant execute on function public.retry_historical_sync to authenticated, service_role;

-- 30_historical_sync/public/start_historical_sync.sql
-- Queues a historical sync of a date range; both days are included. resources: JSON array of names, or null for all.
-- Answer: {job_id, status}. One active job per connection: 409 already_active with its job_id. Heeds an Idempotency-Key.
create or replace function public.start_historical_sync(
  connection_id uuid, date_from date, date_to date, resources jsonb default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object(
    'connection_id', connection_id, 'date_from', date_from, 'date_to', date_to, 'resources', resources);
  answer jsonb := app.recall_answer(caller, 'start_historical_sync', request);
  connection app.connections;
  started app.executions;
begin
  if answer is not null then
    return answer;
  end if;
  -- Without the secret, which callers may not read.
  select c.id, c.agency_id, c.kind, c.config into connection.id, connection.agency_id, connection.kind, connection.config
  from app.connections as c where c.id = start_historical_sync.connection_id;
  if not found then
    perform app.refuse_missing('historical_sync', 'connection', 'connection', connection_id);
  end if;

  started.agency_id := connection.agency_id;
  started.family := 'historical_sync';
  started.connection_id := connection.id;
  started.concurrency_key := connection.id;
  started.spec := app.historical_sync_spec(connection, date_from, date_to, resources);
  started := app.start_execution(started);
  answer := jsonb_build_object('job_id', started.id, 'status', app.status_word(started));
  return app.remember_answer(caller, 'start_historical_sync', request, answer);
end $$;

revoke all on function public.start_historical_sync from public, anon, authenticated, service_role;
grant execute on function public.start_historical_sync to authenticated, service_role;

