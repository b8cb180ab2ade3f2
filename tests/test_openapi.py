"""The API's own document: it is OpenAPI 3.1, it is served, and it says neither more nor less than the functions do.

That it says no less is checked for every answer that any test gets (tests/documented.py); that it says no more, here:
each documented answer of each endpoint is provoked.
"""

from __future__ import annotations

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

from functions._local.postgres import free_port
from functions._shared import openapi, registry, services
from functions._shared.endpoint import MAX_BODY_BYTES
from tests import documented
from tests.documented import DOCUMENT
from tests.json_schema import resolve, violations
from tests.project import BOTH_DOORS, JANUARY, Project, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from functions._shared.endpoint import Endpoint
    from tests.house import User

ROOT = Path(openapi.__file__).parents[2]
ENDPOINTS = {endpoint.path: endpoint for endpoint in registry.endpoints()}
UNKNOWN = "00000000-0000-4000-8000-000000000000"

# What the specification's objects have: required members, then others that this document uses.
OBJECTS = {
    "document": ({"openapi", "info", "paths"}, {"servers", "security", "components"}),
    "info": ({"title", "version"}, set()),
    "operation": ({"operationId", "summary", "responses", "parameters"}, {"requestBody"}),
    "parameter": ({"name", "in", "required", "schema"}, {"description", "example"}),
    "requestBody": ({"required", "content"}, set()),
    "response": ({"description", "headers", "content"}, set()),
    "header": ({"schema"}, set()),
    "media": ({"schema"}, {"example", "examples"}),
    "example": ({"summary", "value"}, set()),
}


def is_a(kind: str, found: Mapping[str, Any]) -> None:
    required, optional = OBJECTS[kind]
    assert required <= set(found) <= required | optional, (kind, sorted(found))


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


# It is OpenAPI


def test_its_frame_is_that_of_openapi() -> None:
    is_a("document", DOCUMENT)
    is_a("info", DOCUMENT["info"])
    assert re.fullmatch(r"3\.1\.\d", DOCUMENT["openapi"])
    assert DOCUMENT["servers"] == [{"url": "/functions/v1"}]
    assert set(DOCUMENT["components"]) == {"schemas", "securitySchemes"}
    for requirement in DOCUMENT["security"]:
        assert set(requirement) <= set(DOCUMENT["components"]["securitySchemes"])
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in DOCUMENT["components"]["schemas"])


def test_its_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert DOCUMENT["info"]["version"] == project["version"]


def test_every_operation_is_whole() -> None:
    for path, method, operation in operations():
        is_a("operation", operation)
        assert re.fullmatch(r"(/[a-z0-9-]+)+", path)
        assert method in {"get", "post", "put", "patch", "delete"}
        assert ("requestBody" in operation) == (method != "get")
        for parameter in operation["parameters"]:
            is_a("parameter", parameter)
            assert parameter["in"] in {"query", "header"}
        places = [(parameter["in"], parameter["name"].lower()) for parameter in operation["parameters"]]
        assert len(set(places)) == len(places)
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[2-5]\d\d", status)
            is_a("response", response)
            for header in response["headers"].values():
                is_a("header", header)
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(ids)) == len(ids)


def contents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every media type object, and where it stands."""
    for path, _, operation in operations():
        bodies = [("requestBody", operation["requestBody"])] if "requestBody" in operation else []
        for name, body in (*bodies, *operation["responses"].items()):
            assert set(body["content"]) == {"application/json"}
            yield f"{path} {name}", body["content"]["application/json"]


def test_every_content_has_a_schema_and_examples_that_keep_to_it() -> None:
    for where, media in contents():
        is_a("media", media)
        examples = [media["example"]] if "example" in media else []
        for example in media.get("examples", {}).values():
            is_a("example", example)
            examples.append(example["value"])
        assert examples, where
        for value in examples:
            assert [*violations(value, media["schema"], DOCUMENT)] == [], where


def test_the_examples_of_parameters_keep_to_their_schemas() -> None:
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


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert found
    for ref in found:
        assert resolve(DOCUMENT, ref)["type"] == "object"


def test_no_query_parameter_may_be_null() -> None:
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
        (None, {"anyOf": [{"type": "string"}, {"type": "null"}]}, 0),
    ],
)
def test_what_these_tests_take_for_a_violation(value: Any, schema: dict[str, Any], complaints: int) -> None:
    assert len([*violations(value, schema, {})]) == complaints


# It is what is declared, and what is served


def test_every_endpoint_is_in_it_and_nothing_else() -> None:
    assert {(path, method.upper()) for path, method, _ in operations()} == {
        (path, endpoint.method) for path, endpoint in ENDPOINTS.items()
    }
    for path, endpoint in ENDPOINTS.items():
        operation = documented.operation(path)
        assert operation["summary"] == endpoint.summary
        assert [status for status in operation["responses"] if status < "400"] == [str(endpoint.status)]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_examples_are_what_the_models_take(path: str) -> None:
    endpoint = ENDPOINTS[path]
    request, answer = json.dumps(endpoint.example_request), json.dumps(endpoint.example_response)
    if endpoint.method == "GET":
        query = {name: str(value) for name, value in endpoint.example_request.items()}
        endpoint.request.model_validate_strings(query, strict=True, extra="forbid")
    else:
        endpoint.request.model_validate_json(request, strict=True, extra="forbid")
    endpoint.response.model_validate_json(answer, strict=True, extra="forbid")


@pytest.mark.parametrize("path", [path for path, endpoint in ENDPOINTS.items() if endpoint.method == "GET"])
def test_the_parameters_are_the_models_members(path: str) -> None:
    parameters = {parameter["name"]: parameter for parameter in documented.operation(path)["parameters"]}
    fields = ENDPOINTS[path].request.model_fields
    assert {name: one["required"] for name, one in parameters.items()} == {
        name: field.is_required() for name, field in fields.items()
    }
    assert {one["in"] for one in parameters.values()} == {"query"}


def test_every_post_has_an_idempotency_key() -> None:
    for path, method, operation in operations():
        if method == "get":
            continue
        [header] = [parameter for parameter in operation["parameters"] if parameter["in"] == "header"]
        assert (header["name"], header["required"]) == ("Idempotency-Key", False), path
        assert (header["schema"]["minLength"], header["schema"]["maxLength"]) == (1, 255)


@pytest.mark.parametrize("project", BOTH_DOORS, indirect=True, ids=str)
def test_it_is_served_to_anybody(project: Project) -> None:
    response = project.request("GET", "/openapi.json")
    assert response.status_code == 200
    assert response.json() == DOCUMENT
    assert project.request("GET", "/openapi.json", "not.a.token").content == response.content
    assert project.request("OPTIONS", "/openapi.json").headers["access-control-allow-methods"] == "GET, OPTIONS"
    refusal(project.request("POST", "/openapi.json", content=b"{}"), 404, "no_such_function")


def test_the_command_prints_what_is_served() -> None:
    command = [sys.executable, "-m", "functions._shared.openapi"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    assert (json.loads(printed.stdout), printed.stderr) == (DOCUMENT, "")


# It says no more than there is


@dataclass
class Scene:
    """A member of an agency, about to make a request that would succeed."""

    project: Project
    endpoint: Endpoint

    def __post_init__(self) -> None:
        self.user: User = self.project.database.member()
        self.token = self.project.token(self.user)
        self.request = self.good()

    def good(self) -> dict[str, Any]:
        database = self.project.database
        match self.endpoint.name:
            case "start_historical_sync":
                return {"connection_id": database.connection(self.user.agency_id), **JANUARY}
            case "retry_historical_sync":
                return {"job_id": self.project.job(self.user, "cancelled")}
            case "cancel_historical_sync" | "get_historical_sync":
                return {"job_id": database.start(self.user)}
            case _:
                return {}

    def send(self, **options: Any) -> httpx.Response:
        """The request, but for what `options` say."""
        method, token = options.pop("method", self.endpoint.method), options.pop("token", self.token)
        if "content" not in options:
            name = "params" if self.endpoint.method == "GET" else "json"
            options[name] = options.pop("request", self.request)
        return self.project.request(method, self.endpoint.path, token, **options)

    def other(self) -> User:
        return self.project.database.member()


Provoke: TypeAlias = "Callable[[Scene], httpx.Response]"


def revoked(scene: Scene) -> httpx.Response:
    scene.project.auth.sign_out(scene.token)
    return scene.send()


def first_member_wrong(scene: Scene) -> httpx.Response:
    name = next(iter(scene.endpoint.request.model_fields))
    return scene.send(request={name: "nope"})


def broken(scene: Scene) -> httpx.Response:
    with scene.project.without("app.caller"):
        return scene.send()


def no_auth_server(scene: Scene) -> httpx.Response:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with Project(scene.project.setup, scene.project.backend, supabase_url=nowhere) as project:
        return dataclasses.replace(scene, project=project).send()


def no_database(scene: Scene) -> httpx.Response:
    port = free_port()
    with Project(scene.project.setup, scene.project.backend) as project:
        settings = dataclasses.replace(
            project.settings, supabase_url=f"http://127.0.0.1:{port}", database_url=f"postgresql://127.0.0.1:{port}/x"
        )
        nowhere = services.make_rpc(settings)
        with contextlib.closing(project.services.rpc), contextlib.closing(nowhere):
            project.services = dataclasses.replace(project.services, rpc=nowhere)
            return dataclasses.replace(scene, project=project).send()


def key_in_use(scene: Scene) -> httpx.Response:
    with scene.project.database.session(scene.user.claims) as session, session.connection.transaction():
        session.execute("select set_config('request.headers', %s, true)", ('{"idempotency-key": "k"}',))
        session.execute("select app.recall_answer(app.caller(), %s, '{}')", (scene.endpoint.rpc,))
        return scene.send(headers={"idempotency-key": "k"})


def key_reused(scene: Scene) -> httpx.Response:
    scene.project.database.admin.execute(
        "insert into app.idempotency_keys (agency_id, actor, function, key, request, answer)"
        " values (%s, %s, %s, 'k', '{}', '{}')",
        (scene.user.agency_id, f"user:{scene.user.id}", scene.endpoint.rpc),
    )
    return scene.send(headers={"idempotency-key": "k"})


def with_job(status: Any, *, of_another: bool = False) -> Provoke:
    def provoke(scene: Scene) -> httpx.Response:
        owner = scene.other() if of_another else scene.user
        return scene.send(request={"job_id": scene.project.job(owner, status)})

    return provoke


def on_connection(*, of_another: bool = False, **columns: Any) -> Provoke:
    def provoke(scene: Scene) -> httpx.Response:
        owner = scene.other() if of_another else scene.user
        connection_id = scene.project.database.connection(owner.agency_id, **columns)
        return scene.send(request=scene.request | {"connection_id": connection_id})

    return provoke


def twice(scene: Scene) -> httpx.Response:
    scene.send()
    return scene.send()


# By status and code: what makes any endpoint that documents it answer so.
PROVOKED: dict[tuple[int, str], Provoke] = {
    (400, "invalid_json"): lambda scene: scene.send(content=b"{"),
    (400, "invalid_request"): lambda scene: scene.send(content=b"[]"),
    (400, "missing_field"): lambda scene: scene.send(request={}),
    (400, "invalid_field"): first_member_wrong,
    (400, "invalid_idempotency_key"): lambda scene: scene.send(headers={"idempotency-key": ""}),
    (401, "missing_token"): lambda scene: scene.send(token=None),
    (401, "invalid_token"): lambda scene: scene.send(token="not.a.token"),
    (401, "expired_token"): lambda scene: scene.send(token=scene.project.token(scene.user, lifetime=-1)),
    (401, "revoked_token"): revoked,
    (403, "no_agency"): lambda scene: scene.send(token=scene.project.token(scene.project.database.user(None))),
    (405, "method_not_allowed"): lambda scene: scene.send(method="DELETE"),
    (409, "idempotency_key_in_use"): key_in_use,
    (413, "body_too_large"): lambda scene: scene.send(content=b"x" * (MAX_BODY_BYTES + 1)),
    (422, "idempotency_key_reused"): key_reused,
    (500, "internal_error"): broken,
    (503, "auth_unavailable"): no_auth_server,
    (503, "database_unavailable"): no_database,
    # Of the historical syncs
    (400, "not_cancellable"): with_job("completed"),
    (400, "not_retryable"): with_job("pending"),
    (403, "job_of_another_agency"): with_job("pending", of_another=True),
    (404, "job_not_found"): lambda scene: scene.send(request={"job_id": UNKNOWN}),
    (409, "already_active"): twice,
    (400, "not_a_source"): on_connection(kind="records", config={}),
    (400, "invalid_resources"): on_connection(config={}),
    (400, "unknown_resource"): lambda scene: scene.send(request=scene.request | {"resources": ["nope"]}),
    (403, "connection_of_another_agency"): on_connection(of_another=True),
    (404, "connection_not_found"): lambda scene: scene.send(request=scene.request | {"connection_id": UNKNOWN}),
}
EVERY_ERROR = [(path, status, code) for path in ENDPOINTS for status, code in documented.errors(path)]


@pytest.mark.parametrize("project", BOTH_DOORS, indirect=True, ids=str)
@pytest.mark.parametrize(("path", "status", "code"), EVERY_ERROR)
def test_every_documented_error_is_answered(project: Project, path: str, status: int, code: str) -> None:
    response = PROVOKED[status, code](Scene(project, ENDPOINTS[path]))
    members = refusal(response, status, code)
    assert set(members) == set(documented.errors(path)[status, code]) - documented.ALWAYS
    assert response.request.url.path == f"/functions/v1{path}"


@pytest.mark.parametrize("project", BOTH_DOORS, indirect=True, ids=str)
@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_documented_success_is_answered(project: Project, path: str) -> None:
    response = Scene(project, ENDPOINTS[path]).send()
    assert str(response.status_code) in documented.operation(path)["responses"]
    assert response.is_success


def test_nothing_is_provoked_that_nobody_documents() -> None:
    assert set(PROVOKED) == {(status, code) for _, status, code in EVERY_ERROR}


@pytest.mark.parametrize("project", BOTH_DOORS[:1], indirect=True, ids=str)
@pytest.mark.parametrize("path", ENDPOINTS)
def test_whatever_makes_one_endpoint_refuse_gets_a_documented_answer_of_each(project: Project, path: str) -> None:
    for provoke in PROVOKED.values():
        assert provoke(Scene(project, ENDPOINTS[path])).status_code >= 200  # and was checked on its way here


# And no less: what the check of every answer is worth


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
    ],
    ids=str,
)
def test_an_answer_that_is_not_documented_is_noticed(path: str, status: int, body: dict[str, Any]) -> None:
    request = httpx.Request("POST", f"http://x/functions/v1{path}")
    with pytest.raises(AssertionError):
        documented.check(httpx.Response(status, json=body, request=request, headers={"x-request-id": "r"}))


def test_an_answer_without_a_documented_header_is_noticed() -> None:
    body = {"error": "E.", "code": "database_unavailable", "requestId": "r"}
    request = httpx.Request("GET", "http://x/functions/v1/get-historical-sync")
    headers = {"x-request-id": "r", "retry-after": "2"}
    documented.check(httpx.Response(503, json=body, request=request, headers=headers))
    for name in headers:
        left = {other: value for other, value in headers.items() if other != name}
        with pytest.raises(AssertionError):
            documented.check(httpx.Response(503, json=body, request=request, headers=left))
