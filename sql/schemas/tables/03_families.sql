-- The vocabulary of each family on one screen: how it cancels, what it calls each status, and what a stranger sees.
--   cancel_event    `cancel` ends at once; `request_cancel` leaves the worker until the deadline (`grace`)
--   queued          the word while it may start; `scheduled` while its `run_at` is still to come
--   foreign_status  the HTTP status for a row of another agency
create view app.families with (security_invoker = true) as
select * from (values
  ('historical_sync', 'cancel',         interval '0',   403, 'pending',   'pending',   'in_progress', null,        'completed', 'failed', 'cancelled'),
  ('sync_job_run',    'cancel',         interval '0',   404, 'created',   'created',   'running',     null,        'completed', 'failed', 'stopped'),
  ('bulk_sync',       'request_cancel', interval '30s', 404, 'created',   'scheduled', 'running',     'canceling', 'completed', 'failed', 'canceled'),
  ('model_sync',      'request_cancel', interval '30s', 404, 'created',   'scheduled', 'running',     'canceling', 'completed', 'failed', 'canceled'),
  ('bulk_action',     'cancel',         interval '0',   404, 'scheduled', 'scheduled', 'running',     null,        'completed', 'failed', 'cancelled'),
  -- Our own, while a caller waits: what a source has to show (see 35_looks).
  ('source_check',     'cancel',         interval '0',   404, 'created',   'created',   'running',     null,        'completed', 'failed', 'cancelled')
) as vocabulary (family, cancel_event, grace, foreign_status, queued, scheduled, running, cancelling, completed, failed, cancelled);

revoke all on app.families from public;
grant select on app.families to authenticated, service_role;
