-- Who calls, as app.caller() answers: the agency (null: any) and the name that the audit shows.
create type app.caller as (agency_id uuid, actor text);
