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
    row_number() over w as nth, lead(e.at) over w as until, lead(e.id) over w is null as is_last
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
-- 3: the lease counts them
select 'leases not counted', x.id, x.lease::text from app.executions x
left join (
  select h.execution_id, count(*) as leases from history h
  where h.event in ('claim', 'cancel', 'expire', 'release') or (h.event, h.from_status) = ('request_cancel', 'queued')
  group by h.execution_id) c on c.execution_id = x.id
where x.lease <> coalesce(c.leases, 0)
union all
-- 3: what an execution has stored, it stored while it held a lease
select 'stored without a lease', r.execution_id, r.key from app.records r
left join history h on h.execution_id = r.execution_id and h.at <= r.stored_at
  and (h.until is null or r.stored_at < h.until)
where (h.to_status in ('running', 'cancelling')) is not true
union all
-- 3: no record of an execution is younger than its end
select 'stored after the end', r.execution_id, r.key from app.records r
join app.executions x on x.id = r.execution_id
where r.stored_at > x.finished_at
union all
-- 4: people start and cancel, workers and the reaper do the rest
select 'not theirs to do', h.execution_id, h.actor || ': ' || h.event from history h
where case
    when h.actor = 'reaper' then h.event not in ('expire', 'fail', 'release')
    when h.actor like 'worker:_%' then h.event in ('start', 'cancel', 'request_cancel')
    else h.event not in ('start', 'cancel', 'request_cancel') end
union all
-- 5: nobody moves what is another agency's (who has left the project meanwhile is not asked)
select 'moved by a stranger', h.execution_id, h.actor from history h
join public.users u on h.actor = 'user:' || u.id
where u.agency_id is distinct from h.agency_id
union all
-- 5: what belongs together has one agency
select 'agencies mixed', r.execution_id, r.key from app.records r
join app.executions x on x.id = r.execution_id where x.agency_id <> r.agency_id
union all
select 'agencies mixed', x.id, 'connection' from app.executions x
join app.connections c on c.id = x.connection_id where c.agency_id <> x.agency_id
union all
select 'agencies mixed', x.id, 'retry' from app.executions x
join app.executions y on y.id = x.retry_of where y.agency_id <> x.agency_id
union all
select 'agencies mixed', x.id, h.event from app.executions x
join history h on h.execution_id = x.id where h.agency_id <> x.agency_id
union all
select 'an answer to a stranger', null, k.actor from app.idempotency_keys k
join public.users u on k.actor = 'user:' || u.id
where u.agency_id is distinct from k.agency_id
union all
-- 7: what has not ended can be claimed at some time, or has a lease that runs out at some time
select 'forgotten', x.id, x.status from app.executions x
where case x.status
    when 'queued' then not isfinite(x.run_at)
    when 'running' then x.leased_by is null or not isfinite(x.lease_expires_at)
    when 'cancelling' then x.leased_by is null or not isfinite(x.lease_expires_at) or not isfinite(x.cancel_deadline)
    else x.finished_at is null end is not false
union all
-- 7: a lease is for as long as its claim asked, and no longer
select 'leased for too long', x.id, x.status from app.executions x
where x.lease_expires_at > now() + make_interval(secs => x.lease_seconds)
union all
-- 8: what an execution says it committed is at least what it has left behind
select 'more stored than counted', x.id, x.records::text from app.executions x
where x.records < (select count(*) from app.records r where r.execution_id = x.id) or x.records > 0 and x.seq = 0
union all
select 'cancelled without who', x.id, x.status from app.executions x
where x.status in ('cancelling', 'cancelled') and (x.cancelled_by is null or x.cancel_requested_at is null)
