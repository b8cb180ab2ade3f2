-- The invariants, read from the tables without the implementation's functions. Each row is one violation.
with transitions (from_status, event, to_status) as (
  values (null, 'start', 'queued'), ('queued', 'claim', 'running'), ('queued', 'cancel', 'cancelled'),
    ('running', 'cancel', 'cancelled'), ('queued', 'request_cancel', 'cancelled'),
    ('running', 'request_cancel', 'cancelling'), ('cancelling', 'acknowledge', 'cancelled'),
    ('cancelling', 'expire', 'cancelled'), ('running', 'complete', 'completed'), ('cancelling', 'complete', 'completed'),
    ('running', 'fail', 'failed'), ('cancelling', 'fail', 'failed'), ('running', 'release', 'queued')
),
history as (
  select e.*, lag(e.to_status) over w as previous, lag(e.lease_token) over w as previous_lease, lag(e.at) over w as previous_at,
    row_number() over w as nth, lead(e.at) over w as until, lead(e.id) over w is null as is_last
  from app.execution_events e
  window w as (partition by e.execution_id order by e.id)
)
-- 1, 2: the events form one valid chain, so no terminal status is left and there is one outcome
select 'invalid transition' as violation, h.execution_id, h.event as what from history h
where not exists (
    select from transitions m where m.from_status is not distinct from h.from_status and (m.event, m.to_status) = (h.event, h.to_status))
union all
select 'broken chain', h.execution_id, h.event from history h
where h.from_status is distinct from h.previous or (h.nth = 1) <> (h.event = 'start')
union all
-- 2, 4: the row agrees with its last event
select 'row and audit differ', x.id, x.status from app.executions x
left join history h on h.execution_id = x.id and h.is_last
where (x.status, x.event, x.actor, x.reason, x.request_id, x.lease_token, x.agency_id)
  is distinct from (h.to_status, h.event, h.actor, h.reason, h.request_id, h.lease_token, h.agency_id)
union all
-- 3: every claim and every fencing raises the lease token, and nothing lowers it
select 'lease token not raised', h.execution_id, h.event from history h
where h.lease_token < h.previous_lease
  or h.event in ('claim', 'cancel', 'expire', 'release') and h.lease_token is distinct from h.previous_lease + 1
union all
-- 3: the lease token is their number
select 'leases not counted', x.id, x.lease_token::text from app.executions x
left join (
  select h.execution_id, count(*) as leases from history h
  where h.event in ('claim', 'cancel', 'expire', 'release') or (h.event, h.from_status) = ('request_cancel', 'queued')
  group by h.execution_id) c on c.execution_id = x.id
where x.lease_token <> coalesce(c.leases, 0)
union all
-- 3: records were stored while the execution was leased
select 'stored without a lease', r.execution_id, r.key from app.records r
left join history h on h.execution_id = r.execution_id and h.at <= r.stored_at
  and (h.until is null or r.stored_at < h.until)
where (h.to_status in ('running', 'cancelling')) is not true
union all
-- 3: no record is newer than the end of its execution
select 'stored after the end', r.execution_id, r.key from app.records r
join app.executions x on x.id = r.execution_id
where r.stored_at > x.finished_at
union all
-- 4: callers start and cancel; workers and the reaper fire the other events
select 'event of another actor', h.execution_id, h.actor || ': ' || h.event from history h
where case
    when h.actor = 'reaper' then h.event not in ('expire', 'fail', 'release')
    when h.actor like 'worker:_%' then h.event in ('start', 'cancel', 'request_cancel')
    else h.event not in ('start', 'cancel', 'request_cancel') end
union all
-- 5: no user changes executions of another agency (users that no longer exist are not checked)
select 'changed by a stranger', h.execution_id, h.actor from history h
join public.users u on h.actor = 'user:' || u.id
where u.agency_id is distinct from h.agency_id
union all
-- 5: related rows belong to one agency
select 'agencies mixed', r.execution_id, r.key from app.records r
join app.executions x on x.id = r.execution_id where x.agency_id <> r.agency_id
union all
select 'agencies mixed', x.id, 'connection' from app.executions x
join app.connections c on c.id = x.connection_id where c.agency_id <> x.agency_id
union all
select 'agencies mixed', x.id, 'retry' from app.executions x
join app.executions y on y.id = x.retry_of where y.agency_id <> x.agency_id
union all
select 'agencies mixed', c.id, 'secret' from app.connections c
join app.secrets s on s.id = c.secret_id where s.agency_id <> c.agency_id
union all
-- 5: a secret belongs to one connection and is deleted with it (a source check that copies it is deleted from the start)
select 'secret of several', s.id, s.storage from app.secrets s
where (select count(*) from app.connections c
  where (c.agency_id, c.secret_id) = (s.agency_id, s.id) and c.deleted_at is null) > 1
union all
select 'secret without a connection', s.id, s.storage from app.secrets s
where s.used_at is not null and s.delete_at is null
  and not exists (select from app.connections c where (c.agency_id, c.secret_id) = (s.agency_id, s.id))
union all
select 'agencies mixed', x.id, h.event from app.executions x
join history h on h.execution_id = x.id where h.agency_id <> x.agency_id
union all
select 'agencies mixed', x.id, 'destination' from app.executions x
join app.connections c on c.id = x.destination_id where c.agency_id <> x.agency_id
union all
select 'agencies mixed', x.id, 'definition' from app.executions x
join app.definitions d on d.id = x.definition_id where d.agency_id <> x.agency_id
union all
select 'agencies mixed', null, 'definition ' || d.id from app.definitions d
join app.connections c on c.id in (d.source_id, d.destination_id) where c.agency_id <> d.agency_id
union all
select 'agencies mixed', r.execution_id, r.resource from app.execution_resources r
join app.executions x on x.id = r.execution_id where x.agency_id <> r.agency_id
union all
select 'agencies mixed', d.execution_id, 'delivery' from app.deliveries d
join app.executions x on x.id = d.execution_id where x.agency_id <> d.agency_id
union all
-- 5: an API key changes executions of its own agency only
select 'changed by a stranger', h.execution_id, h.actor from history h
join app.api_keys k on h.actor = 'api_key:' || k.id
where k.agency_id is distinct from h.agency_id
union all
select 'changed by an unknown key', h.execution_id, h.actor from history h
where h.actor like 'api_key:%' and not exists (select from app.api_keys k where h.actor = 'api_key:' || k.id)
union all
select 'response of a stranger', null, a.actor from app.idempotency_keys a
join app.api_keys k on a.actor = 'api_key:' || k.id
where k.agency_id is distinct from a.agency_id
union all
-- 1: each family is cancelled either at once or in two steps
select 'cancelled another way', h.execution_id, x.family || ': ' || h.event from history h
join app.executions x on x.id = h.execution_id
where h.event in ('cancel', 'request_cancel')
  and (h.event = 'request_cancel') <> (x.family in ('bulk_sync', 'model_sync'))
union all
-- a definition starts executions of its own kind, one at a time
select 'of another kind', x.id, x.family || ' of a ' || d.kind from app.executions x
join app.definitions d on d.id = x.definition_id where d.kind not in (x.family, regexp_replace(x.family, '_run$', ''))
union all
select 'two at once', null, x.family || ' ' || x.concurrency_key from app.executions x
where x.concurrency_key is not null and x.finished_at is null
group by x.agency_id, x.family, x.concurrency_key having count(*) > 1
union all
-- 8: the counts of the resources add up to the execution's, and end with it
select 'miscounted', x.id, x.records || ' and ' || coalesce(r.records, 0) from app.executions x
left join (select execution_id, sum(records) as records from app.execution_resources group by 1) r on r.execution_id = x.id
where x.records <> coalesce(r.records, 0)
union all
-- Failures of a sync job run are requests that returned no records.
select 'more written than read', r.execution_id, r.resource from app.execution_resources r
join app.executions x on x.id = r.execution_id
where r.inserted + r.updated + case when x.family = 'sync_job_run' then 0 else r.failed end > r.records or least(r.records, r.inserted, r.updated, r.failed) < 0
  or jsonb_array_length(r.errors) > least(r.failed, 100)
union all
select 'counted after the end', r.execution_id, r.resource from app.execution_resources r
join app.executions x on x.id = r.execution_id
where r.started_at > x.finished_at or r.finished_at > x.finished_at or r.started_at > r.finished_at
  or r.started_at < x.started_at
union all
-- 8: records are stored in the execution's destination
select 'stored elsewhere', r.execution_id, r.key from app.records r
join app.executions x on x.id = r.execution_id
where r.connection_id is distinct from coalesce(x.destination_id, x.connection_id)
union all
-- 3: a delivery needs a lease, and there is one at a time
select 'delivering without a lease', d.execution_id, d.event from app.deliveries d
join app.executions x on x.id = d.execution_id
where d.status = 'sending' and d.number >= 0 and x.leased_by is null
union all
select 'response of a stranger', null, k.actor from app.idempotency_keys k
join public.users u on k.actor = 'user:' || u.id
where u.agency_id is distinct from k.agency_id
union all
-- 7: an execution that has not ended can be claimed, or has a lease that expires
select 'without a next step', x.id, x.status from app.executions x
where case x.status
    when 'queued' then not isfinite(x.run_at)
    when 'running' then x.leased_by is null or not isfinite(x.lease_expires_at)
    when 'cancelling' then x.leased_by is null or not isfinite(x.lease_expires_at) or not isfinite(x.cancel_deadline)
    else x.finished_at is null end is not false
union all
-- 7: a lease is no longer than its claim requested
select 'leased for too long', x.id, x.status from app.executions x
where x.lease_expires_at > now() + make_interval(secs => x.lease_seconds)
union all
-- 8: an execution has counted at least the records that it has stored
select 'more stored than counted', x.id, x.records::text from app.executions x
left join (select execution_id, count(*) as stored from app.records group by 1) r on r.execution_id = x.id
where x.records < r.stored or x.records > 0 and x.seq = 0
union all
select 'cancelled without an actor', x.id, x.status from app.executions x
where x.status in ('cancelling', 'cancelled') and (x.cancelled_by is null or x.cancel_requested_at is null)
union all
-- 9: the counts of a bulk action are those of its items
select 'miscounted items', x.id, x.status from app.executions x
left join app.bulk_actions b on b.execution_id = x.id
left join (
  select execution_id, count(*) as matched, count(*) filter (where outcome = 'done') as done,
    count(*) filter (where outcome = 'failed') as failed, count(*) filter (where outcome = 'skipped') as skipped,
    count(*) filter (where outcome is null) as not_started
  from app.bulk_action_items group by 1) i on i.execution_id = x.id
where (b.execution_id is not null or i.execution_id is not null)
  and (x.family <> 'bulk_action'
    or (b.matched, b.done, b.failed, b.skipped, b.interrupted, b.not_started)
      is distinct from (coalesce(i.matched, 0), coalesce(i.done, 0), coalesce(i.failed, 0), coalesce(i.skipped, 0), 0,
        coalesce(i.not_started, 0)))
union all
select 'ended with something to do', x.id, b.not_started::text from app.executions x
join app.bulk_actions b on b.execution_id = x.id
where x.status = 'completed' and (b.not_started > 0 or not b.is_collected)
union all
select 'more than requested', x.id, b.matched::text from app.executions x
join app.bulk_actions b on b.execution_id = x.id
where b.matched > (x.spec ->> 'max_limit')::int
  or exists (select from app.bulk_action_items i where i.execution_id = x.id and i.item_id > b.horizon)
union all
select 'acted on itself', i.execution_id, i.outcome from app.bulk_action_items i
where i.item_id = i.execution_id and i.outcome <> 'skipped'
union all
-- 9: the audit confirms what was done to each item
select 'done without an event', i.item_id, x.spec ->> 'action_type' from app.bulk_action_items i
join app.executions x on x.id = i.execution_id
join app.executions y on y.id = i.item_id
where i.outcome = 'done' and not case x.spec ->> 'action_type'
    when 'cancel' then exists (
      select from app.execution_events h
      where (h.agency_id, h.execution_id) = (i.agency_id, i.item_id) and h.event in ('cancel', 'request_cancel')
        and (h.actor, h.reason) is not distinct from ('bulk_action:' || x.id, x.spec ->> 'action_reason'))
    when 'retry' then exists (
      select from app.executions z
      where (z.agency_id, z.retry_of) = (i.agency_id, i.item_id) and z.created_by = 'bulk_action:' || x.id)
    else exists (
      select from app.executions z where (z.agency_id, z.family) = (y.agency_id, y.family)
        and z.created_by = 'bulk_action:' || x.id and z.retry_of is null
        and (z.family, z.agency_id, z.spec) = (y.family, y.agency_id, y.spec)) end
union all
-- 9: and nothing else was done
select 'done without an item', h.execution_id, h.actor || ': ' || h.event from history h
where h.actor like 'bulk_action:%' and h.event <> 'start' and not exists (
    select from app.bulk_action_items i
    where h.actor = 'bulk_action:' || i.execution_id and i.item_id = h.execution_id and i.outcome = 'done')
union all
select 'done without an item', x.id, x.spec ->> 'action_type' from app.executions x
join app.bulk_actions b on b.execution_id = x.id
join (select actor, count(*) as started from history where event = 'start' group by 1) h on h.actor = 'bulk_action:' || x.id
where h.started > b.done or x.spec ->> 'action_type' = 'cancel'
union all
-- 3: a bulk action acts only while it runs
select 'acted while it did not run', h.execution_id, h.actor from history h
left join app.executions x on h.actor = 'bulk_action:' || x.id and x.family = 'bulk_action'
where h.actor like 'bulk_action:%' and (h.at >= x.started_at and (x.finished_at is null or h.at <= x.finished_at)) is not true
union all
-- 5: and only in its own agency
select 'changed by a stranger', h.execution_id, h.actor from history h
join app.executions x on h.actor = 'bulk_action:' || x.id
where x.agency_id <> h.agency_id
union all
select 'agencies mixed', b.execution_id, 'bulk action' from app.bulk_actions b
join app.executions x on x.id = b.execution_id where x.agency_id <> b.agency_id
union all
select 'agencies mixed', i.execution_id, 'item ' || i.item_id from app.bulk_action_items i
join app.executions x on x.id in (i.execution_id, i.item_id) where x.agency_id <> i.agency_id
union all
-- 10: deliveries are sent under a lease, one at a time, and none begins after the end
select 'delivering without a lease', d.execution_id, d.event from app.deliveries d
join app.executions x on x.id = d.execution_id
where d.status = 'sending' and x.status not in ('running', 'cancelling')
union all
select 'two deliveries under way', d.execution_id, count(*)::text from app.deliveries d
where d.status = 'sending' group by d.execution_id having count(*) > 1
union all
select 'delivered after the end', d.execution_id, d.event from app.deliveries d
join app.executions x on x.id = d.execution_id
where d.number <> -1 and (d.created_at > x.finished_at or d.status = 'delivered' and d.finished_at > x.finished_at
  or d.status = 'queued')
union all
select 'final event before the end', d.execution_id, d.event from app.deliveries d
join app.executions x on x.id = d.execution_id
where d.number = -1 and (x.finished_at is null or d.created_at < x.finished_at or d.status in ('sending', 'unknown'))
union all
-- 10: the audit counts the unknown deliveries that a transition left. One that was sent again is no longer unknown.
select 'in flight miscounted', h.execution_id, h.event || ': ' || coalesce(h.in_flight::text, 'null') from history h
left join lateral (
  select count(*) as unknown from app.deliveries d
  where (d.agency_id, d.execution_id) = (h.agency_id, h.execution_id) and d.status = 'unknown'
    and d.finished_at > h.previous_at and d.finished_at <= h.at
) given_up on true
where coalesce(h.in_flight, 0) > 1 or given_up.unknown > coalesce(h.in_flight, 0)
  or h.is_last and given_up.unknown < coalesce(h.in_flight, 0)
