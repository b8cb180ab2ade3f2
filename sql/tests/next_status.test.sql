-- The state machine: its table, each of its transitions on a row, and that no other transition is allowed.
begin;
select plan(12);

select bag_eq(
  $$ select s.status, e.event, app.next_status(s.status, e.event)
     from unnest(array[null, 'queued', 'running', 'cancelling', 'completed', 'failed', 'cancelled', 'x']) as s (status),
       unnest(array[null, 'start', 'claim', 'cancel', 'request_cancel', 'acknowledge', 'expire', 'complete', 'fail',
         'release', 'x']) as e (event)
     where app.next_status(s.status, e.event) is not null $$,
  $$ values
       (null, 'start', 'queued'),
       ('queued', 'claim', 'running'), ('queued', 'cancel', 'cancelled'), ('queued', 'request_cancel', 'cancelled'),
       ('running', 'cancel', 'cancelled'), ('running', 'request_cancel', 'cancelling'),
       ('running', 'complete', 'completed'), ('running', 'fail', 'failed'), ('running', 'release', 'queued'),
       ('cancelling', 'acknowledge', 'cancelled'), ('cancelling', 'expire', 'cancelled'),
       ('cancelling', 'complete', 'completed'), ('cancelling', 'fail', 'failed') $$,
  'these transitions and no others');

insert into public.agencies (id, name) values ('11111111-1111-4111-8111-111111111111', 'Agency');

-- Makes these transitions on a new execution of this family and returns what its audit recorded, which must be the same.
create function pg_temp.walk(family text, path text) returns text language plpgsql as $$
declare
  v_id uuid;
  transition text;
begin
  insert into app.executions (agency_id, family) values ('11111111-1111-4111-8111-111111111111', walk.family)
  returning id into v_id;
  foreach transition in array string_to_array(path, ', ') loop
    update app.executions
    set event = split_part(transition, ' ', 1), status = split_part(transition, ' ', 2), leased_by = 'worker', lease_seconds = 30
    where id = v_id;
  end loop;
  return (
    select string_agg(e.event || ' ' || e.to_status, ', ' order by e.id)
    from app.execution_events as e where e.execution_id = v_id and e.event <> 'start');
end $$;

select is(pg_temp.walk(family, path), path, family || ': ' || path)
from (values
  ('historical_sync', 'claim running, complete completed'),
  ('historical_sync', 'claim running, fail failed'),
  ('historical_sync', 'claim running, release queued, claim running, cancel cancelled'),
  ('historical_sync', 'cancel cancelled'),
  ('bulk_sync', 'request_cancel cancelled'),
  ('bulk_sync', 'claim running, request_cancel cancelling, acknowledge cancelled'),
  ('bulk_sync', 'claim running, request_cancel cancelling, expire cancelled'),
  ('bulk_sync', 'claim running, request_cancel cancelling, complete completed'),
  ('bulk_sync', 'claim running, request_cancel cancelling, fail failed')
) as paths (family, path);

select throws_ok(
  $$ select pg_temp.walk('historical_sync', 'claim running, cancel cancelled, complete completed') $$,
  'PT409', 'invalid_transition', 'an outcome after the cancel is rejected');

-- Every event with every status on each finished row.
create function pg_temp.accepted() returns setof text language plpgsql as $$
declare
  finished app.executions;
  transition record;
begin
  for finished in select * from app.executions where finished_at is not null loop
    for transition in
      select * from unnest(array['start', 'claim', 'cancel', 'request_cancel', 'acknowledge', 'expire', 'complete',
          'fail', 'release']) as e (event),
        unnest(array['queued', 'running', 'cancelling', 'completed', 'failed', 'cancelled']) as s (status)
      where s.status <> finished.status
    loop
      begin
        update app.executions set event = transition.event, status = transition.status, leased_by = 'worker', lease_seconds = 30
        where id = finished.id;
        return next finished.status || ': ' || transition.event || ' ' || transition.status;
      exception when sqlstate 'PT409' then null;
      end;
    end loop;
  end loop;
end $$;

select is_empty('select pg_temp.accepted()', 'completed, failed and cancelled are final');

select * from finish();
rollback;
