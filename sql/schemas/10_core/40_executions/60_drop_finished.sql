-- Retention: drops finished executions with their events, at most `limit_` of them. For the owner alone.
create or replace function app.drop_finished(older_than interval, limit_ int default 1000)
returns int
language plpgsql
set search_path = ''
as $$
declare
  dropped int;
begin
  delete from app.executions as e
  where e.id = any(array(
    select f.id from app.executions as f
    where f.finished_at < now() - older_than
    order by f.finished_at limit limit_ for update skip locked));
  get diagnostics dropped = row_count;
  return dropped;
end $$;

revoke all on function app.drop_finished from public;
