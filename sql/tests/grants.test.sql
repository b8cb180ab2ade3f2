-- Privileges, by rule. A Supabase project grants everything new in `public` to every role, so each file revokes that.
begin;
select plan(31);

select schema_privs_are('app', 'anon', array['USAGE']);
select schema_privs_are('app', 'authenticated', array['USAGE']);
select schema_privs_are('app', 'service_role', array['USAGE']);

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
  'anon may call the functions that find out whose API key a request carries');
select set_eq(
  $$ select p.proname::text from pg_proc as p
     where p.pronamespace = 'public'::regnamespace and p.proname not like 'worker\_%'
       and not has_function_privilege('anon', p.oid, 'EXECUTE') $$,
  array['start_historical_sync', 'get_historical_sync', 'list_historical_syncs', 'retry_historical_sync',
    'cancel_sync_job', 'create_api_key', 'list_api_keys', 'revoke_api_key'],
  'an agency''s server may call the API but for these, where no API key is accepted');

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
  $$ select p.oid::regprocedure from pg_proc as p
     where p.pronamespace = 'public'::regnamespace
       and has_function_privilege('authenticated', p.oid, 'EXECUTE') = (p.proname like 'worker\_%') $$,
  'users may call every function of the API and no function of a worker');
select is_empty(
  $$ select p.oid::regprocedure from pg_proc as p
     where p.pronamespace = 'public'::regnamespace and p.proname like 'worker\_%'
       and not has_function_privilege('service_role', p.oid, 'EXECUTE') $$,
  'a worker may call every function of a worker');

select is_empty(
  $$ select p.oid::regprocedure from pg_proc as p where p.pronamespace = 'public'::regnamespace and p.prosecdef $$,
  'no function of the API runs as its owner');
select is_empty(
  $$ select c.oid::regclass from pg_class as c
     where c.relnamespace in ('app'::regnamespace, 'public'::regnamespace)
       and c.relkind in ('r', 'p') and not c.relrowsecurity $$,
  'every table has row-level security');
select is_empty(
  $$ select c.oid::regclass from pg_class as c
     where c.relnamespace in ('app'::regnamespace, 'public'::regnamespace)
       and c.relkind = 'v' and not coalesce(c.reloptions @> '{security_invoker=true}', false) $$,
  'every view asks as its caller');

select * from finish();
rollback;
