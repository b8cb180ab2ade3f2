-- For a test of a change: the stored secret's members that the change does not bring. Only where it goes to the same address
-- in the same way: who changes those has to know the secret, or could have it sent to themselves. A definer, as callers
-- cannot read secrets; both connections are of the caller's agency, and the one written to was made for the test.
create or replace function app.copy_secret(stored uuid, tested uuid)
returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
  agency constant uuid := (select identity.agency_id from app.identify() as identity where identity.is_live);
begin
  update app.connections as t set secret = s.secret || t.secret
  from app.connections as s
  where s.id = stored and s.agency_id = agency and s.deleted_at is null
    and t.id = tested and t.agency_id = agency and t.deleted_at is not null
    and t.config -> 'base_url' = s.config -> 'base_url'
    and t.config -> 'auth' -> 'type' = s.config -> 'auth' -> 'type';
end $$;

revoke all on function app.copy_secret from public;
grant execute on function app.copy_secret to authenticated;
