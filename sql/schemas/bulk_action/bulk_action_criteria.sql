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
