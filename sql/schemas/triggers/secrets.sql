create trigger delete_secret after update of secret_id, deleted_at on app.connections
  for each row
  when (old.secret_id is not null
    and (new.secret_id is distinct from old.secret_id or old.deleted_at is null and new.deleted_at is not null))
  execute function app.delete_secret();
create trigger delete_secret_of_dropped after delete on app.connections
  for each row when (old.secret_id is not null) execute function app.delete_secret();
