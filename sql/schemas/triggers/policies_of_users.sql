create policy "Users see themselves" on public.users
  for select to authenticated
  using (id = (select identity.user_id from app.identify() as identity where identity.is_live));
