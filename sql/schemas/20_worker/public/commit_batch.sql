-- Stores one batch with its checkpoint and progress, all or nothing, under the row's lock: to persist is to ask
-- whether to go on. `continue` and `cancel` mean stored, `lost` means nothing was (see app.lease_answer).
--   seq      the last committed + 1 stores; the last repeats its answer, so a lost answer can be asked for again
--   records  JSON array of {key, data}, at most 5,000 and 16 MiB; a key (text, at most 2,000 bytes: it is indexed) sent
--            before is replaced
create or replace function public.commit_batch(
  execution_id uuid, lease bigint, seq bigint, resource text, records jsonb, checkpoint jsonb, progress jsonb)
returns jsonb
language plpgsql
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  size int;
  execution app.executions;
begin
  if (jsonb_typeof(records) = 'array' and jsonb_typeof(checkpoint) = 'object' and jsonb_typeof(progress) = 'object'
      and octet_length(resource) between 1 and 200) is not true then
    perform app.refuse(400, 'invalid_batch',
      'A batch has a resource of 1 to 200 bytes, a list of records, and a checkpoint and progress that are objects.');
  end if;
  size := jsonb_array_length(records);
  if size > 5000 or pg_column_size(records) > 16 * 1024 * 1024 then
    perform app.refuse(413, 'batch_too_large', 'A batch has at most 5000 records and 16 MiB.');
  end if;
  if exists (
    select from jsonb_array_elements(records) as item
    where (jsonb_typeof(item -> 'key') = 'string' and octet_length(item ->> 'key') <= 2000 and item ? 'data') is not true
  ) then
    perform app.refuse(400, 'invalid_batch', 'A record has a key, which is a text of at most 2000 bytes, and data.');
  end if;
  execution := app.lock_lease(execution_id, lease);
  if execution.id is null or execution.seq = commit_batch.seq and commit_batch.seq > 0 then
    return app.lease_answer(execution);
  end if;
  if execution.seq + 1 is distinct from commit_batch.seq then
    perform app.refuse(409, 'unexpected_seq', 'The next batch is number ' || execution.seq + 1 || '.',
      jsonb_build_object('expected_seq', execution.seq + 1));
  end if;

  -- Sorted, so that two executions of one connection lock records in one order; of a repeated key the last counts.
  insert into app.records as r (agency_id, connection_id, resource, key, data, execution_id, stored_at)
  select distinct on (item.value ->> 'key')
    execution.agency_id, execution.connection_id, commit_batch.resource,
    item.value ->> 'key', item.value -> 'data', execution.id, clock_timestamp()
  from jsonb_array_elements(commit_batch.records) with ordinality as item (value, position)
  order by item.value ->> 'key', item.position desc
  on conflict on constraint records_pkey do update
  set data = excluded.data, execution_id = excluded.execution_id, stored_at = excluded.stored_at;

  update app.executions as e
  set seq = commit_batch.seq, checkpoint = commit_batch.checkpoint, progress = commit_batch.progress,
      records = e.records + size, attempts = 0,
      lease_expires_at = clock_timestamp() + make_interval(secs => e.lease_seconds)
  where e.id = execution.id;
  return app.lease_answer(execution);
end $$;

revoke all on function public.commit_batch from public, anon, authenticated, service_role;
grant execute on function public.commit_batch to service_role;
