-- Stores one batch with its checkpoint and progress, all or nothing, under the row's lock, so that committing is the
-- cancel check. `continue` and `cancel` mean stored, `lost` means that nothing was (see app.lease_result).
--   seq      the last committed + 1 stores; the last repeats its result, so a call whose response was lost can be repeated
--   records  JSON array of {key, data}, at most 5,000 and 16 MiB; a key (text, at most 2,000
--            bytes, because it is indexed) that exists is updated (see app.store_records)
--   errors   JSON array of messages, one for each record of the source that cannot be stored
--   done     this was the resource's last batch
--   fetched  how many records were read, if they are not among `records`: passed on only, or delivered
create or replace function public.worker_commit_batch(
  execution_id uuid, lease_token bigint, seq bigint, resource text, records jsonb, checkpoint jsonb, progress jsonb,
  done boolean default false, errors jsonb default '[]', method text default 'list', fetched int default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  size int;
  execution app.executions;
  stored record;
begin
  if (jsonb_typeof(records) = 'array' and jsonb_typeof(checkpoint) = 'object' and jsonb_typeof(progress) = 'object'
      and jsonb_typeof(errors) = 'array' and done is not null and length(method) between 1 and 50
      and octet_length(resource) between 1 and 200) is not true then
    perform app.raise_error(400, 'invalid_batch',
      'resource must have 1 to 200 bytes, records and errors must be lists, checkpoint and progress objects.');
  end if;
  size := jsonb_array_length(records);
  if size + jsonb_array_length(errors) > 5000 or fetched not between 0 and 100000 or pg_column_size(records) > 16 * 1024 * 1024 then
    perform app.raise_error(413, 'batch_too_large', 'A batch must have at most 5000 records and 16 MiB. Split it.');
  end if;
  if exists (
    select from jsonb_array_elements(records) as item
    where (jsonb_typeof(item -> 'key') = 'string' and octet_length(item ->> 'key') <= 2000 and item ? 'data') is not true
  ) then
    perform app.raise_error(400, 'invalid_batch',
      'Each record must have data and a key, a text of at most 2000 bytes.');
  end if;
  execution := app.lock_leased_execution(execution_id, lease_token);
  if execution.id is null or execution.seq = worker_commit_batch.seq and worker_commit_batch.seq > 0 then
    return app.lease_result(execution);
  end if;
  if execution.seq + 1 is distinct from worker_commit_batch.seq then
    perform app.raise_error(409, 'unexpected_seq', 'seq must be ' || execution.seq + 1 || '.',
      jsonb_build_object('expected_seq', execution.seq + 1));
  end if;

  stored := app.store_records(execution, resource, records, seq);
  size := coalesce(fetched, size + jsonb_array_length(errors));
  insert into app.execution_resources as r
    (agency_id, execution_id, resource, method, started_at, finished_at, records, inserted, updated, failed, errors)
  values
    (execution.agency_id, execution.id, worker_commit_batch.resource, worker_commit_batch.method, clock_timestamp(),
     case when done then clock_timestamp() end, size, stored.inserted, stored.updated,
     jsonb_array_length(worker_commit_batch.errors), app.append_errors('[]', worker_commit_batch.errors))
  on conflict on constraint execution_resources_pkey do update
  set finished_at = excluded.finished_at, records = r.records + excluded.records, inserted = r.inserted + excluded.inserted,
      updated = r.updated + excluded.updated, failed = r.failed + excluded.failed,
      errors = app.append_errors(r.errors, worker_commit_batch.errors);

  update app.executions as e
  set seq = worker_commit_batch.seq, checkpoint = worker_commit_batch.checkpoint, progress = worker_commit_batch.progress,
      records = e.records + size, attempts = 0,
      lease_expires_at = clock_timestamp() + make_interval(secs => e.lease_seconds)
  where e.id = execution.id;
  return app.lease_result(execution);
end $$;

revoke all on function public.worker_commit_batch from public, anon, authenticated, service_role;
grant execute on function public.worker_commit_batch to service_role;
