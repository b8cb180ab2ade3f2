-- The next executions of an agency that criteria match, after one id and not beyond another, in id order.
create or replace function app.bulk_action_matches(agency uuid, criteria jsonb, after_ uuid, horizon uuid, "limit" int)
returns uuid[]
language plpgsql
stable
set search_path = ''
as $$
declare
  statuses constant text[] := case when criteria ? 'status'
    then app.words_statuses(criteria ->> 'family', criteria ->> 'status') end;
  found_ uuid[];
begin
  execute 'select array(select e.id from app.executions as e'
    || ' where e.agency_id = $1 and e.deleted_at is null and e.id <= $2'
    || case when after_ is not null then ' and e.id > $3' else '' end
    || case when criteria ? 'family' then ' and e.family = $4' else ' and e.family <> ''source_look''' end
    || case when cardinality(statuses) = 1 then ' and e.status = ($5)[1]' when statuses is not null then ' and e.status = any($5)' else '' end
    || case when 'queued' = any(statuses) then ' and app.status_word(e) = $6' else '' end
    || case when criteria ? 'connection_id' then ' and e.connection_id = $7' else '' end
    || case when criteria ? 'created_before' then ' and e.created_at < $8' else '' end
    || case when criteria ? 'created_after' then ' and e.created_at > $9' else '' end
    || case when criteria ? 'ids' then ' and e.id = any($10)' else '' end
    -- The order of an agency's indexes, read backwards.
    || ' order by e.id asc nulls first limit $11)'
  into found_
  using agency, horizon, after_, criteria ->> 'family', statuses, criteria ->> 'status', (criteria ->> 'connection_id')::uuid,
    (criteria ->> 'created_before')::timestamptz, (criteria ->> 'created_after')::timestamptz,
    array(select jsonb_array_elements_text(criteria -> 'ids'))::uuid[], "limit";
  return found_;
end $$;

revoke all on function app.bulk_action_matches from public;
grant execute on function app.bulk_action_matches to authenticated, service_role;
