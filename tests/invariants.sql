-- What must hold after anything that moves, read from the tables alone: none of the implementation's functions is used.
-- Each row is one violation.
with moves (from_status, event, to_status) as (
  values (null, 'start', 'queued'), ('queued', 'claim', 'running'), ('queued', 'cancel', 'cancelled'),
    ('running', 'cancel', 'cancelled'), ('queued', 'request_cancel', 'cancelled'),
    ('running', 'request_cancel', 'cancelling'), ('cancelling', 'acknowledge', 'cancelled'),
    ('cancelling', 'expire', 'cancelled'), ('running', 'complete', 'completed'), ('cancelling', 'complete', 'completed'),
    ('running', 'fail', 'failed'), ('cancelling', 'fail', 'failed'), ('running', 'release', 'queued')
),
history as (
  select e.*, lag(e.to_status) over w as previous, lag(e.lease) over w as previous_lease,
    row_number() over w as nth, lead(e.id) over w is null as is_last
  from app.execution_events e
  window w as (partition by e.execution_id order by e.id)
)
-- 1, 2: events form one legal chain, so a terminal status is never left and exactly one outcome is ever reached
select 'illegal move' as violation, h.execution_id, h.event as what from history h
where not exists (
    select from moves m where m.from_status is not distinct from h.from_status and (m.event, m.to_status) = (h.event, h.to_status))
union all
select 'broken chain', h.execution_id, h.event from history h
where h.from_status is distinct from h.previous or (h.nth = 1) <> (h.event = 'start')
union all
-- 2, 4: the row tells who: it says what its last event says
select 'row and audit differ', x.id, x.status from app.executions x
left join history h on h.execution_id = x.id and h.is_last
where (x.status, x.event, x.actor, x.reason, x.request_id, x.lease, x.agency_id)
  is distinct from (h.to_status, h.event, h.actor, h.reason, h.request_id, h.lease, h.agency_id)
union all
-- 3: every claim and every fencing takes a new lease, and none goes back
select 'lease not advanced', h.execution_id, h.event from history h
where h.lease < h.previous_lease
  or h.event in ('claim', 'cancel', 'expire', 'release') and h.lease is distinct from h.previous_lease + 1
union all
-- 3: no record of an execution is younger than its end
select 'stored after the end', r.execution_id, r.key from app.records r
join app.executions x on x.id = r.execution_id
where r.stored_at > x.finished_at
union all
-- 5: what belongs together has one agency
select 'agencies mixed', r.execution_id, r.key from app.records r
join app.executions x on x.id = r.execution_id where x.agency_id <> r.agency_id
union all
select 'agencies mixed', x.id, 'connection' from app.executions x
join app.connections c on c.id = x.connection_id where c.agency_id <> x.agency_id
union all
-- 8: what an execution says it committed is at least what it has left behind
select 'more stored than counted', x.id, x.records::text from app.executions x
where x.records < (select count(*) from app.records r where r.execution_id = x.id)
union all
select 'cancelled without who', x.id, x.status from app.executions x
where x.status in ('cancelling', 'cancelled') and (x.cancelled_by is null or x.cancel_requested_at is null)
