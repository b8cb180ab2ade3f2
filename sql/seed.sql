-- Example agencies for `supabase start` and the embedded stack. Never applied to a hosted project.
insert into public.agencies (id, name) values
  ('a0000000-0000-4000-8000-000000000001', 'North Agency'),
  ('a0000000-0000-4000-8000-000000000002', 'South Agency')
on conflict do nothing;
