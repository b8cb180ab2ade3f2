-- The vocabulary of all families on one screen: how a family cancels, and its public name of each status.
--   cancel_event    `cancel` ends at once; `request_cancel` leaves the worker until the deadline (`grace`)
--   queued          the name before the start; `scheduled` while `run_at` is in the future
--   foreign_status  the HTTP status for a row of another agency
create view app.families with (security_invoker = true) as
select * from (values
  ('historical_sync', 'cancel',         interval '0',   403, 'pending',   'pending',   'in_progress', null,        'completed', 'failed', 'cancelled'),
  ('sync_job_run',    'cancel',         interval '0',   404, 'created',   'created',   'running',     null,        'completed', 'failed', 'stopped'),
  ('bulk_sync',       'request_cancel', interval '30s', 404, 'created',   'scheduled', 'running',     'canceling', 'completed', 'failed', 'canceled'),
  ('model_sync',      'request_cancel', interval '30s', 404, 'created',   'scheduled', 'running',     'canceling', 'completed', 'failed', 'canceled'),
  ('bulk_action',     'cancel',         interval '0',   404, 'scheduled', 'scheduled', 'running',     null,        'completed', 'failed', 'cancelled'),
  -- Internal: a check of a source, for a caller that waits (see source_check/).
  ('source_check',    'cancel',         interval '0',   404, 'created',   'created',   'running',     null,        'completed', 'failed', 'cancelled')
) as vocabulary (family, cancel_event, grace, foreign_status, queued, scheduled, running, cancelling, completed, failed, cancelled);

revoke all on app.families from public, anon, authenticated, service_role;
grant select on app.families to authenticated, service_role;
