-- Deletes the row of a claimed secret (worker_claim_deleted_secrets) that the external store has deleted. Returns null.
create or replace function public.worker_ack_deleted_secret(secret_id uuid)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
begin
  delete from app.secrets as s where s.id = secret_id and s.delete_at is not null and s.used_at is not null;
  return null;
end $$;

revoke all on function public.worker_ack_deleted_secret from public, anon, authenticated, service_role;
grant execute on function public.worker_ack_deleted_secret to service_role;
