"""Every documented error, declared once. Endpoints name those that they return (`Endpoint.errors`).

To add one: declare it here under its code in capitals, raise it in SQL (`app.raise_error`) or in Python (`ApiError`),
name it in the endpoint's `errors`, and add a line to PROVOKED in tests/matrix/test_openapi.py.
Codes are published: they never change. Descriptions are documentation; the sentence of a response may be more specific.
"""

from __future__ import annotations

from functions._shared.errors import ErrorSpec

# Every endpoint
MISSING_TOKEN = ErrorSpec(401, "missing_token", "The request has no access token.")
INVALID_TOKEN = ErrorSpec(401, "invalid_token", "The token is malformed, forged or from another project.")
EXPIRED_TOKEN = ErrorSpec(401, "expired_token", "The token has expired. Refresh the session.")
REVOKED_TOKEN = ErrorSpec(401, "revoked_token", "The session has ended or its user is gone. Sign in again.")
NO_AGENCY = ErrorSpec(403, "no_agency", "Your user belongs to no agency.")
METHOD_NOT_ALLOWED = ErrorSpec(405, "method_not_allowed", "The path does not support this method. See `Allow`.")
BODY_TOO_LARGE = ErrorSpec(413, "body_too_large", "The body is larger than 1 MiB.")
INTERNAL_ERROR = ErrorSpec(500, "internal_error", "Internal error. Report the requestId.")
AUTH_UNAVAILABLE = ErrorSpec(
    503, "auth_unavailable", "The Auth server cannot be reached. Try again after `Retry-After` seconds."
)
DATABASE_UNAVAILABLE = ErrorSpec(
    503, "database_unavailable", "The database cannot be reached. Try again after `Retry-After` seconds."
)

# Endpoints with fields, a body, ids in the path, an API key or an Idempotency-Key
INVALID_FIELD = ErrorSpec(400, "invalid_field", "`field` has the wrong type or value.", {"field": "name"})
MISSING_FIELD = ErrorSpec(400, "missing_field", "`field` is required.", {"field": "name"})
INVALID_JSON = ErrorSpec(400, "invalid_json", "The body is not valid JSON.")
INVALID_REQUEST = ErrorSpec(400, "invalid_request", "The body is not an object, or its fields contradict each other.")
NOT_FOUND = ErrorSpec(404, "not_found", "An id in the path is malformed.")
UNSUPPORTED_FIELD = ErrorSpec(
    422, "unsupported_field", "The `fields` are unknown, or not supported yet.", {"fields": ["filters"]}
)
INVALID_API_KEY = ErrorSpec(401, "invalid_api_key", "The agency's API key is unknown or revoked.")
INVALID_IDEMPOTENCY_KEY = ErrorSpec(
    400, "invalid_idempotency_key", "The Idempotency-Key is empty, too long or not printable ASCII."
)
IDEMPOTENCY_KEY_IN_USE = ErrorSpec(
    409, "idempotency_key_in_use", "The first request with this Idempotency-Key is still running."
)
IDEMPOTENCY_KEY_REUSED = ErrorSpec(
    422, "idempotency_key_reused", "This Idempotency-Key was used for a different request."
)

# Lists
INVALID_PAGE_TOKEN = ErrorSpec(400, "invalid_page_token", "`page_token` is not the next_page_token of a list.")
INVALID_CURSOR = ErrorSpec(400, "invalid_cursor", "The cursor is not one that a list returned.")
INVALID_VALUE = ErrorSpec(400, "invalid_value", "The value of a filter does not have the type of its field.")
UNKNOWN_FILTER = ErrorSpec(
    400, "unknown_filter", "The list has no such field.", {"field": "nme", "available": ["id", "status"]}
)
UNKNOWN_OPERATOR = ErrorSpec(400, "unknown_operator", "The filter operator is unknown.", {"operator": "between"})
UNKNOWN_SORT = ErrorSpec(400, "unknown_sort", "`sort` is neither created_at nor -created_at.")

# Executions
ALREADY_ACTIVE = ErrorSpec(
    409,
    "already_active",
    "Another execution is active. `job_id` is its id.",
    {"job_id": "01a20382-fece-7d96-a5c5-b8c163abfe5d"},
)
EXECUTION_NOT_FOUND = ErrorSpec(404, "execution_not_found", "This sync has no execution with this id.")
JOB_NOT_FOUND = ErrorSpec(404, "job_not_found", "There is no job with this id.")
JOB_OF_ANOTHER_AGENCY = ErrorSpec(403, "job_of_another_agency", "This job belongs to another agency.")
# 400 rather than 409, because the published clients of sync jobs repeat a request after a 409.
NOT_CANCELLABLE = ErrorSpec(
    400,
    "not_cancellable",
    "The execution has already ended. `current_status` is its status.",
    {"current_status": "completed"},
)
NOT_RETRYABLE = ErrorSpec(
    400, "not_retryable", "The job is neither failed nor cancelled.", {"current_status": "in_progress"}
)
SYNC_JOB_RUN_NOT_FOUND = ErrorSpec(404, "sync_job_run_not_found", "There is no sync job run with this id.")

# Connections and their sources
CONNECTION_IN_USE = ErrorSpec(
    422,
    "connection_in_use",
    "The syncs and models in `used_by` use this connection. `force=true` deletes them too.",
    {"used_by": [{"type": "bulk_sync", "id": "248df4b7-aa70-47b8-a036-33ac447e668d", "name": "Flights"}]},
)
CONNECTION_NOT_FOUND = ErrorSpec(404, "connection_not_found", "There is no connection with this id.")
CONNECTION_OF_ANOTHER_AGENCY = ErrorSpec(
    403, "connection_of_another_agency", "This connection belongs to another agency."
)
INVALID_CONFIGURATION = ErrorSpec(
    400, "invalid_configuration", "The configuration is not valid. The message names the field."
)
NOT_A_DESTINATION = ErrorSpec(400, "not_a_destination", "The destination is not a connection of type records.")
NOT_A_SOURCE = ErrorSpec(400, "not_a_source", "The connection receives records and cannot be read from.")
OTHER_ORGANIZATION = ErrorSpec(
    403, "other_organization", "organization_id or environment_id is not that of your agency."
)
OTHER_TYPE = ErrorSpec(400, "other_type", "The stored connection has another type.")
SECRETS_UNAVAILABLE = ErrorSpec(
    503, "secrets_unavailable", "The secret store cannot be reached. Try again after `Retry-After` seconds."
)
SOURCE_NOT_READABLE = ErrorSpec(
    400, "source_not_readable", "The source cannot be read. `reason` is a stable code.", {"reason": "source_refused"}
)
SOURCE_UNAVAILABLE = ErrorSpec(
    503, "source_unavailable", "No worker checked the source in time. Try again after `Retry-After` seconds."
)
UNKNOWN_RESOURCE = ErrorSpec(
    400,
    "unknown_resource",
    "The connection does not have `resource`. It has those in `available`.",
    {"resource": "flight", "available": ["flights", "weather"]},
)

# Bulk syncs
BULK_SYNC_NOT_FOUND = ErrorSpec(404, "bulk_sync_not_found", "There is no bulk sync with this id.")
INVALID_OUTPUT_NAME = ErrorSpec(
    400,
    "invalid_output_name",
    "The name of `schema` in the destination, with its prefix, must have 1 to 200 bytes.",
    {"schema": "flights"},
)
NO_SCHEMAS = ErrorSpec(400, "no_schemas", "No schema is enabled.")
UNKNOWN_SCHEMA = ErrorSpec(
    400,
    "unknown_schema",
    "The source does not have `schema`. It has those in `available`.",
    {"schema": "flight", "available": ["flights", "weather"]},
)

# Models and model syncs
AMBIGUOUS_TARGET = ErrorSpec(400, "ambiguous_target", "Two fields, or a field and the identity, have the same target.")
IDENTITY_REQUIRED = ErrorSpec(400, "identity_required", "`identity` is required unless mode is `append`.")
MODEL_IN_USE = ErrorSpec(
    422,
    "model_in_use",
    "The syncs in `used_by` read this model.",
    {"used_by": [{"type": "model_sync", "id": "248df4b7-aa70-47b8-a036-33ac447e668d", "name": "Airlines"}]},
)
MODEL_NOT_FOUND = ErrorSpec(404, "model_not_found", "There is no model with this id.")
MODEL_SYNC_NOT_FOUND = ErrorSpec(404, "model_sync_not_found", "There is no model sync with this id.")
NOT_THE_IDENTITY = ErrorSpec(
    400,
    "not_the_identity",
    "The rows of `object` are identified by another field than `target`.",
    {"object": "airlines", "target": "name"},
)
UNKNOWN_FIELD = ErrorSpec(
    400,
    "unknown_field",
    "The model does not have `field`. It has those in `available`.",
    {"field": "nme", "available": ["carrier", "name"]},
)

# Sync jobs, their runs and webhooks
CIRCULAR_DEPENDENCY = ErrorSpec(
    400, "circular_dependency", "Resources depend on each other in a circle.", {"resource": "crm/contacts"}
)
INVALID_ARGUMENT = ErrorSpec(
    400, "invalid_argument", "`argument` is missing or does not match the job's args_schema.", {"argument": "since"}
)
INVALID_ERROR_HANDLING = ErrorSpec(400, "invalid_error_handling", "error_handling batch requires version 2.")
INVALID_RESOURCES = ErrorSpec(
    400, "invalid_resources", "There are no resources, or one of them lacks its name or its id."
)
ONE_DESTINATION = ErrorSpec(400, "one_destination", "Set exactly one of daemon_group_key and webhook_id.")
OTHER_VERSION = ErrorSpec(400, "other_version", "The job has another `version`.", {"version": 3})
SYNC_JOB_NOT_FOUND = ErrorSpec(404, "sync_job_not_found", "There is no sync job with this id.")
UNKNOWN_DEPENDENCY = ErrorSpec(
    400, "unknown_dependency", "`depends_on` is not another resource of the job.", {"depends_on": "crm/contact"}
)
WEBHOOK_NOT_FOUND = ErrorSpec(404, "webhook_not_found", "There is no webhook with this id.")

# Bulk actions
BULK_ACTION_NOT_FOUND = ErrorSpec(404, "bulk_action_not_found", "There is no bulk action job with this id.")
FAMILY_REQUIRED = ErrorSpec(400, "family_required", "status requires family.")
NO_CRITERIA = ErrorSpec(400, "no_criteria", "criteria is empty.")
NOT_DELETABLE = ErrorSpec(400, "not_deletable", "The job has not ended.", {"current_status": "running"})
UNKNOWN_FAMILY = ErrorSpec(
    400, "unknown_family", "The family is unknown. `known` lists all.", {"known": ["historical_sync"]}
)
UNKNOWN_STATUS = ErrorSpec(
    400, "unknown_status", "The family has no such status. `known` lists its statuses.", {"known": ["pending"]}
)

# API keys
API_KEY_NOT_FOUND = ErrorSpec(404, "api_key_not_found", "There is no API key with this id.")
