-- Cancels the bulk sync's active execution: one that waits is canceled at once, one that runs is `canceling` until its worker
-- has stopped, at most until the deadline. Asked again it answers the same and changes nothing; with nothing active it says so.
-- Answer: {data: {message, execution_id, status}}. Heeds an Idempotency-Key.
create or replace function public.cancel_bulk_sync(sync_id uuid)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
  request constant jsonb := jsonb_build_object('sync_id', sync_id);
  answer jsonb := app.recall_answer(caller, 'cancel_bulk_sync', request);
begin
  if answer is not null then
    return answer;
  end if;
  answer := app.cancel_answer(app.cancel_active(app.find_definition('bulk_sync', sync_id)));
  return app.remember_answer(caller, 'cancel_bulk_sync', request, answer);
end $$;

revoke all on function public.cancel_bulk_sync from public, anon, authenticated, service_role;
grant execute on function public.cancel_bulk_sync to anon, authenticated, service_role;
