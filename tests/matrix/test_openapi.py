"""The OpenAPI document is valid OpenAPI 3.1, is served, and describes exactly what the functions do.

tests/support/documented.py checks that every response that any test gets is documented. This module checks the reverse:
each documented response of each endpoint is provoked.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx
import pytest
from pydantic import ValidationError

from functions._connections import source_check
from functions._local.postgres import free_port
from functions._shared import openapi, services
from functions._shared.error_catalog import INVALID_API_KEY, NO_AGENCY
from functions._shared.error_format import POLYTOMIC, PROBLEM, TRUTO
from functions._shared.errors import ApiError
from functions._shared.fields import StrictRequest
from functions._shared.filters import OPERATORS, FilteredList
from functions._shared.secret_store import EnvironmentStore
from functions._shared.validation import MAX_BODY_BYTES
from tests.support import documented
from tests.support.connections import GOOD as CONNECTION
from tests.support.database import TRANSITIONS_TO
from tests.support.documented import DOCUMENT
from tests.support.json_schema import resolve, violations
from tests.support.project import BOTH_TRANSPORTS, Project, expect_error
from tests.support.requests import (
    ALWAYS_CHECK,
    CHECKS,
    ENDPOINTS,
    GOOD,
    a_bulk_action,
    a_model_sync,
    completing_checks,
    of_a_sync_job,
    send,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from functions._shared.endpoint import Endpoint
    from tests.support.database import User

ROOT = Path(openapi.__file__).parents[2]
UNKNOWN = "00000000-0000-4000-8000-000000000000"
NAMES = sorted(ENDPOINTS)

# The specification's objects: required members, then others that this document uses.
OBJECTS = {
    "document": ({"openapi", "info", "paths"}, {"servers", "security", "components"}),
    "info": ({"title", "version"}, set()),
    "operation": ({"operationId", "summary", "responses", "parameters"}, {"requestBody", "security"}),
    "parameter": ({"name", "in", "required", "schema"}, {"description", "example", "style", "explode"}),
    "requestBody": ({"required", "content"}, set()),
    "response": ({"description", "headers"}, {"content"}),
    "header": ({"schema"}, set()),
    "media": ({"schema"}, {"example", "examples"}),
    "example": ({"summary", "value"}, set()),
}


def check_object(kind: str, found: Mapping[str, Any]) -> None:
    required, optional = OBJECTS[kind]
    assert required <= set(found) <= required | optional, (kind, sorted(found))


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


# Valid OpenAPI


def test_document__top_level() -> None:
    check_object("document", DOCUMENT)
    check_object("info", DOCUMENT["info"])
    assert re.fullmatch(r"3\.1\.\d", DOCUMENT["openapi"])
    assert DOCUMENT["servers"] == [{"url": "/functions/v1"}]
    assert set(DOCUMENT["components"]) == {"schemas", "securitySchemes"}
    requirements = [
        *DOCUMENT["security"],
        *(one for _, _, operation in operations() for one in operation.get("security", [])),
    ]
    assert {name for requirement in requirements for name in requirement} == set(
        DOCUMENT["components"]["securitySchemes"]
    )
    # The names of the models. Two models with one name would get longer names.
    assert all(re.fullmatch(r"[A-Z][A-Za-z]+", name) for name in DOCUMENT["components"]["schemas"])


def test_document__version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert DOCUMENT["info"]["version"] == project["version"]


def test_document__operations_are_complete() -> None:
    for path, method, operation in operations():
        check_object("operation", operation)
        assert re.fullmatch(r"(/[a-z0-9-]+|/\{[a-z_]+\})+", path)
        assert method in {"get", "post", "put", "patch", "delete"}
        assert "requestBody" not in operation or method in {"post", "put", "patch"}
        for parameter in operation["parameters"]:
            check_object("parameter", parameter)
            assert parameter["in"] in {"path", "query", "header"}
            assert parameter["required"] or parameter["in"] != "path"
        in_path = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"]
        assert sorted(in_path) == sorted(re.findall(r"\{(\w+)\}", path))
        places = [(parameter["in"], parameter["name"].lower()) for parameter in operation["parameters"]]
        assert len(set(places)) == len(places)
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[2-5]\d\d", status)
            check_object("response", response)
            assert ("content" in response) == (status != "204")
            for header in response["headers"].values():
                check_object("header", header)
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(ids)) == len(ids)


def contents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every media type object with its place."""
    for path, _, operation in operations():
        bodies = [("requestBody", operation["requestBody"])] if "requestBody" in operation else []
        for name, body in (*bodies, *operation["responses"].items()):
            if "content" not in body:
                continue
            assert set(body["content"]) == {"application/json"}
            yield f"{path} {name}", body["content"]["application/json"]


def test_document__examples_match_their_schemas() -> None:
    for where, media in contents():
        check_object("media", media)
        examples = [media["example"]] if "example" in media else []
        for example in media.get("examples", {}).values():
            check_object("example", example)
            examples.append(example["value"])
        assert examples, where
        for value in examples:
            assert [*violations(value, media["schema"], DOCUMENT)] == [], where


def test_document__parameter_examples_match_their_schemas() -> None:
    for path, _, operation in operations():
        for parameter in operation["parameters"]:
            for value in (parameter.get("example"), parameter["schema"].get("default")):
                if value is not None:
                    assert [*violations(value, parameter["schema"], DOCUMENT)] == [], (path, parameter["name"])


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_document__references_resolve() -> None:
    found = set(references(DOCUMENT))
    assert found
    for ref in found:
        assert resolve(DOCUMENT, ref)["type"] == "object"


def test_document__query_parameters_are_not_nullable() -> None:
    for path, _, operation in operations():
        for parameter in operation["parameters"]:
            assert "null" not in json.dumps(parameter["schema"]), (path, parameter)


@pytest.mark.parametrize(
    ("value", "schema", "complaints"),
    [
        ("x", {"type": "integer"}, 1),
        (True, {"type": "integer"}, 1),
        (1, {"type": "integer", "minimum": 2}, 1),
        ("x", {"enum": ["y"], "type": "string"}, 1),
        ("x", {"const": "y", "type": "string"}, 1),
        ("2013-02-30", {"type": "string", "format": "date"}, 1),
        ("x", {"type": "string", "format": "uuid"}, 1),
        (None, {"anyOf": [{"type": "string"}, {"type": "integer"}]}, 1),
        ([1, "x"], {"type": "array", "items": {"type": "string"}}, 1),
        ({"a": 1}, {"type": "object", "properties": {}}, 1),
        ({}, {"type": "object", "properties": {"a": {}}, "required": ["a"]}, 1),
        ({"a": 1, "b": 2}, {"type": "object", "properties": {"a": {"type": "string"}}}, 2),
        ({"a": 1}, {"type": "object", "properties": {}, "additionalProperties": True}, 0),
        ({"a": 1}, {"type": "object", "additionalProperties": True}, 0),
        ({"a": 1}, {"type": "object"}, 1),
        ({"a": 1}, {"type": "object", "additionalProperties": {"type": "string"}}, 1),
        ({"a": "x"}, {"type": "object", "additionalProperties": {"type": "string"}}, 0),
        ({"a": 1}, {"propertyNames": {"pattern": "^[bc]$"}, "additionalProperties": True}, 1),
        ({"b": 1, "c": 1}, {"propertyNames": {"pattern": "^[bc]$"}, "additionalProperties": True}, 0),
        ({"b": 1, "c": 1}, {"maxProperties": 1, "additionalProperties": True}, 1),
        (None, {"anyOf": [{"type": "string"}, {"type": "null"}]}, 0),
    ],
)
def test_violations__of_each_keyword(value: Any, schema: dict[str, Any], complaints: int) -> None:
    assert len([*violations(value, schema, {})]) == complaints


# Completeness


def test_document__has_exactly_the_endpoints() -> None:
    assert sorted((path, method.upper()) for path, method, _ in operations()) == sorted(
        (endpoint.path, endpoint.method) for endpoint in ENDPOINTS.values()
    )
    for name, endpoint in ENDPOINTS.items():
        operation = documented.operation(name)
        assert (operation["operationId"], operation["summary"]) == (name, endpoint.summary)
        assert [status for status in operation["responses"] if status < "400"] == [str(endpoint.status)]


def test_declaration__examples_match_the_models() -> None:
    for name in NAMES:
        endpoint = ENDPOINTS[name]
        if endpoint.method in {"GET", "DELETE"}:
            query = {name: str(value) for name, value in endpoint.example_request.items()}
            endpoint.request.model_validate_strings(query, strict=True, extra="forbid")
        else:
            endpoint.request.model_validate_json(json.dumps(endpoint.example_request), strict=True, extra="forbid")
        if endpoint.response:
            endpoint.response.model_validate_json(json.dumps(endpoint.example_response), strict=True, extra="forbid")
        else:
            assert endpoint.example_response == {}


def test_document__request_fields_are_in_their_places() -> None:
    for name in NAMES:
        endpoint, operation = ENDPOINTS[name], documented.operation(name)
        members = {field.alias or name: field.is_required() for name, field in endpoint.request.model_fields.items()}
        found = {(one["in"], one["name"]): one["required"] for one in operation["parameters"] if one["in"] != "header"}
        if "requestBody" in operation:
            body = operation["requestBody"]
            schema = body["content"]["application/json"]["schema"]
            assert set(schema["required"]) <= set(schema["properties"])
            found |= {("body", one): one in schema["required"] for one in schema["properties"]}
            assert body["required"] == bool(schema["required"])
            # Published APIs reject unknown fields. Other APIs ignore them.
            assert (schema.get("additionalProperties") is False) == issubclass(endpoint.request, StrictRequest)
        rest = "query" if endpoint.method in {"GET", "DELETE"} else "body"
        places = {name: "path" if f"{{{name}}}" in endpoint.path else rest for name in members}
        assert found == {(places[name], name): is_required for name, is_required in members.items()}


FILTERED = [name for name in NAMES if issubclass(ENDPOINTS[name].request, FilteredList)]


def filters_of(name: str) -> dict[str, Any]:
    [found] = [one for one in documented.operation(name)["parameters"] if one["name"] == "filters"]
    return dict(found)


@pytest.mark.parametrize("name", FILTERED)
def test_filters__documented_as_exploded_object(name: str) -> None:
    """In OpenAPI: an object whose members are exploded into the query. Other lists have no such parameter."""
    found = filters_of(name)
    assert (found["in"], found["style"], found["explode"], found["required"]) == ("query", "form", True, False)
    assert found["schema"]["type"] == "object"
    assert found["example"]
    assert found["example"].items() <= ENDPOINTS[name].example_request.items()
    others = [one for one in NAMES if one not in FILTERED]
    exploded = {name for name in others for one in documented.operation(name)["parameters"] if "style" in one}
    assert exploded == set()


@pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
@pytest.mark.parametrize("name", FILTERED)
def test_filters__exactly_the_documented_ones_work(project: Project, name: str) -> None:
    endpoint, found = ENDPOINTS[name], filters_of(name)
    token = project.token(project.database.member())

    def result(filter_: str, value: str = "1") -> tuple[int, str]:
        response = send(project, endpoint, {filter_: value}, token)
        code = documented.code(response.json()) if response.status_code != 200 else ""
        in_document = not [*violations({filter_: value}, found["schema"], DOCUMENT)]
        assert in_document == (code not in {"unknown_filter", "unknown_operator"}), filter_
        return response.status_code, code

    response = send(project, endpoint, {"nme": "x"}, token)
    fields = expect_error(response, 400, "unknown_filter")["available"]
    assert f"Fields: {', '.join(fields)}." in found["description"]
    assert f"Operators: {', '.join(OPERATORS)};" in found["description"]
    for field in fields:
        operators = [*OPERATORS, ""] if field == "created_at" else ["in"]
        for filter_ in (field, *(f"{field}[{operator}]" for operator in operators)):
            assert result(filter_) in {(200, ""), (400, "invalid_value")}
    for operator in ("exists", "like", "ilike"):  # for every type of field
        assert result(f"created_at[{operator}]") == (200, "")
    for unknown in ("nme", "agency_id", "Id", "id ", "limit[gt]", "id[in", "id[in][0]", "filters"):
        assert result(unknown) == (400, "unknown_filter")
    for unknown in ("between", "EQ"):
        assert result(f"id[{unknown}]") == (400, "unknown_operator")
    most = [f"{field}[exists]" for field in fields] + [f"id[{operator}]" for operator in OPERATORS]
    most += [f"created_at[{operator}]" for operator in OPERATORS]
    for number, status in ((20, 200), (21, 400)):
        filters = dict.fromkeys([*dict.fromkeys(most)][:number], UNKNOWN)
        assert len(filters) == number
        assert (not [*violations(filters, found["schema"], DOCUMENT)]) == (status == 200)
        kinds = {"id": UNKNOWN, "created_at": "2026-11-22"}
        response = send(project, endpoint, {one: kinds.get(one.partition("[")[0], "true") for one in filters}, token)
        assert response.status_code == status, response.text
        if status == 400:
            assert expect_error(response, 400, "invalid_field") == {"field": "filters"}


def test_document__headers() -> None:
    """Idempotency-Key where it is accepted, and the version header of a versioned API."""
    for name in NAMES:
        endpoint, operation = ENDPOINTS[name], documented.operation(name)
        headers = {one["name"]: one for one in operation["parameters"] if one["in"] == "header"}
        versioned = endpoint.error_format.version_header
        assert set(headers) == ({"Idempotency-Key"} if endpoint.accepts_idempotency_key else set()) | (
            {versioned} if versioned else set()
        )
        assert not any(header["required"] for header in headers.values())
        if endpoint.accepts_idempotency_key:
            schema = headers["Idempotency-Key"]["schema"]
            assert (schema["minLength"], schema["maxLength"]) == (1, 255)
        for response in operation["responses"].values():
            assert "x-request-id" in response["headers"]
            assert versioned is None or versioned in response["headers"]


def test_document__security() -> None:
    for name in NAMES:
        schemes = {scheme for one in documented.operation(name).get("security", DOCUMENT["security"]) for scheme in one}
        assert schemes == (
            {"supabase", "agency", "agencyBasic"} if ENDPOINTS[name].error_format.api_keys else {"supabase"}
        )
        assert ((401, "invalid_api_key") in documented.errors(name)) == ENDPOINTS[name].error_format.api_keys


@pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
def test_document__served_without_credentials(project: Project) -> None:
    response = project.request("GET", "/openapi.json")
    assert response.status_code == 200
    assert response.json() == DOCUMENT
    assert project.request("GET", "/openapi.json", "not.a.token").content == response.content
    assert project.request("OPTIONS", "/openapi.json").headers["access-control-allow-methods"] == "GET, OPTIONS"
    expect_error(project.request("POST", "/openapi.json", content=b"{}"), 404, "no_such_function")


def test_document__command_prints_what_is_served() -> None:
    command = [sys.executable, "-m", "functions._build.openapi"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    assert (json.loads(printed.stdout), printed.stderr) == (DOCUMENT, "")


# Every documented response is provoked


@dataclass
class Scenario:
    """An agency's user with a request that succeeds."""

    project: Project
    endpoint: Endpoint

    def __post_init__(self) -> None:
        self.user: User = self.project.database.member()
        self.token = self.project.token(self.user)
        self.request = GOOD[self.endpoint.name](self.project, self.user)

    def send(self, **options: Any) -> httpx.Response:
        """Send the request with these options. `request` replaces some of its fields. `checks` completes source checks
        meanwhile, by default only for endpoints that always check.
        """
        request = self.request | options.pop("request", {})
        checks = options.pop(
            "checks", completing_checks if self.endpoint.name in ALWAYS_CHECK else contextlib.nullcontext
        )
        with checks(self.project):
            return send(self.project, self.endpoint, request, options.pop("token", self.token), **options)

    def only_its(self, **members: Any) -> dict[str, Any]:
        """The given fields that the request model has. Others would be rejected as unknown."""
        fields = self.endpoint.request.model_fields.items()
        return {name: value for name, value in members.items() if name in {field.alias or n for n, field in fields}}

    def other(self) -> User:
        return self.project.database.member()


Provoke: TypeAlias = "Callable[[Scenario], httpx.Response]"


def revoked(scenario: Scenario) -> httpx.Response:
    scenario.project.auth.sign_out(scenario.token)
    return scenario.send()


def unknown_key(scenario: Scenario) -> httpx.Response:
    return scenario.send(token=None, headers={"authorization": f"Bearer sync_{'0' * 64}"})


def wrong_member(scenario: Scenario) -> httpx.Response:
    """The first field outside the path that has an invalid value."""
    in_path = set(scenario.endpoint.path_parameters(scenario.endpoint.path) or ())
    values: list[Any] = ["nope", "a\0b"] if scenario.endpoint.method in {"GET", "DELETE"} else ["nope", 1.5, [[]]]
    for name, field in scenario.endpoint.request.model_fields.items():
        for value in values:
            wrong = {field.alias or name: value}
            if name not in in_path and _rejects_only(scenario.endpoint, wrong):
                return scenario.send(request=wrong)
    return scenario.send()


def _rejects_only(endpoint: Endpoint, wrong: dict[str, Any]) -> bool:
    """Whether the model rejects exactly this field, and not as unsupported."""
    read = (
        endpoint.request.model_validate_strings
        if endpoint.method in {"GET", "DELETE"}
        else endpoint.request.model_validate
    )
    try:
        read(wrong)
    except ValidationError as error:
        kinds = {each["type"] for each in error.errors() if each["loc"][:1] == tuple(wrong)}
        return bool(kinds - {"unsupported", "extra_forbidden"})
    return False


def missing_member(scenario: Scenario) -> httpx.Response:
    """Without the first required field, or a required field of a field."""
    required = [
        name
        for name, field in scenario.endpoint.request.model_fields.items()
        if field.is_required() and f"{{{name}}}" not in scenario.endpoint.path
    ]
    scenario.request = {name: value for name, value in scenario.request.items() if name not in required[:1]}
    return scenario.send(request={} if required else {"resources": [{}]})


def malformed_path(scenario: Scenario) -> httpx.Response:
    return scenario.send(request=dict.fromkeys(scenario.endpoint.path_parameters(scenario.endpoint.path) or (), "nope"))


def broken(scenario: Scenario) -> httpx.Response:
    with scenario.project.without("app.caller"):
        return scenario.send(checks=contextlib.nullcontext)


def no_auth_server(scenario: Scenario) -> httpx.Response:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with Project(scenario.project.setup, scenario.project.backend, supabase_url=nowhere) as project:
        return dataclasses.replace(scenario, project=project).send()


def no_database(scenario: Scenario) -> httpx.Response:
    port = free_port()
    with Project(scenario.project.setup, scenario.project.backend) as project:
        settings = dataclasses.replace(
            project.settings, supabase_url=f"http://127.0.0.1:{port}", database_url=f"postgresql://127.0.0.1:{port}/x"
        )
        nowhere = services.make_transport(settings)
        with contextlib.closing(project.services.transport), contextlib.closing(nowhere):
            project.services = dataclasses.replace(project.services, transport=nowhere)
            return dataclasses.replace(scenario, project=project).send()


def key_in_use(scenario: Scenario) -> httpx.Response:
    with scenario.project.database.session(scenario.user.claims) as session, session.connection.transaction():
        session.execute("select set_config('request.headers', %s, true)", ('{"idempotency-key": "k"}',))
        session.execute("select app.get_idempotent_response(app.caller(), %s, '{}')", (scenario.endpoint.rpc,))
        return scenario.send(headers={"idempotency-key": "k"})


def key_reused(scenario: Scenario) -> httpx.Response:
    scenario.project.database.admin.execute(
        "insert into app.idempotency_keys (agency_id, actor, function, key, request, response)"
        " values (%s, %s, %s, 'k', '{}', '{}')",
        (scenario.user.agency_id, f"user:{scenario.user.id}", scenario.endpoint.rpc),
    )
    return scenario.send(headers={"idempotency-key": "k"})


def with_job(status: Any, *, of_another: bool = False) -> Provoke:
    def provoke(scenario: Scenario) -> httpx.Response:
        owner = scenario.other() if of_another else scenario.user
        return scenario.send(request={"job_id": scenario.project.job(owner, status)})

    return provoke


def on_connection(*, of_another: bool = False, **columns: Any) -> Provoke:
    """The source connection, by the endpoint's own name for it."""

    def provoke(scenario: Scenario) -> httpx.Response:
        owner = scenario.other() if of_another else scenario.user
        return scenario.send(
            request={source(scenario): scenario.project.database.connection(owner.agency_id, **columns)}
        )

    return provoke


def source(scenario: Scenario) -> str:
    names = ("source_connection_id", "integrated_account_id", "connection_id")
    return next((name for name in names if name in scenario.endpoint.request.model_fields), "connection_id")


def unknown_connection(scenario: Scenario) -> httpx.Response:
    return scenario.send(request={source(scenario): UNKNOWN})


def of_another_type(scenario: Scenario) -> httpx.Response:
    return scenario.send(request={"connection_id": scenario.project.database.connection(scenario.user.agency_id)})


def to_no_destination(scenario: Scenario) -> httpx.Response:
    connection_id = scenario.project.database.connection(scenario.user.agency_id)
    target = {"connection_id": connection_id, "object": "accounts"}
    return scenario.send(request=scenario.only_its(destination_connection_id=connection_id, target=target))


def mapped(**source: Any) -> Provoke:
    """A model sync with another source of its field and identity."""

    def provoke(scenario: Scenario) -> httpx.Response:
        [field], identity = scenario.request["fields"], scenario.request["identity"]
        read = field["source"] | source
        return scenario.send(request={"fields": [field | {"source": read}], "identity": identity | {"source": read}})

    return provoke


def store(scenario: Scenario, connection_id: str, resource: str) -> None:
    """Stores a row in this connection under another key, as another sync does."""
    database, agency_id = scenario.project.database, scenario.user.agency_id
    columns = {"connection_id": database.connection(agency_id), "destination_id": connection_id}
    execution_id = database.put("running", agency_id, "bulk_sync", **columns)
    lease_token = {"execution_id": execution_id, "lease_token": database.execution(execution_id)["lease_token"]}
    row = {"key": "a", "data": {"id": "a"}}
    with database.worker() as worker:
        worker.call(
            "worker_commit_batch", **lease_token, seq=1, resource=resource, records=[row], checkpoint={}, progress={}
        )
        worker.call("worker_complete", **lease_token)


def created_over_rows(scenario: Scenario) -> httpx.Response:
    store(scenario, scenario.request["target"]["connection_id"], scenario.request["target"]["object"])
    return scenario.send()


def started_over_rows(scenario: Scenario) -> httpx.Response:
    query = "select destination_id::text as id, settings ->> 'object' as object from app.definitions where id = %s"
    target = scenario.project.database.one(query, (scenario.request["sync_id"],))
    store(scenario, target["id"], target["object"])
    return scenario.send()


def without_its_connection(scenario: Scenario) -> httpx.Response:
    connection_id = scenario.project.database.execution(scenario.request["job_id"])["connection_id"]
    with scenario.project.database.session(scenario.user.claims) as session:
        session.call("delete_connection", connection_id=str(connection_id))
    return scenario.send()


def read_by_a_sync(scenario: Scenario) -> httpx.Response:
    sync_id = a_model_sync(scenario.project, scenario.user)["sync_id"]
    query = "select settings ->> 'model_id' as id from app.definitions where id = %s"
    return scenario.send(request={"model_id": scenario.project.database.one(query, (sync_id,))["id"]})


def of_a_job(settings: Mapping[str, Any], **members: Any) -> Provoke:
    """Creates a run of a sync job with these settings."""

    def provoke(scenario: Scenario) -> httpx.Response:
        return scenario.send(request=of_a_sync_job(scenario.project, scenario.user, **settings) | members)

    return provoke


def resources(*nodes: Mapping[str, Any]) -> Provoke:
    """The resources of a sync job or of its run."""
    return lambda scenario: scenario.send(request={"resources": [{"method": "list", **node} for node in nodes]})


def ended_run(scenario: Scenario) -> httpx.Response:
    scenario.project.database.transition(scenario.request["run_id"], *TRANSITIONS_TO["completed"])
    return scenario.send()


def bulk_action(status: str) -> Provoke:
    return lambda scenario: scenario.send(request=a_bulk_action(status)(scenario.project, scenario.user))


def criteria(**members: Any) -> Provoke:
    return lambda scenario: scenario.send(request={"criteria": members})


def plain(scenario: Scenario) -> httpx.Response:
    return scenario.send()


def one_of(default: Provoke = plain, **provokes: Provoke) -> Provoke:
    """Another request for each of these endpoints, for codes that endpoints return for different reasons."""
    return lambda scenario: provokes.get(scenario.endpoint.name, default)(scenario)


def in_use(scenario: Scenario) -> httpx.Response:
    sync_id = scenario.project.database.bulk_sync(scenario.user)
    query = "select source_id::text as id from app.definitions where id = %s"
    return scenario.send(request={"connection_id": scenario.project.database.one(query, (sync_id,))["id"]})


def failed_source_check(scenario: Scenario) -> httpx.Response:
    error = {"code": "source_refused", "message": "The source rejected the request."}
    return scenario.send(request=with_source_check(scenario), checks=lambda project: completing_checks(project, error))


def unchecked_source(scenario: Scenario) -> httpx.Response:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_check, "WAIT_SECONDS", 0.1)
        return scenario.send(request=with_source_check(scenario), checks=contextlib.nullcontext)


def no_secret_store(scenario: Scenario) -> httpx.Response:
    """An EnvironmentStore cannot store secrets."""
    without = dataclasses.replace(scenario.project.services, secret_store=EnvironmentStore())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenario.project, "services", without)
        return scenario.send(request={"type": "http", "configuration": CONNECTION["configuration"]})


def with_source_check(scenario: Scenario) -> Mapping[str, Any]:
    """The fields that make the endpoint check a source, if any."""
    make = CHECKS.get(scenario.endpoint.name)
    return make(scenario.project, scenario.user) if make else {}


def twice(scenario: Scenario) -> httpx.Response:
    scenario.send()
    return scenario.send()


# The request that provokes the error, by status and code, at every endpoint that documents the error.
PROVOKED: dict[tuple[int, str], Provoke] = {
    (400, "invalid_json"): lambda scenario: scenario.send(content=b"{"),
    (400, "invalid_request"): lambda scenario: scenario.send(content=b"[]"),
    (400, "missing_field"): missing_member,
    (400, "invalid_field"): wrong_member,
    (400, "invalid_idempotency_key"): lambda scenario: scenario.send(headers={"idempotency-key": ""}),
    (401, "missing_token"): lambda scenario: scenario.send(token=None),
    (401, "invalid_token"): lambda scenario: scenario.send(token="not.a.token"),
    (401, "expired_token"): lambda scenario: scenario.send(token=scenario.project.token(scenario.user, lifetime=-1)),
    (401, "revoked_token"): revoked,
    (401, "invalid_api_key"): unknown_key,
    (403, "no_agency"): lambda scenario: scenario.send(
        token=scenario.project.token(scenario.project.database.user(None))
    ),
    (404, "not_found"): malformed_path,
    (405, "method_not_allowed"): lambda scenario: scenario.send(method="PUT"),
    (409, "idempotency_key_in_use"): key_in_use,
    (413, "body_too_large"): lambda scenario: scenario.send(content=b"x" * (MAX_BODY_BYTES + 1)),
    (422, "idempotency_key_reused"): key_reused,
    (422, "unsupported_field"): lambda scenario: scenario.send(request={"surprise": 1}),
    (500, "internal_error"): broken,
    (503, "auth_unavailable"): no_auth_server,
    (503, "database_unavailable"): no_database,
    # Historical syncs
    (400, "not_cancellable"): one_of(
        with_job("completed"), stop_sync_job_run=ended_run, cancel_bulk_action=bulk_action("completed")
    ),
    (400, "not_retryable"): with_job("pending"),
    (403, "job_of_another_agency"): with_job("pending", of_another=True),
    (404, "job_not_found"): lambda scenario: scenario.send(request={"job_id": UNKNOWN}),
    (400, "invalid_resources"): one_of(
        resources({"resource": "flights", "method": "get"}), start_historical_sync=on_connection(config={})
    ),
    (400, "unknown_resource"): one_of(
        resources({"resource": "nope"}),
        start_historical_sync=lambda scenario: scenario.send(request={"resources": ["nope"]}),
        create_model=lambda scenario: scenario.send(request={"configuration": {"resource": "nope"}}),
    ),
    (403, "connection_of_another_agency"): on_connection(of_another=True),
    # Several families
    (409, "already_active"): twice,
    (400, "not_a_source"): on_connection(kind="records", config={}),
    (400, "not_a_destination"): to_no_destination,
    (404, "connection_not_found"): one_of(
        unknown_connection,
        create_model_sync=lambda scenario: scenario.send(
            request={"target": {"connection_id": UNKNOWN, "object": "accounts"}}
        ),
        retry_historical_sync=without_its_connection,
    ),
    (404, "execution_not_found"): lambda scenario: scenario.send(request={"execution_id": UNKNOWN}),
    (403, "other_organization"): lambda scenario: scenario.send(
        request=scenario.only_its(organization_id=UNKNOWN, environment_id=UNKNOWN)
    ),
    (400, "invalid_page_token"): lambda scenario: scenario.send(request={"page_token": "nope"}),
    # API keys and connections
    (404, "api_key_not_found"): lambda scenario: scenario.send(request={"api_key_id": UNKNOWN}),
    (400, "invalid_configuration"): lambda scenario: scenario.send(
        request={"type": "http", "configuration": {"resources": 1}}
    ),
    (400, "other_type"): of_another_type,
    (422, "connection_in_use"): in_use,
    (400, "source_not_readable"): failed_source_check,
    (503, "source_unavailable"): unchecked_source,
    (503, "secrets_unavailable"): no_secret_store,
    # Bulk syncs
    (400, "no_schemas"): lambda scenario: scenario.send(request={"schemas": []}),
    (400, "unknown_schema"): lambda scenario: scenario.send(request={"schemas": ["nope"]}),
    (400, "invalid_output_name"): lambda scenario: scenario.send(
        request={"destination_configuration": {"schema": "é" * 100}}
    ),
    (404, "bulk_sync_not_found"): lambda scenario: scenario.send(request={"sync_id": UNKNOWN}),
    # Models and model syncs
    (404, "model_not_found"): one_of(
        lambda scenario: scenario.send(request={"model_id": UNKNOWN}), create_model_sync=mapped(model_id=UNKNOWN)
    ),
    (400, "unknown_field"): one_of(
        lambda scenario: scenario.send(request={"identifier": "nope"}), create_model_sync=mapped(field="nope")
    ),
    (422, "model_in_use"): read_by_a_sync,
    (404, "model_sync_not_found"): lambda scenario: scenario.send(request={"sync_id": UNKNOWN}),
    (400, "identity_required"): lambda scenario: scenario.send(request={"identity": None}),
    (400, "ambiguous_target"): one_of(
        create_model_sync=lambda scenario: scenario.send(request={"fields": scenario.request["fields"] * 2})
    ),
    (400, "not_the_identity"): one_of(create_model_sync=created_over_rows, start_model_sync=started_over_rows),
    # Sync jobs, their runs and webhooks
    (404, "sync_job_not_found"): lambda scenario: scenario.send(
        request=scenario.only_its(job_id=UNKNOWN, sync_job_id=UNKNOWN)
    ),
    (404, "sync_job_run_not_found"): lambda scenario: scenario.send(request={"run_id": UNKNOWN}),
    (404, "webhook_not_found"): lambda scenario: scenario.send(
        request=scenario.only_its(webhook_id=UNKNOWN, daemon_group_key=None)
    ),
    (400, "unknown_dependency"): resources({"resource": "flights", "depends_on": "weather"}),
    (400, "circular_dependency"): resources(
        {"resource": "flights", "depends_on": "weather"}, {"resource": "weather", "depends_on": "flights"}
    ),
    (400, "one_destination"): lambda scenario: scenario.send(request={"webhook_id": UNKNOWN}),
    (400, "invalid_argument"): of_a_job({"args_schema": {"since": {"type": "string", "required": True}}}),
    (400, "other_version"): lambda scenario: scenario.send(request={"version": 1}),
    (400, "invalid_error_handling"): of_a_job({"default_runtime_version": 1}, error_handling="batch"),
    # Lists with filters
    (400, "unknown_filter"): lambda scenario: scenario.send(request={"nme": "x"}),
    (400, "unknown_operator"): lambda scenario: scenario.send(request={"id[between]": "x"}),
    (400, "invalid_value"): lambda scenario: scenario.send(request={"id": "nope"}),
    (400, "unknown_sort"): lambda scenario: scenario.send(request={"sort": "id"}),
    (400, "invalid_cursor"): lambda scenario: scenario.send(request={"next_cursor": "nope"}),
    # Bulk actions
    (404, "bulk_action_not_found"): lambda scenario: scenario.send(request={"job_id": UNKNOWN}),
    (400, "not_deletable"): bulk_action("running"),
    (400, "no_criteria"): criteria(),
    (400, "unknown_family"): criteria(family="nope"),
    (400, "family_required"): criteria(status="pending"),
    (400, "unknown_status"): criteria(family="historical_sync", status="nope"),
}
# Errors of the request path, before the endpoint's own function matters: each is provoked once per error format.
# Not no_agency, because each SQL function must check its caller.
SHARED_ERRORS = {
    (error.status, error.code)
    for error in (*openapi.COMMON_ERRORS, *openapi.BODY_ERRORS, *openapi.IDEMPOTENCY_ERRORS, INVALID_API_KEY)
    if error is not NO_AGENCY
}


def errors_to_provoke() -> Iterator[tuple[str, int, str]]:
    seen = set()
    for name in NAMES:
        for status, code in documented.errors(name):
            shared = (ENDPOINTS[name].error_format.name, status, code)
            if (status, code) not in SHARED_ERRORS or shared not in seen:
                yield name, status, code
            seen.add(shared)


EVERY_ERROR = [*errors_to_provoke()]
# For each error format, the endpoint that documents the most errors.
MOST_ERRORS = {
    ENDPOINTS[name].error_format.name: name for name in sorted(NAMES, key=lambda name: len(documented.errors(name)))
}


@pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
@pytest.mark.parametrize(("name", "status", "code"), EVERY_ERROR)
def test_errors__each_documented_one_occurs(project: Project, name: str, status: int, code: str) -> None:
    response = PROVOKED[status, code](Scenario(project, ENDPOINTS[name]))
    members = expect_error(response, status, code)
    assert set(members) == set(documented.members(documented.errors(name)[status, code]))
    assert ENDPOINTS[name].path_parameters(response.request.url.path.removeprefix("/functions/v1")) is not None


@pytest.mark.every_setup
@pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_success__each_documented_one_occurs(project: Project, name: str) -> None:
    response = Scenario(project, ENDPOINTS[name]).send()
    assert (response.status_code, bool(response.content)) == (
        ENDPOINTS[name].status,
        ENDPOINTS[name].response is not None,
    )


@pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
@pytest.mark.parametrize("name", [name for name in NAMES if ENDPOINTS[name].error_format.api_keys])
def test_api_keys__accepted_where_documented(project: Project, name: str) -> None:
    scenario = Scenario(project, ENDPOINTS[name])
    key = project.database.api_key(scenario.user)
    response = scenario.send(token=None, headers={"authorization": f"Bearer {key}"})
    assert response.status_code == ENDPOINTS[name].status, response.text
    assert key not in response.text


@pytest.mark.parametrize("project", BOTH_TRANSPORTS, indirect=True, ids=str)
@pytest.mark.parametrize("name", [name for name in NAMES if not ENDPOINTS[name].error_format.api_keys])
def test_api_keys__refused_elsewhere(project: Project, name: str) -> None:
    scenario = Scenario(project, ENDPOINTS[name])
    key = project.database.api_key(scenario.user)
    expect_error(scenario.send(token=None, headers={"authorization": f"Bearer {key}"}), 401, "invalid_token")
    basic = base64.b64encode(f"{key}:".encode()).decode()
    expect_error(scenario.send(token=None, headers={"authorization": f"Basic {basic}"}), 401, "missing_token")


@pytest.mark.parametrize("project", BOTH_TRANSPORTS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("name", MOST_ERRORS.values())
def test_errors__provoked_at_one_endpoint_of_each_format(project: Project, name: str) -> None:
    for provoke in PROVOKED.values():
        assert provoke(Scenario(project, ENDPOINTS[name])).status_code >= 200  # the client of the tests has checked it


HEADERS = {"x-request-id": "r", "x-polytomic-version": "2025-09-18", "allow": "GET, DELETE, OPTIONS"}

# The check of every response


def polytomic_error(status: int, code: str, **metadata: Any) -> dict[str, Any]:
    """An error of a published API."""
    return POLYTOMIC.serialize(ApiError(status, code, "E.", metadata), "r")


def truto_error(status: int, code: str, **members: Any) -> dict[str, Any]:
    return TRUTO.serialize(ApiError(status, code, "E.", members), "r")


def problem_error(status: int, code: str, **members: Any) -> dict[str, Any]:
    return PROBLEM.serialize(ApiError(status, code, "E.", members), "r")


def without(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in body.items() if other != name}


RUN, WEBHOOK = f"/sync-job-run/{UNKNOWN}", f"/webhook/{UNKNOWN}"
ACTION = f"/api/actions/bulk/jobs/{UNKNOWN}/cancel"


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/get-historical-sync", 418, {"error": "E.", "code": "teapot", "requestId": "r"}),
        ("/get-historical-sync", 404, {"error": "E.", "code": "connection_not_found", "requestId": "r"}),
        ("/get-historical-sync", 404, {"error": "E.", "code": "job_not_found"}),
        ("/get-historical-sync", 404, {"error": "E.", "code": "job_not_found", "requestId": "r", "job_id": UNKNOWN}),
        ("/cancel-historical-sync", 400, {"error": "E.", "code": "not_cancellable", "requestId": "r"}),
        ("/cancel-historical-sync", 201, {"job_id": UNKNOWN, "status": "cancelled"}),
        ("/cancel-historical-sync", 200, {"job_id": UNKNOWN, "status": "stopped"}),
        ("/cancel-historical-sync", 200, {"job_id": UNKNOWN}),
        ("/cancel-historical-sync", 200, {"job_id": UNKNOWN, "status": "cancelled", "more": 1}),
        ("//cancel-historical-sync/", 200, {}),
        ("/api/bulk/syncs", 200, {"data": [], "pagination": {"next_page_token": ""}}),  # the response of a GET
        (f"/api/bulk/syncs/{UNKNOWN}/cancel", 404, {"error": "E.", "code": "bulk_sync_not_found", "requestId": "r"}),
        (f"/api/bulk/syncs/{UNKNOWN}/cancel", 404, polytomic_error(404, "connection_not_found")),
        (f"/api/bulk/syncs/{UNKNOWN}/cancel", 404, polytomic_error(404, "bulk_sync_not_found", more=1)),
        (f"/api/bulk/syncs/{UNKNOWN}/executions", 409, polytomic_error(409, "already_active")),
        (f"/api/bulk/syncs/{UNKNOWN}/executions", 409, polytomic_error(409, "already_active", job_id=1)),
        ("DELETE " + RUN, 404, polytomic_error(404, "sync_job_run_not_found")),
        ("DELETE " + RUN, 404, truto_error(404, "sync_job_not_found")),
        ("DELETE " + RUN, 404, truto_error(404, "sync_job_run_not_found", run_id=UNKNOWN)),
        ("DELETE " + RUN, 400, truto_error(400, "not_cancellable")),
        ("DELETE " + RUN, 400, truto_error(400, "not_cancellable", current_status=1)),
        ("DELETE " + RUN, 400, without(truto_error(400, "not_cancellable", current_status="failed"), "statusCode")),
        ("DELETE " + RUN, 204, {}),
        ("DELETE " + WEBHOOK, 200, {"id": "1"}),
        ("GET " + RUN, 422, truto_error(422, "idempotency_key_reused")),  # the response of a DELETE
        (ACTION, 404, truto_error(404, "bulk_action_not_found")),
        (ACTION, 404, problem_error(404, "sync_job_run_not_found")),
        (ACTION, 404, problem_error(404, "bulk_action_not_found", job_id=UNKNOWN)),
        (ACTION, 400, problem_error(400, "not_cancellable")),
        (ACTION, 400, problem_error(400, "not_cancellable", current_status="failed") | {"details": {}}),
        (
            ACTION,
            400,
            problem_error(400, "not_cancellable", current_status="failed") | {"details": {"current_status": 1}},
        ),
        (ACTION, 400, without(problem_error(400, "not_cancellable", current_status="failed"), "instance")),
        (ACTION, 200, {"success": False, "job_id": UNKNOWN, "status": "cancelled"}),
    ],
    ids=str,
)
def test_documented_check__undocumented_response(path: str, status: int, body: dict[str, Any]) -> None:
    """The method is POST, if the path names no other."""
    method, _, path = path.rpartition(" ")
    request = httpx.Request(method or "POST", f"http://x/functions/v1{path}")
    with pytest.raises(AssertionError):
        documented.check(httpx.Response(status, json=body, request=request, headers=HEADERS))


@pytest.mark.parametrize(
    ("path", "status", "body", "expected"),
    [
        (
            "/cancel-historical-sync",
            200,
            {"job_id": UNKNOWN, "status": "cancelled", "more": 1},
            ["the body.more is not documented"],
        ),
        (
            "/cancel-historical-sync",
            418,
            {},
            ["status 418 is not documented", "`errors` of functions.historical_sync.cancel_historical_sync"],
        ),
        (
            "/get-historical-sync",
            404,
            {"error": "E.", "code": "connection_not_found", "requestId": "r"},
            ["the error 'connection_not_found' is not documented"],
        ),
        (
            "/cancel-historical-sync",
            400,
            {"error": "E.", "code": "not_cancellable", "requestId": "r", "reason": "x"},
            ["reason is not documented", "current_status is documented, but missing"],
        ),
        (
            f"/api/bulk/syncs/{UNKNOWN}/executions",
            409,
            polytomic_error(409, "already_active", job_id=1),
            ["metadata.job_id is documented as str, but is int"],
        ),
    ],
    ids=str,
)
def test_documented_check__names_the_member(path: str, status: int, body: dict[str, Any], expected: list[str]) -> None:
    request = httpx.Request("POST", f"http://x/functions/v1{path}")
    with pytest.raises(AssertionError) as raised:
        documented.check(httpx.Response(status, json=body, request=request, headers=HEADERS))
    assert [part for part in expected if part not in str(raised.value)] == []


def test_documented_check__documented_response() -> None:
    """A check that rejects everything would pass the test above."""
    url = f"http://x/functions/v1/api/bulk/syncs/{UNKNOWN}"
    ended = {"current_status": "failed"}
    for method, path, status, body in (
        ("POST", f"/api/bulk/syncs/{UNKNOWN}/cancel", 404, polytomic_error(404, "bulk_sync_not_found")),
        ("POST", f"/api/bulk/syncs/{UNKNOWN}", 405, polytomic_error(405, "method_not_allowed")),
        ("DELETE", RUN, 404, truto_error(404, "sync_job_run_not_found")),
        ("DELETE", RUN, 400, truto_error(400, "not_cancellable", **ended)),
        ("DELETE", RUN, 422, truto_error(422, "idempotency_key_reused")),
        ("DELETE", WEBHOOK, 200, {"id": UNKNOWN}),
        ("POST", ACTION, 404, problem_error(404, "bulk_action_not_found")),
        ("POST", ACTION, 400, problem_error(400, "not_cancellable", **ended)),
        ("POST", ACTION, 200, {"success": True, "job_id": UNKNOWN, "status": "cancelled"}),
    ):
        request = httpx.Request(method, f"http://x/functions/v1{path}")
        documented.check(httpx.Response(status, json=body, request=request, headers=HEADERS))
    deleted = httpx.Request("DELETE", url)
    documented.check(httpx.Response(204, request=deleted, headers=HEADERS))
    with pytest.raises(AssertionError):
        documented.check(httpx.Response(204, content=b"null", request=deleted, headers=HEADERS))


def test_documented_check__missing_header() -> None:
    body = {"error": "E.", "code": "database_unavailable", "requestId": "r"}
    request = httpx.Request("GET", "http://x/functions/v1/get-historical-sync")
    headers = {"x-request-id": "r", "retry-after": "2"}
    documented.check(httpx.Response(503, json=body, request=request, headers=headers))
    for name in headers:
        left = {other: value for other, value in headers.items() if other != name}
        with pytest.raises(AssertionError):
            documented.check(httpx.Response(503, json=body, request=request, headers=left))
