-- Compares ended executions and their audit with copies from the last check, which the implementation cannot change.
-- Each row is one violation.
select 'changed after the end' as violation, w.id as execution_id, w.row ->> 'status' as what
from witness.ended w
left join app.executions x on x.id = w.id
where (to_jsonb(x) - array['deleted_at', 'retry_of']) is distinct from w.row
union all
select 'counted after the end', w.id, w.row ->> 'status' from witness.ended w
left join (
  select r.execution_id, jsonb_agg(to_jsonb(r) order by r.resource, r.method) as counts
  from app.execution_resources r group by 1) c on c.execution_id = w.id
where c.counts is distinct from w.counts
union all
select 'audit rewritten', w.id, w.row ->> 'status' from witness.ended w
left join (
  select e.execution_id, jsonb_agg(to_jsonb(e) order by e.id) as events
  from app.execution_events e group by 1) c on c.execution_id = w.id
where c.events is distinct from w.events
