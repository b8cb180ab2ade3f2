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
