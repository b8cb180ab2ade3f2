-- Whether the current role may fire this event on an execution of this family. Every role may cancel, but only with the
-- family's cancel event. Only trusted roles may fire other events.
create or replace function app.may_fire_event(guarded oid, family text, event text)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user not in ('authenticated', 'service_role') then
    perform app.require_table_owner(guarded);
  end if;
  if event in ('cancel', 'request_cancel') then
    return event = (select f.cancel_event from app.families as f where f.family = may_fire_event.family);
  end if;
  return current_user <> 'authenticated';
end $$;

revoke all on function app.may_fire_event from public, anon, authenticated, service_role;
grant execute on function app.may_fire_event to authenticated, service_role;
