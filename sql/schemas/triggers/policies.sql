-- Policies name the agency only. A status in an UPDATE policy would hide rows from `for update`.
create policy "Members see their agency's connections" on app.connections
  for select to authenticated using (agency_id = (select app.agency_id()));
create policy "Members connect their agency" on app.connections
  for insert to authenticated with check (agency_id = (select app.agency_id()));
create policy "Members disconnect their agency" on app.connections
  for update to authenticated
  using (agency_id = (select app.agency_id())) with check (agency_id = (select app.agency_id()));

create policy "Members define what their agency runs" on app.definitions
  for all to authenticated
  using (agency_id = (select app.agency_id())) with check (agency_id = (select app.agency_id()));

create policy "Members manage their agency's keys" on app.api_keys
  for all to authenticated
  using (agency_id = (select app.agency_id())) with check (agency_id = (select app.agency_id()));

create policy "Members see their agency's executions" on app.executions
  for select to authenticated using (agency_id = (select app.agency_id()));
create policy "Members start executions of their agency" on app.executions
  for insert to authenticated with check (agency_id = (select app.agency_id()));
create policy "Members cancel executions of their agency" on app.executions
  for update to authenticated
  using (agency_id = (select app.agency_id())) with check (agency_id = (select app.agency_id()));

create policy "Members see their agency's audit" on app.execution_events
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Members see what their executions did" on app.execution_resources
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Members see their agency's deliveries" on app.deliveries
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Members see their agency's bulk actions" on app.bulk_actions
  for select to authenticated using (agency_id = (select app.agency_id()));
create policy "Members see what their bulk actions act on" on app.bulk_action_items
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Members see their agency's records" on app.records
  for select to authenticated using (agency_id = (select app.agency_id()));

create policy "Callers see their own responses" on app.idempotency_keys
  for all to authenticated
  using (agency_id = (select app.agency_id()) and actor = (select (app.caller()).actor))
  with check (agency_id = (select app.agency_id()) and actor = (select (app.caller()).actor));
