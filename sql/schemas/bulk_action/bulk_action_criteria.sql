-- Criteria as they are stored, checked: {family, status, connection_id, created_before, created_after, ids}, at least one.
-- status is a word of the family.
create or replace function app.bulk_action_criteria(criteria jsonb)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  criteria := jsonb_strip_nulls(criteria);
  -- A member that nobody knows would narrow nothing down.
  if jsonb_typeof(criteria) is distinct from 'object'
     or criteria - array['family', 'status', 'connection_id', 'created_before', 'created_after', 'ids'] <> '{}' then
    perform app.raise_error(400, 'invalid_criteria', 'criteria is an object of family, status, connection_id, created_before, created_after and ids.');
  end if;
  if criteria = '{}' then
    perform app.raise_error(400, 'no_criteria', 'criteria names at least one of family, status, connection_id, created_before, created_after and ids.');
  end if;
  if criteria ? 'family' and not exists (
      select from app.families as f where f.family = criteria ->> 'family' and f.family <> 'source_check') then
    perform app.raise_error(400, 'unknown_family', 'There is no such family of executions.', jsonb_build_object(
      'known', (select jsonb_agg(f.family) from app.families as f where f.family <> 'source_check')));
  end if;
  if criteria ? 'status' and not criteria ? 'family' then
    perform app.raise_error(400, 'family_required', 'A status is a word of a family: name the family too.');
  end if;
  if criteria ? 'status' then
    perform app.words_statuses(criteria ->> 'family', criteria ->> 'status');
  end if;
  return criteria;
end $$;

revoke all on function app.bulk_action_criteria from public;
grant execute on function app.bulk_action_criteria to authenticated, service_role;
