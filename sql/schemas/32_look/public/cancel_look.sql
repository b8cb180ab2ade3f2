-- Takes a look back that nobody waits for any longer: a worker that comes back has better to do. Answers as get_look, and
-- one that has ended already stays what it is.
create or replace function public.cancel_look(look_id uuid)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  caller constant app.caller := app.caller();
begin
  perform public.get_look(look_id); -- it is a look, and the caller's
  perform app.cancel_each(array[look_id], 'nobody waits');
  return public.get_look(look_id);
end $$;

revoke all on function public.cancel_look from public, anon, authenticated, service_role;
grant execute on function public.cancel_look to anon, authenticated, service_role;
