-- Hands at most `limit` secrets, which the worker is to forget in the store outside: those of deleted connections, and
-- those that no connection came for. Each for five minutes; unless it is settled by then (worker_ack_deleted_secret), it is
-- handed out again. Answer: JSON array of {id, name}.
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
    perform app.raise_error(400, 'invalid_limit', 'limit is 1 to 1000.');
  end if;
  with taken as (
    update app.secrets as s set used_at = coalesce(s.used_at, now()), delete_at = now() + interval '5 minutes'
    where s.id = any(array(
      select due.id from app.secrets as due
      where due.delete_at <= now()
      order by due.delete_at limit worker_claim_deleted_secrets.max_secrets for update skip locked))
    returning s.id, s.name
  )
  select coalesce(jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name) order by t.id), '[]') into claimed
  from taken as t;
  return claimed;
end $$;

revoke all on function public.worker_claim_deleted_secrets from public, anon, authenticated, service_role;
grant execute on function public.worker_claim_deleted_secrets to service_role;
