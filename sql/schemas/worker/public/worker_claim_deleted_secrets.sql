-- Hands out at most `max_secrets` secrets for the worker to delete in the external store: those of deleted connections,
-- and reserved ones that no connection used. Each is handed out again after five minutes unless
-- worker_ack_deleted_secret was called.
-- Returns a JSON array of {id, name}.
create or replace function public.worker_claim_deleted_secrets(max_secrets int default 100)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
  claimed jsonb;
begin
  if (max_secrets between 1 and 1000) is not true then
    perform app.raise_error(400, 'invalid_limit', 'max_secrets must be 1 to 1000.');
  end if;
  with taken as (
    update app.secrets as s set used_at = coalesce(s.used_at, now()), delete_at = now() + interval '5 minutes'
    where s.id = any(array(
      select s.id from app.secrets as s
      where s.delete_at <= now()
      order by s.delete_at limit worker_claim_deleted_secrets.max_secrets for update skip locked))
    returning s.id, s.name
  )
  select coalesce(jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name) order by t.id), '[]') into claimed
  from taken as t;
  return claimed;
end $$;

revoke all on function public.worker_claim_deleted_secrets from public, anon, authenticated, service_role;
grant execute on function public.worker_claim_deleted_secrets to service_role;
