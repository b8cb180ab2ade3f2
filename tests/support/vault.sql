-- The parts of Supabase Vault that are called. It stores texts reversed, so that a test detects code that returns the
-- stored text.
create schema vault;
create table vault.secrets (
  id uuid primary key default gen_random_uuid(), name text unique, description text, secret text);
create view vault.decrypted_secrets as select s.*, reverse(s.secret) as decrypted_secret from vault.secrets as s;
create function vault.create_secret(
  new_secret text, new_name text default null, new_description text default '', new_key_id uuid default null)
returns uuid language sql as $$
  insert into vault.secrets (name, description, secret) values (new_name, new_description, reverse(new_secret))
  returning id
$$;
grant usage on schema vault to postgres;
grant select, delete on vault.secrets, vault.decrypted_secrets to postgres;
grant insert on vault.secrets to postgres;
