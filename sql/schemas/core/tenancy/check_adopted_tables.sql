-- A project may already have public.users or public.agencies; they are adopted as they are. Because users.agency_id decides
-- which agency a user belongs to, no caller may be able to write it, nor the id that identifies the user.
-- Returns each violated condition with the statements that repair it (null: no statement can). The baseline migration and
-- the worker's tick both run this function. It reads the catalogs only, and checks a table only if it exists.
create or replace function app.check_adopted_tables()
returns table (problem text, remedy text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
  with
    adopted as (
      select c.oid, 'public.' || c.relname as name, c.relkind, c.relrowsecurity,
        coalesce(c.relacl, acldefault('r', c.relowner)) as acl
      from pg_class as c
      where c.relnamespace = 'public'::regnamespace and c.relname in ('users', 'agencies')
    ),
    -- The columns that are relied on; attnum is null where one is missing.
    required as (
      select t.oid, t.name, column_name, a.attnum, format_type(a.atttypid, a.atttypmod) as type,
        a.attgenerated, a.attacl
      from (values ('public.users', 'id'), ('public.users', 'agency_id'), ('public.agencies', 'id'))
        as r (table_name, column_name)
      join adopted as t on t.name = r.table_name
      left join pg_attribute as a on a.attrelid = t.oid and a.attname = r.column_name and not a.attisdropped
    ),
    -- Privileges through PUBLIC or through another role count as well.
    table_grants as (
      select distinct t.oid, t.name, lower(acl.privilege_type) as privilege, acl.grantee
      from adopted as t, aclexplode(t.acl) as acl
      where t.name = 'public.users' and acl.privilege_type in ('INSERT', 'UPDATE')
        and (acl.grantee = 0 or pg_has_role('anon', acl.grantee, 'usage') or pg_has_role('authenticated', acl.grantee, 'usage'))
    ),
    column_grants as (
      select distinct r.name, r.attnum, r.column_name, lower(acl.privilege_type) as privilege, acl.grantee
      from required as r, aclexplode(r.attacl) as acl
      where r.name = 'public.users' and acl.privilege_type in ('INSERT', 'UPDATE')
        and (acl.grantee = 0 or pg_has_role('anon', acl.grantee, 'usage') or pg_has_role('authenticated', acl.grantee, 'usage'))
        -- Revoking the privilege on the table revokes it on the columns as well.
        and not exists (
          select from table_grants as g where g.grantee = acl.grantee and g.privilege = lower(acl.privilege_type))
    )
  select t.name || ' is not a table.', null
  from adopted as t where t.relkind not in ('r', 'p')
  union all
  select t.name || ' has partitions or child tables, which have grants and policies of their own.', null
  from adopted as t
  where t.relkind = 'p' or exists (select from pg_inherits as i where t.oid in (i.inhparent, i.inhrelid))
  union all
  select format('%s.%s does not exist.', r.name, r.column_name),
    format('alter table %s add column %I uuid;', r.name, r.column_name)
  from required as r where r.attnum is null
  union all
  select format('%s.%s has the type %s, not uuid.', r.name, r.column_name, r.type),
    format('alter table %1$s alter column %2$I type uuid using %2$I::text::uuid;', r.name, r.column_name)
  from required as r where r.type <> 'uuid'
  union all
  select format('%s.%s is generated from other columns, which callers may be able to change.', r.name, r.column_name), null
  from required as r where r.attgenerated <> ''
  union all
  select r.name || '.id is not unique.', format('alter table %s add unique (id);', r.name)
  from required as r
  where r.column_name = 'id' and not exists (
    select from pg_index as i
    where i.indrelid = r.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indnkeyatts = 1
      and i.indkey[0] = r.attnum and i.indpred is null and i.indexprs is null)
  union all
  select 'public.users.id does not reference auth.users (id).',
    'alter table public.users add foreign key (id) references auth.users (id) on delete cascade;'
  from required as r
  where r.name = 'public.users' and r.column_name = 'id' and not exists (
    select from pg_constraint as f
    join pg_attribute as a on a.attrelid = f.confrelid and a.attname = 'id'
    where f.conrelid = r.oid and f.contype = 'f' and f.convalidated and f.confrelid = to_regclass('auth.users')
      and f.conkey = array[r.attnum] and f.confkey = array[a.attnum])
  union all
  select t.name || ' has no row-level security.', format('alter table %s enable row level security;', t.name)
  from adopted as t where t.relkind = 'r' and not t.relrowsecurity
  union all
  -- The privilege is taken from the table and granted again on every other column.
  select format('%s may %s id and agency_id of %s, through a grant on the table.', roles.list, roles.privilege, roles.name),
    format('revoke %s on %s from %s;', roles.privilege, roles.name, roles.list)
    || coalesce(E'\n' || format('grant %s (%s) on %s to %s;', roles.privilege, others.list, roles.name, roles.list), '')
  from (
    select g.oid, g.name, g.privilege,
      string_agg(case g.grantee when 0 then 'public' else g.grantee::regrole::text end, ', ' order by g.grantee) as list
    from table_grants as g group by g.oid, g.name, g.privilege
  ) as roles
  cross join lateral (
    select string_agg(quote_ident(a.attname), ', ' order by a.attnum) as list
    from pg_attribute as a
    where a.attrelid = roles.oid and a.attnum > 0 and not a.attisdropped and a.attname not in ('id', 'agency_id')
  ) as others
  union all
  select format('%s may %s %s.%s.', g.list, g.privilege, g.name, g.column_name),
    format('revoke %s (%I) on %s from %s;', g.privilege, g.column_name, g.name, g.list)
  from (
    select c.name, c.column_name, c.privilege,
      string_agg(case c.grantee when 0 then 'public' else c.grantee::regrole::text end, ', ' order by c.grantee) as list
    from column_grants as c group by c.name, c.column_name, c.privilege
  ) as g
  union all
  -- A view reads and writes with its owner's privileges, unless it says otherwise.
  select format('public.users can be changed through the view %s.', v.oid::regclass),
    format('alter view %s set (security_invoker = true);', v.oid::regclass)
  from pg_class as v
  where v.relkind = 'v' and pg_relation_is_updatable(v.oid, true) & 12 <> 0
    and not coalesce(v.reloptions && array['security_invoker=true', 'security_invoker=on'], false)
    and exists (
      select from pg_rewrite as r
      join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
      where r.ev_class = v.oid and d.refobjid = to_regclass('public.users'))
    and (has_any_column_privilege('anon', v.oid, 'insert, update')
      or has_any_column_privilege('authenticated', v.oid, 'insert, update'));
end $$;

revoke all on function app.check_adopted_tables from public, anon, authenticated, service_role;
grant execute on function app.check_adopted_tables to service_role;
