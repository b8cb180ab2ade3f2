-- Returns an actor as the published APIs show it: {id, type, name}.
create or replace function app.actor_object(actor text)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object('id', split_part(actor, ':', 2), 'type', split_part(actor, ':', 1), 'name', actor);
end $$;

revoke all on function app.actor_object from public, anon, authenticated, service_role;
grant execute on function app.actor_object to authenticated, service_role;
