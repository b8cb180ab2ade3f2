create trigger guard before insert or update or delete on app.executions
  for each row execute function app.guard_execution();
create trigger guard_truncate before truncate on app.executions
  for each statement execute function app.guard_execution();

create trigger audit_start after insert on app.executions
  for each row execute function app.record_event();
create trigger audit_move after update on app.executions
  for each row when (old.status is distinct from new.status) execute function app.record_event();
create trigger audit_end after delete on app.executions
  for each row execute function app.drop_events();

create trigger guard before insert or update or delete or truncate on app.execution_events
  for each statement execute function app.reject_audit_change();
