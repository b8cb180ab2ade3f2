-- Reserves a name in the external secret store. The secret stored under it becomes a connection's through `secret_id`
-- within an hour, or is deleted. fingerprint: SHA-256 of Idempotency-Key and secret, by which a repeated request is
-- recognized.
-- Returns {secret_id, name}.
create or replace function public.reserve_secret(fingerprint text default null)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  caller constant app.caller := app.caller();
  reserved app.secrets;
begin
  perform app.require_agency(caller, 'secret');
  if fingerprint !~ '^[0-9a-f]{64}$' then
    perform app.raise_error(400, 'invalid_fingerprint', 'fingerprint must be a SHA-256 in lower-case hexadecimal.');
  end if;
  reserved := app.reserve_secret(fingerprint);
  return jsonb_build_object('secret_id', reserved.id, 'name', reserved.name);
end $$;

revoke all on function public.reserve_secret from public, anon, authenticated, service_role;
grant execute on function public.reserve_secret to anon, authenticated, service_role;
