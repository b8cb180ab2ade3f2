create policy "Members see their agency" on public.agencies
  for select to authenticated using (id = (select app.agency_id()));
