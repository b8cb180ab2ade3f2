-- The privileges of the API's roles. A Supabase project grants everything new in `public` to every role, so each file
-- must revoke it. These are rules, not lists, as far as a function's purpose follows from its name and the catalog. The
-- lists are in tests/sql/test_privileges.py.
begin;
select plan(31);

select schema_privs_are('app', 'anon', array['USAGE']);
select schema_privs_are('app', 'authenticated', array['USAGE']);
select schema_privs_are('app', 'service_role', array['USAGE']);

-- The functions of the API and the roles that may execute them.
create view pg_temp.functions as
select p.proname::text as name, p.proname like 'worker\_%' as is_of_worker, array(
  select role from unnest(array['anon', 'authenticated', 'service_role']) as role
  where has_function_privilege(role, p.oid, 'EXECUTE')) as roles
from pg_proc as p where p.pronamespace = 'public'::regnamespace;

select is_empty(
  $$ select c.oid::regclass from pg_class as c
     where c.relnamespace in ('app'::regnamespace, 'public'::regnamespace) and c.relkind in ('r', 'p', 'v', 'm')
       and (has_table_privilege('anon', c.oid, 'DELETE, TRUNCATE, TRIGGER')
         or has_any_column_privilege('anon', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')) $$,
  'anon has no privilege on any table or view');
select set_eq(
  $$ select p.proname::text from pg_proc as p
     where p.pronamespace = 'app'::regnamespace and has_function_privilege('anon', p.oid, 'EXECUTE') $$,
  array['agency_key', 'identify', 'touch_api_key', 'caller', 'raise_error'],
  'anon may execute only the functions of app that identify the caller');
select is_empty(
  $$ select name, roles from pg_temp.functions where is_of_worker and roles <> array['service_role'] $$,
  'only the service role may execute the worker''s functions');
select set_eq(
  $$ select name from pg_temp.functions where not is_of_worker and not 'anon' = any(roles) $$,
  array['start_historical_sync', 'get_historical_sync', 'list_historical_syncs', 'retry_historical_sync',
    'cancel_sync_job', 'create_api_key', 'list_api_keys', 'revoke_api_key'],
  'an agency''s server may call every function of the API but these (else add the name here)');
select is_empty(
  $$ select name, roles from pg_temp.functions where not is_of_worker and not 'authenticated' = any(roles) $$,
  'users may call every function of the API');

select table_privs_are('public', 'agencies', 'authenticated', array['SELECT']);
select table_privs_are('public', 'users', 'authenticated', array['SELECT']);
select table_privs_are('public', 'historical_sync_jobs', 'authenticated', array['SELECT']);
select table_privs_are('public', 'historical_sync_jobs', 'service_role', array['SELECT']);
select table_privs_are('app', 'executions', 'authenticated', array['SELECT']);
select table_privs_are('app', 'executions', 'service_role', array['SELECT', 'INSERT', 'UPDATE']);
select table_privs_are('app', 'execution_events', 'authenticated', array['SELECT']);
select table_privs_are('app', 'execution_events', 'service_role', array['SELECT']);
select column_privs_are('app', 'executions', 'lease_token', 'authenticated', array['SELECT']);
select table_privs_are('app', 'definitions', 'authenticated', array['SELECT']);
select table_privs_are('app', 'execution_resources', 'authenticated', array['SELECT']);
select table_privs_are('app', 'execution_resources', 'service_role', array['SELECT', 'INSERT', 'UPDATE']);
select table_privs_are('app', 'api_keys', 'authenticated', array[]::text[]);
select table_privs_are('app', 'api_keys', 'service_role', array['SELECT']);
select column_privs_are('app', 'connections', 'secret_id', 'authenticated', array['INSERT']);
select table_privs_are('app', 'secrets', 'authenticated', array[]::text[]);
select column_privs_are('app', 'secrets', 'value', 'service_role', array[]::text[]);
select column_privs_are('app', 'secrets', 'vault_id', 'service_role', array[]::text[]);
select column_privs_are('app', 'api_keys', 'hash', 'authenticated', array['INSERT']);
select column_privs_are('app', 'api_keys', 'last_used_at', 'authenticated', array['SELECT']);

select is_empty(
  $$ select p.oid::regprocedure from pg_proc as p where p.pronamespace = 'public'::regnamespace and p.prosecdef $$,
  'no function of the API is SECURITY DEFINER');
select is_empty(
  $$ select c.oid::regclass from pg_class as c
     where c.relnamespace in ('app'::regnamespace, 'public'::regnamespace)
       and c.relkind in ('r', 'p') and not c.relrowsecurity $$,
  'every table has row-level security');
select is_empty(
  $$ select c.oid::regclass from pg_class as c
     where c.relnamespace in ('app'::regnamespace, 'public'::regnamespace)
       and c.relkind = 'v' and not coalesce(c.reloptions @> '{security_invoker=true}', false) $$,
  'every view is security_invoker');

select * from finish();
rollback;
