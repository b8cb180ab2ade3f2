create trigger guard_start before insert on app.executions
  for each row execute function app.guard_start();
create trigger guard_transition before update on app.executions
  for each row when (old.status is distinct from new.status) execute function app.guard_transition();
create trigger guard_update before update on app.executions
  for each row when (old.status is not distinct from new.status) execute function app.guard_update();
create trigger guard_deletion before delete on app.executions
  for each row execute function app.guard_deletion();
create trigger guard_truncate before truncate on app.executions
  for each statement execute function app.guard_deletion();

create trigger audit_start after insert on app.executions
  for each row execute function app.record_event();
create trigger audit_transition after update on app.executions
  for each row when (old.status is distinct from new.status) execute function app.record_event();
create trigger audit_deletion after delete on app.executions
  for each row execute function app.drop_events();

create trigger guard before insert or update or delete or truncate on app.execution_events
  for each statement execute function app.reject_audit_change();
