-- Whose row it is: what its owner, a stranger, a user without an agency, a signed-out user and nobody can do to it.
begin;
select plan(49);

insert into auth.users (id, email) values
  ('aaaaaaaa-0000-4000-8000-000000000001', 'owner@example.com'),
  ('aaaaaaaa-0000-4000-8000-000000000002', 'stranger@example.com'),
  ('aaaaaaaa-0000-4000-8000-000000000003', 'without-agency@example.com');
insert into public.agencies (id, name) values
  ('bbbbbbbb-0000-4000-8000-000000000001', 'The owner''s'),
  ('bbbbbbbb-0000-4000-8000-000000000002', 'The stranger''s');
insert into public.users (id, agency_id) values
  ('aaaaaaaa-0000-4000-8000-000000000001', 'bbbbbbbb-0000-4000-8000-000000000001'),
  ('aaaaaaaa-0000-4000-8000-000000000002', 'bbbbbbbb-0000-4000-8000-000000000002'),
  ('aaaaaaaa-0000-4000-8000-000000000003', null);
insert into app.connections (id, agency_id, kind, name, config) values
  ('cccccccc-0000-4000-8000-000000000001', 'bbbbbbbb-0000-4000-8000-000000000001', 'http', 'CRM',
   '{"resources": {"contacts": {}}}');
insert into app.executions (id, agency_id, family, connection_id, spec)
select id, 'bbbbbbbb-0000-4000-8000-000000000001', 'historical_sync', 'cccccccc-0000-4000-8000-000000000001',
  '{"date_from": "2026-01-01", "date_to": "2026-01-31", "resources": ["contacts"]}'
from unnest('{dddddddd-0000-4000-8000-000000000001, dddddddd-0000-4000-8000-000000000002}'::uuid[]) as id;
insert into app.connections (id, agency_id, kind, name) values
  ('cccccccc-0000-4000-8000-000000000002', 'bbbbbbbb-0000-4000-8000-000000000001', 'records', 'Warehouse');
insert into app.definitions (id, agency_id, kind, name, source_id, destination_id, settings, created_by, updated_by)
values ('ffffffff-0000-4000-8000-000000000001', 'bbbbbbbb-0000-4000-8000-000000000001', 'bulk_sync', 'Contacts',
  'cccccccc-0000-4000-8000-000000000001', 'cccccccc-0000-4000-8000-000000000002',
  '{"mode": "replicate", "schemas": [{"id": "contacts", "output_name": "contacts"}]}', 'user:u', 'user:u');
insert into app.api_keys (agency_id, name, hash, hint, created_by) values
  ('bbbbbbbb-0000-4000-8000-000000000001', 'The owner''s', sha256('the owner''s'), 'r''s', 'user:u'),
  ('bbbbbbbb-0000-4000-8000-000000000002', 'The stranger''s', sha256('the stranger''s'), 'r''s', 'user:u');

-- A stranger
set local role authenticated;
set local request.jwt.claims = '{"sub": "aaaaaaaa-0000-4000-8000-000000000002", "role": "authenticated"}';
select is_empty('select * from public.historical_sync_jobs', 'a stranger sees no job');
select is_empty('select id from app.connections', 'a stranger sees no connection');
select is_empty('select * from app.execution_events', 'a stranger sees no audit');
select results_eq('select name from public.agencies', array['The stranger''s'], 'a stranger sees the own agency alone');
select results_eq('select id from public.users', array['aaaaaaaa-0000-4000-8000-000000000002'::uuid],
  'and of the users nobody else');
select throws_ok($$ select public.cancel_sync_job('dddddddd-0000-4000-8000-000000000001') $$,
  'PT403', 'job_of_another_agency', 'a stranger cancels nothing');
select throws_ok($$ select public.get_historical_sync('dddddddd-0000-4000-8000-000000000001') $$,
  'PT403', 'job_of_another_agency', 'a stranger reads nothing');
select throws_ok(
  $$ select public.start_historical_sync('cccccccc-0000-4000-8000-000000000001', '2026-01-01', '2026-01-31') $$,
  'PT403', 'connection_of_another_agency', 'a stranger starts nothing');
select throws_ok($$ select public.cancel_sync_job('dddddddd-0000-4000-8000-00000000000f') $$,
  'PT404', 'job_not_found', 'what does not exist is not found');
select is_empty($$ update app.executions set status = 'cancelled', event = 'cancel' returning id $$,
  'nor does plain SQL of a stranger reach a job');
select throws_ok(
  $$ insert into app.executions (agency_id, family) values ('bbbbbbbb-0000-4000-8000-000000000001', 'bulk_sync') $$,
  '42501', null, 'nor put one there');
select is_empty('select * from app.definitions', 'a stranger sees no sync');
select is_empty('select * from app.execution_resources', 'nor what it did');
select results_eq('select name from app.api_keys', array['The stranger''s'], 'nor another agency''s keys');
select throws_ok($$ select public.get_bulk_sync('ffffffff-0000-4000-8000-000000000001') $$,
  'PT404', 'bulk_sync_not_found', 'for a stranger there is no such sync');
select throws_ok($$ select public.start_bulk_sync('ffffffff-0000-4000-8000-000000000001') $$,
  'PT404', 'bulk_sync_not_found', 'to start');
select throws_ok($$ select public.delete_connection('cccccccc-0000-4000-8000-000000000001') $$,
  'PT404', 'connection_not_found', 'nor such a connection to delete');
select is_empty($$ update app.definitions set deleted_at = now() returning id $$, 'plain SQL reaches neither a sync');
select is_empty($$ update app.connections set deleted_at = now() returning id $$, 'nor a connection');
select throws_ok(
  $$ insert into app.api_keys (agency_id, name, hash, hint, created_by)
     values ('bbbbbbbb-0000-4000-8000-000000000001', 'mine', sha256('x'), 'x', 'user:u') $$,
  '42501', null, 'nor makes a key of another agency');
select throws_ok(
  $$ insert into app.definitions (agency_id, kind, name, source_id, created_by, updated_by)
     values ('bbbbbbbb-0000-4000-8000-000000000002', 'bulk_sync', 'mine', 'cccccccc-0000-4000-8000-000000000001', 'u', 'u') $$,
  '23503', null, 'nor a sync of another agency''s connection');

-- A user without an agency
set local request.jwt.claims = '{"sub": "aaaaaaaa-0000-4000-8000-000000000003", "role": "authenticated"}';
select throws_ok($$ select public.cancel_sync_job('dddddddd-0000-4000-8000-000000000001') $$,
  'PT403', 'no_agency', 'who has no agency cancels nothing');
select is_empty('select * from public.historical_sync_jobs', 'who has no agency sees no job');

-- The owner, signed out since
set local request.jwt.claims = '{"sub": "aaaaaaaa-0000-4000-8000-000000000001", "role": "authenticated",
  "session_id": "eeeeeeee-0000-4000-8000-000000000001"}';
select throws_ok($$ select public.cancel_sync_job('dddddddd-0000-4000-8000-000000000001') $$,
  'PT401', 'revoked_token', 'who is signed out cancels nothing');
select is_empty('select * from public.historical_sync_jobs', 'who is signed out sees no job');

-- Nobody
set local role anon;
set local request.jwt.claims = '{"role": "anon"}';
select throws_ok($$ select public.cancel_sync_job('dddddddd-0000-4000-8000-000000000001') $$,
  '42501', null, 'anon may not call it');
select throws_ok('select * from public.historical_sync_jobs', '42501', null, 'anon may not read the view');
select throws_ok('select * from app.executions', '42501', null, 'anon may not read the table');
select throws_ok('select * from app.definitions', '42501', null, 'nor the syncs');
select throws_ok('select name from app.api_keys', '42501', null, 'nor the keys');
select throws_ok($$ select public.get_bulk_sync('ffffffff-0000-4000-8000-000000000001') $$,
  'PT401', 'invalid_api_key', 'without a key it is nobody where keys are taken');
set local request.headers = '{"x-agency-key": "nope"}';
select throws_ok('select public.list_bulk_syncs()', 'PT401', 'invalid_api_key', 'with a wrong one too');
select throws_ok($$ select public.create_api_key('mine') $$, '42501', null, 'and keys are made by users alone');

-- An agency's server: anon until the call has asked who it is
set local request.headers = '{"x-agency-key": "the stranger''s"}';
select throws_ok($$ select public.get_bulk_sync('ffffffff-0000-4000-8000-000000000001') $$,
  'PT404', 'bulk_sync_not_found', 'a stranger''s server finds nothing');
set local role anon;
set local request.headers = '{"x-agency-key": "the owner''s"}';
select is(public.get_bulk_sync('ffffffff-0000-4000-8000-000000000001') -> 'data' ->> 'name', 'Contacts',
  'the agency''s own does');
select is(current_user::text, 'authenticated', 'and goes on as a user does, with that agency');
select results_eq('select name from public.agencies', array['The owner''s'], 'which is all it sees');
select throws_ok('select hash from app.api_keys', '42501', null, 'but no hash');
set local role anon;
select is(public.start_bulk_sync('ffffffff-0000-4000-8000-000000000001') -> 'data' ->> 'status', 'created', 'it starts');
select matches((select actor from app.execution_events order by id desc limit 1), '^api_key:', 'and the audit says that it did');
set local role anon;
select is(public.cancel_bulk_sync('ffffffff-0000-4000-8000-000000000001') -> 'data' ->> 'status', 'canceled',
  'it cancels');
set local role service_role;
select throws_ok('select secret, hash from app.api_keys', '42703', null, 'there is no key anywhere, only its hash');
set local request.headers = '';

-- The owner
set local role authenticated;
set local request.jwt.claims = '{"sub": "aaaaaaaa-0000-4000-8000-000000000001", "role": "authenticated"}';
select set_eq('select job_id, status from public.historical_sync_jobs',
  $$ values ('dddddddd-0000-4000-8000-000000000001'::uuid, 'pending'),
            ('dddddddd-0000-4000-8000-000000000002'::uuid, 'pending') $$, 'the owner sees both jobs');
select is(public.cancel_sync_job('dddddddd-0000-4000-8000-000000000001', 'wrong range'),
  '{"job_id": "dddddddd-0000-4000-8000-000000000001", "status": "cancelled"}'::jsonb, 'the owner cancels');
select throws_ok($$ select public.cancel_sync_job('dddddddd-0000-4000-8000-000000000001') $$,
  'PT400', 'not_cancellable', 'once');
select results_eq(
  $$ select event, actor, reason from app.execution_events
     where execution_id = 'dddddddd-0000-4000-8000-000000000001' order by id desc limit 1 $$,
  $$ values ('cancel', 'user:aaaaaaaa-0000-4000-8000-000000000001', 'wrong range') $$,
  'and the audit tells who and why');
select throws_ok($$ select value from app.secrets $$, '42501', null, 'not even the owner reads a secret');

-- A trusted server
set local role service_role;
set local request.jwt.claims = '{"role": "service_role"}';
select is(public.cancel_sync_job('dddddddd-0000-4000-8000-000000000002') ->> 'status', 'cancelled',
  'the service role cancels for any agency');
select is(public.worker_heartbeat('dddddddd-0000-4000-8000-000000000001', 0), '{"result": "lost"}'::jsonb,
  'and a worker learns that its lease is lost');

select * from finish();
rollback;
