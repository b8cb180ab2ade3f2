-- What an owner, a stranger, a user without an agency, a signed-out user and an anonymous caller can do to a row.
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
select results_eq('select name from public.agencies', array['The stranger''s'], 'a stranger sees only the own agency');
select results_eq('select id from public.users', array['aaaaaaaa-0000-4000-8000-000000000002'::uuid],
  'a stranger sees only the own user');
select throws_ok($$ select public.cancel_sync_job('dddddddd-0000-4000-8000-000000000001') $$,
  'PT403', 'job_of_another_agency', 'a stranger cannot cancel a job');
select throws_ok($$ select public.get_historical_sync('dddddddd-0000-4000-8000-000000000001') $$,
  'PT403', 'job_of_another_agency', 'a stranger cannot read a job');
select throws_ok(
  $$ select public.start_historical_sync('cccccccc-0000-4000-8000-000000000001', '2026-01-01', '2026-01-31') $$,
  'PT403', 'connection_of_another_agency', 'a stranger cannot start a job');
select throws_ok($$ select public.cancel_sync_job('dddddddd-0000-4000-8000-00000000000f') $$,
  'PT404', 'job_not_found', 'a missing job is not found');
select is_empty($$ update app.executions set status = 'cancelled', event = 'cancel' returning id $$,
  'a stranger cannot cancel a job by plain SQL');
select throws_ok(
  $$ insert into app.executions (agency_id, family) values ('bbbbbbbb-0000-4000-8000-000000000001', 'bulk_sync') $$,
  '42501', null, 'a stranger cannot insert a job');
select is_empty('select * from app.definitions', 'a stranger sees no sync');
select is_empty('select * from app.execution_resources', 'a stranger sees no resources of an execution');
select results_eq('select name from app.api_keys', array['The stranger''s'], 'a stranger sees no API key of another agency');
select throws_ok($$ select public.get_bulk_sync('ffffffff-0000-4000-8000-000000000001') $$,
  'PT404', 'bulk_sync_not_found', 'a stranger cannot read a sync');
select throws_ok($$ select public.start_bulk_sync('ffffffff-0000-4000-8000-000000000001') $$,
  'PT404', 'bulk_sync_not_found', 'a stranger cannot start a sync');
select throws_ok($$ select public.delete_connection('cccccccc-0000-4000-8000-000000000001') $$,
  'PT404', 'connection_not_found', 'a stranger cannot delete a connection');
select is_empty($$ update app.definitions set deleted_at = now() returning id $$, 'a stranger cannot delete a sync by plain SQL');
select is_empty($$ update app.connections set deleted_at = now() returning id $$, 'a stranger cannot delete a connection by plain SQL');
select throws_ok(
  $$ insert into app.api_keys (agency_id, name, hash, hint, created_by)
     values ('bbbbbbbb-0000-4000-8000-000000000001', 'mine', sha256('x'), 'x', 'user:u') $$,
  '42501', null, 'a stranger cannot create a key of another agency');
select throws_ok(
  $$ insert into app.definitions (agency_id, kind, name, source_id, created_by, updated_by)
     values ('bbbbbbbb-0000-4000-8000-000000000002', 'bulk_sync', 'mine', 'cccccccc-0000-4000-8000-000000000001', 'u', 'u') $$,
  '23503', null, 'a stranger cannot create a sync of another agency''s connection');

-- A user without an agency
set local request.jwt.claims = '{"sub": "aaaaaaaa-0000-4000-8000-000000000003", "role": "authenticated"}';
select throws_ok($$ select public.cancel_sync_job('dddddddd-0000-4000-8000-000000000001') $$,
  'PT403', 'no_agency', 'a user without an agency cannot cancel a job');
select is_empty('select * from public.historical_sync_jobs', 'a user without an agency sees no job');

-- The owner, signed out since
set local request.jwt.claims = '{"sub": "aaaaaaaa-0000-4000-8000-000000000001", "role": "authenticated",
  "session_id": "eeeeeeee-0000-4000-8000-000000000001"}';
select throws_ok($$ select public.cancel_sync_job('dddddddd-0000-4000-8000-000000000001') $$,
  'PT401', 'revoked_token', 'a signed-out user cannot cancel a job');
select is_empty('select * from public.historical_sync_jobs', 'a signed-out user sees no job');

-- An anonymous caller
set local role anon;
set local request.jwt.claims = '{"role": "anon"}';
select throws_ok($$ select public.cancel_sync_job('dddddddd-0000-4000-8000-000000000001') $$,
  '42501', null, 'anon cannot call the cancel');
select throws_ok('select * from public.historical_sync_jobs', '42501', null, 'anon cannot read the view');
select throws_ok('select * from app.executions', '42501', null, 'anon cannot read executions');
select throws_ok('select * from app.definitions', '42501', null, 'anon cannot read definitions');
select throws_ok('select name from app.api_keys', '42501', null, 'anon cannot read API keys');
select throws_ok($$ select public.get_bulk_sync('ffffffff-0000-4000-8000-000000000001') $$,
  'PT401', 'invalid_api_key', 'anon without a key is rejected');
set local request.headers = '{"x-agency-key": "nope"}';
select throws_ok('select public.list_bulk_syncs()', 'PT401', 'invalid_api_key', 'anon with a wrong key is rejected');
select throws_ok($$ select public.create_api_key('mine') $$, '42501', null, 'anon cannot create an API key');

-- An agency's server: anon until app.caller() has identified it
set local request.headers = '{"x-agency-key": "the stranger''s"}';
select throws_ok($$ select public.get_bulk_sync('ffffffff-0000-4000-8000-000000000001') $$,
  'PT404', 'bulk_sync_not_found', 'a stranger''s server cannot read a sync');
set local role anon;
set local request.headers = '{"x-agency-key": "the owner''s"}';
select is(public.get_bulk_sync('ffffffff-0000-4000-8000-000000000001') -> 'data' ->> 'name', 'Contacts',
  'the agency''s server reads its sync');
select is(current_user::text, 'authenticated', 'an agency''s server continues as authenticated');
select results_eq('select name from public.agencies', array['The owner''s'], 'an agency''s server sees only its agency');
select throws_ok('select hash from app.api_keys', '42501', null, 'an agency''s server cannot read a hash');
set local role anon;
select is(public.start_bulk_sync('ffffffff-0000-4000-8000-000000000001') -> 'data' ->> 'status', 'created', 'an agency''s server starts a sync');
select matches((select actor from app.execution_events order by id desc limit 1), '^api_key:', 'the audit records the API key as the actor');
set local role anon;
select is(public.cancel_bulk_sync('ffffffff-0000-4000-8000-000000000001') -> 'data' ->> 'status', 'canceled',
  'an agency''s server cancels a sync');
set local role service_role;
select throws_ok('select secret, hash from app.api_keys', '42703', null, 'there is no column for the key, only for its hash');
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
  'PT400', 'not_cancellable', 'a second cancel is rejected');
select results_eq(
  $$ select event, actor, reason from app.execution_events
     where execution_id = 'dddddddd-0000-4000-8000-000000000001' order by id desc limit 1 $$,
  $$ values ('cancel', 'user:aaaaaaaa-0000-4000-8000-000000000001', 'wrong range') $$,
  'the audit records actor and reason');
select throws_ok($$ select value from app.secrets $$, '42501', null, 'the owner cannot read a secret');

-- A trusted server
set local role service_role;
set local request.jwt.claims = '{"role": "service_role"}';
select is(public.cancel_sync_job('dddddddd-0000-4000-8000-000000000002') ->> 'status', 'cancelled',
  'the service role cancels for any agency');
select is(public.worker_heartbeat('dddddddd-0000-4000-8000-000000000001', 0), '{"result": "lost"}'::jsonb,
  'and a worker learns that its lease is lost');

select * from finish();
rollback;
