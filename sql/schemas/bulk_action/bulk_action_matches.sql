-- Returns the agency's next executions that match the criteria, with ids above `after_id` and up to `horizon`, in id
-- order.
create or replace function app.bulk_action_matches(agency uuid, criteria jsonb, after_id uuid, horizon uuid, "limit" int)
returns uuid[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  statuses constant text[] := case when criteria ? 'status'
    then app.internal_statuses(criteria ->> 'family', criteria ->> 'status') else array['any'] end;
  -- An id is made a moment before its created_at. The minute allows for clocks that are adjusted.
  v_from constant uuid := greatest(after_id, app.uuid_v7_floor((criteria ->> 'created_after')::timestamptz - interval '1 minute'));
  v_to constant uuid := least(horizon, app.uuid_v7_floor((criteria ->> 'created_before')::timestamptz + interval '1 minute'));
  v_ids uuid[];
begin
  -- Status by status, so that an index gives each in id order, and only as many as are wanted.
  execute 'select array(select found.id from unnest($5) as wanted (status), lateral (select e.id from app.executions as e'
    || ' where e.agency_id = $1 and e.deleted_at is null and e.id <= $2'
    || case when v_from is not null then ' and e.id > $3' else '' end
    || case when criteria ? 'family' then ' and e.family = $4' else ' and e.family <> ''source_check''' end
    || case when criteria ? 'status' then ' and e.status = wanted.status' else '' end
    -- For queued executions the public status is more specific. The case keeps the planner from estimating it as rare
    -- and from giving up the indexes' order.
    || case when 'queued' = any(statuses) then ' and case when e.status = ''queued'' then app.public_status(e) = $6 else true end' else '' end
    || case when criteria ? 'connection_id' then ' and e.connection_id = $7' else '' end
    -- The ids already narrow by these two. The case keeps the planner from counting them twice, expecting almost no rows,
    -- and reading all agencies' executions of that time instead.
    || case when criteria ? 'created_before' then ' and case when e.created_at < $8 then true end' else '' end
    || case when criteria ? 'created_after' then ' and case when e.created_at > $9 then true end' else '' end
    || case when criteria ? 'ids' then ' and e.id = any($10)' else '' end
    -- The order of the indexes that serve lists, read backwards; the index of an agency's ids has the plain order.
    || case when criteria ?| array['family', 'connection_id'] then ' order by e.id asc nulls first' else ' order by e.id' end
    || ' limit $11) as found order by found.id limit $11)'
  into v_ids
  using agency, v_to, v_from, criteria ->> 'family', statuses, criteria ->> 'status', (criteria ->> 'connection_id')::uuid,
    (criteria ->> 'created_before')::timestamptz, (criteria ->> 'created_after')::timestamptz,
    array(select jsonb_array_elements_text(criteria -> 'ids'))::uuid[], "limit";
  return v_ids;
end $$;

revoke all on function app.bulk_action_matches from public, anon, authenticated, service_role;
grant execute on function app.bulk_action_matches to authenticated, service_role;
