"""The request path. A module imports only modules below it (import-linter holds this, see pyproject.toml).

registry.py         all endpoints, found by path; the handler of the deployed function
lambda_adapter.py   AWS Lambda events ↔ Request and Response
wsgi_adapter.py     WSGI ↔ Request and Response
openapi.py          the endpoints as OpenAPI
endpoint.py         the declaration of an endpoint, and what happens to every request
validation.py       from a request to the arguments of the SQL function
filters.py          lists with filters
services.py         makes everything that an endpoint needs, from the settings
auth.py             verifies tokens
transports/         calls SQL functions, through PostgREST or Postgres
dispatch.py         notifies workers
secret_store.py     secrets outside the database
error_catalog.py    every documented error
error_format.py     how each published API writes an error
fields.py           types of request fields
cors.py             CORS headers
signing_keys.py, caller.py, http_client.py, exact_json.py, errors.py, http.py, aws.py, settings.py, logs.py
                    import no other module of the project
"""
