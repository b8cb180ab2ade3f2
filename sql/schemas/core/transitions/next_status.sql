-- The whole state machine on one screen. Null: the transition is not allowed. completed, failed and cancelled are
-- final.
create or replace function app.next_status(status text, event text)
returns text
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
  return case event
    when 'start'          then case when status is null then 'queued' end
    when 'claim'          then case status when 'queued' then 'running' end
    when 'cancel'         then case when status in ('queued', 'running') then 'cancelled' end
    when 'request_cancel' then case status when 'queued' then 'cancelled' when 'running' then 'cancelling' end
    when 'acknowledge'    then case status when 'cancelling' then 'cancelled' end
    when 'expire'         then case status when 'cancelling' then 'cancelled' end
    when 'complete'       then case when status in ('running', 'cancelling') then 'completed' end
    when 'fail'           then case when status in ('running', 'cancelling') then 'failed' end
    when 'release'        then case status when 'running' then 'queued' end
  end;
end $$;

revoke all on function app.next_status from public, anon, authenticated, service_role;
grant execute on function app.next_status to authenticated, service_role;
