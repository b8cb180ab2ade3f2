-- Returns a job's resources as the worker runs them, validated. Each gets `parent`, the position (from 0) of the
-- resource that `depends_on` names (of several with that name, one that is listed rather than fetched), and `persist`.
-- Cycles are rejected.
create or replace function app.resource_nodes(resources jsonb)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  size constant int := case jsonb_typeof(resources) when 'array' then jsonb_array_length(resources) else 0 end;
  node jsonb;
  parents int[] := '{}';
  parent int;
  nodes jsonb := '[]';
begin
  if size not between 1 and 100 then
    perform app.raise_error(400, 'invalid_resources', 'resources must be a list of 1 to 100 resources.');
  end if;
  for i in 0 .. size - 1 loop
    node := resources -> i;
    if (jsonb_typeof(node -> 'resource') = 'string' and length(node ->> 'resource') between 1 and 200) is not true then
      perform app.raise_error(400, 'invalid_resources',
        'resources.' || i || '.resource must be a name of 1 to 200 characters.');
    end if;
    if (node ->> 'method' in ('list', 'get')) is not true then
      perform app.raise_error(422, 'unsupported_field', 'Not supported yet: methods other than list and get.',
        jsonb_build_object('fields', jsonb_build_array('resources.' || i || '.method')));
    end if;
    if node ->> 'method' = 'get' and coalesce(node ->> 'id', '') = '' then
      perform app.raise_error(400, 'invalid_resources', 'resources.' || i || '.id is required for the method get.');
    end if;
    parent := null;
    if node ->> 'depends_on' is not null then
      select j into parent from generate_series(0, size - 1) as j
      where j <> i and resources -> j -> 'resource' = node -> 'depends_on'
      order by resources -> j ->> 'method' = 'list' desc, j limit 1;
      if not found then
        perform app.raise_error(400, 'unknown_dependency',
          'resources.' || i || '.depends_on must be another resource of this job.',
          jsonb_build_object('depends_on', left(node ->> 'depends_on', 200)));
      end if;
    end if;
    parents := parents || parent;
    nodes := nodes || jsonb_build_array(node || jsonb_build_object('parent', parent, 'persist', coalesce(
      (node ->> 'persist')::boolean, position('/' in node ->> 'resource') > 0)));
  end loop;
  for i in 1 .. size loop
    parent := parents[i];
    for step in 1 .. size loop
      exit when parent is null;
      parent := parents[parent + 1];
    end loop;
    if parent is not null then
      perform app.raise_error(400, 'circular_dependency', 'depends_on must not form a cycle.',
        jsonb_build_object('resource', resources -> (i - 1) -> 'resource'));
    end if;
  end loop;
  return nodes;
end $$;

revoke all on function app.resource_nodes from public, anon, authenticated, service_role;
grant execute on function app.resource_nodes to authenticated, service_role;
