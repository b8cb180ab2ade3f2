-- A caller, as app.caller() returns it: the agency (null: any) and the actor that the audit records.
create type app.caller as (agency_id uuid, actor text);
