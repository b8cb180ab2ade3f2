-- Who may touch what. A Supabase project grants everything new in `public` to everybody: it has to be taken back.
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
  'anon may touch no table and no view');
select set_eq(
  $$ select p.proname::text from pg_proc as p
     where p.pronamespace = 'app'::regnamespace and has_function_privilege('anon', p.oid, 'EXECUTE') $$,
  array['agency_key', 'identify', 'touch_api_key', 'caller', 'refuse'],
  'anon may ask who it is');
select set_eq(
  $$ select p.proname::text from pg_proc as p
     where p.pronamespace = 'public'::regnamespace and has_function_privilege('anon', p.oid, 'EXECUTE') $$,
  array['create_connection', 'get_connection', 'list_connections', 'delete_connection', 'test_connection',
    'reserve_secret', 'get_source_check', 'cancel_source_check',
    'create_bulk_sync', 'get_bulk_sync', 'list_bulk_syncs', 'delete_bulk_sync', 'start_bulk_sync', 'cancel_bulk_sync',
    'get_bulk_sync_status', 'get_bulk_sync_execution', 'list_bulk_sync_executions',
    'create_model', 'get_model', 'list_models', 'delete_model',
    'create_model_sync', 'get_model_sync', 'list_model_syncs', 'delete_model_sync', 'start_model_sync',
    'cancel_model_sync', 'get_model_sync_status', 'get_model_sync_execution', 'list_model_sync_executions',
    'create_sync_job', 'get_sync_job', 'list_sync_jobs', 'update_sync_job', 'delete_sync_job',
    'create_sync_job_run', 'get_sync_job_run', 'list_sync_job_runs', 'stop_sync_job_run',
    'create_webhook', 'get_webhook', 'list_webhooks', 'update_webhook', 'delete_webhook',
    'create_bulk_action', 'preview_bulk_action', 'get_bulk_action', 'list_bulk_actions', 'cancel_bulk_action',
    'delete_bulk_action'],
  'and, with an agency''s key, call these');

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

select set_eq(
  $$ select p.proname::text from pg_proc as p
     where p.pronamespace = 'public'::regnamespace and has_function_privilege('authenticated', p.oid, 'EXECUTE') $$,
  array['start_historical_sync', 'get_historical_sync', 'list_historical_syncs', 'retry_historical_sync',
    'cancel_sync_job',
    'create_api_key', 'list_api_keys', 'revoke_api_key',
    'create_connection', 'get_connection', 'list_connections', 'delete_connection', 'test_connection',
    'reserve_secret', 'get_source_check', 'cancel_source_check',
    'create_bulk_sync', 'get_bulk_sync', 'list_bulk_syncs', 'delete_bulk_sync', 'start_bulk_sync', 'cancel_bulk_sync',
    'get_bulk_sync_status', 'get_bulk_sync_execution', 'list_bulk_sync_executions',
    'create_model', 'get_model', 'list_models', 'delete_model',
    'create_model_sync', 'get_model_sync', 'list_model_syncs', 'delete_model_sync', 'start_model_sync',
    'cancel_model_sync', 'get_model_sync_status', 'get_model_sync_execution', 'list_model_sync_executions',
    'create_sync_job', 'get_sync_job', 'list_sync_jobs', 'update_sync_job', 'delete_sync_job',
    'create_sync_job_run', 'get_sync_job_run', 'list_sync_job_runs', 'stop_sync_job_run',
    'create_webhook', 'get_webhook', 'list_webhooks', 'update_webhook', 'delete_webhook',
    'create_bulk_action', 'preview_bulk_action', 'get_bulk_action', 'list_bulk_actions', 'cancel_bulk_action',
    'delete_bulk_action'],
  'users may call these');
select set_eq(
  $$ select p.proname::text from pg_proc as p
     where p.pronamespace = 'public'::regnamespace and not has_function_privilege('authenticated', p.oid, 'EXECUTE')
       and has_function_privilege('service_role', p.oid, 'EXECUTE') $$,
  array['claim', 'heartbeat', 'worker_commit_batch', 'worker_begin_delivery', 'finish', 'worker_complete_all', 'worker_complete_and_claim', 'fail', 'release', 'stop', 'reap', 'worker_claim_events',
    'worker_ack_event', 'worker_run_bulk_action_step', 'worker_claim_deleted_secrets', 'worker_ack_deleted_secret', 'waiting'],
  'a worker alone may call these');

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
