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
