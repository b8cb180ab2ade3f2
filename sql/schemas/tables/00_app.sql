-- Tables and rules are in `app`, which no API exposes. `public` holds what callers may use, and nothing else.
create schema app;
revoke all on schema app from public, anon, authenticated, service_role;
grant usage on schema app to anon, authenticated, service_role;
