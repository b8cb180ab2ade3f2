"""registry.py: every module of a family is an endpoint, found by its path."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from uuid import UUID

import pytest
from pydantic import BaseModel

import functions
from functions._shared import registry
from functions._shared.endpoint import Endpoint
from functions._shared.error_format import PLAIN
from functions._shared.errors import ApiError
from functions._shared.fields import StrictRequest, unsent
from functions._shared.http import Request
from tests.support.requests import path_of
from tests.support.stub import Stub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.support.database import Database

pytestmark = pytest.mark.conventions

NOWHERE = "00000000-0000-4000-8000-000000000000"
ROOT = Path(functions.__file__).parent
# From the file system, independently of the registry.
MODULES = sorted(
    f"functions.{file.parent.name}.{file.stem}"
    for file in ROOT.glob("*/*.py")
    if not file.parent.name.startswith("_") and file.parent.name != "worker" and not file.stem.startswith("_")
)


@pytest.fixture(scope="module")
def catalog_database(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    """One database for all tests, which only read its catalog."""
    with clone() as made:
        yield made


def test_registry__finds_every_module() -> None:
    assert sorted(endpoint.module for endpoint in registry.endpoints()) == MODULES, (
        "Declare `endpoint` in each module of a family's folder, or begin the module's name with _."
    )
    assert {"/cancel-historical-sync", "/start-historical-sync", "/get-historical-sync"} <= {
        endpoint.path for endpoint in registry.endpoints()
    }


def test_registry__paths_and_names_are_unique() -> None:
    places = [(endpoint.path, endpoint.method) for endpoint in registry.endpoints()]
    assert len(set(places)) == len(places), "Change `path` or the method of one of two endpoints with the same ones."
    names = {endpoint.name for endpoint in registry.endpoints()}
    assert len(names) == len(places), "Rename the file of one of two endpoints with the same name."


def test_registry__dispatches_by_path_and_method() -> None:
    for endpoint in registry.endpoints():
        stub = Stub(response=ApiError(418, "teapot", "A teapot."))
        request = Request(endpoint.method, path_of(endpoint, endpoint.example_request), body=b"{", query={"limit": "x"})
        assert registry.handle(request, stub.services).status in {400, 418}
        others = [other for other in registry.endpoints() if other.path == endpoint.path]
        response = registry.handle(Request("PROPFIND", request.path), stub.services)
        assert response.headers["allow"] == ", ".join([*(other.method for other in others), "OPTIONS"])
        assert response.headers.get("x-polytomic-version") == (endpoint.error_format.versions or (None,))[0]


def test_registry__fixed_segment_before_parameter() -> None:
    """/api/connections/test is never the connection called test."""
    response = registry.handle(Request("GET", "/api/connections/test"), Stub().services)
    assert (response.status, response.headers["allow"]) == (405, "POST, OPTIONS")


def test_module__declares_endpoint_and_handler() -> None:
    for name in MODULES:
        module = importlib.import_module(name)
        endpoint = module.endpoint
        assert isinstance(endpoint, Endpoint), f"Declare `endpoint = Endpoint(__name__, …)` in {name}."
        assert endpoint.module == name, f"Pass __name__ as the first argument of Endpoint in {name}."
        assert callable(module.handler), f"End {name} with `handler = lambda_handler(endpoint)`."
        assert module.__doc__, f"Write a docstring in {name}: its first paragraph is the summary in OpenAPI."
        assert issubclass(endpoint.request, BaseModel), f"Set request= to a pydantic model in {name}."
        assert endpoint.method in {"GET", "POST", "PUT", "PATCH", "DELETE"}, f"Correct the method in {name}."
        assert 200 <= endpoint.status < 300, f"Set status= to a 2xx status in {name}."
        assert (endpoint.response is None) == (endpoint.status == 204), (
            f"Set response=None and status=204 together in {name}, or neither."
        )
        assert endpoint.response is None or issubclass(endpoint.response, BaseModel), (
            f"Set response= to a pydantic model in {name}."
        )


def test_module__name_gives_the_url() -> None:
    for name in MODULES:
        stem = name.rpartition(".")[2]
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", stem), f"Rename {name} to snake_case, because it becomes the URL."
        endpoint = importlib.import_module(name).endpoint
        if endpoint.error_format is PLAIN:
            assert endpoint.path == f"/{stem.replace('_', '-')}", f"Omit path= in {name}."
        else:  # a published path
            assert re.fullmatch(r"(/api)?(/[a-z-]+|/\{[a-z_]+\})+", endpoint.path), (
                f"Correct path= in {name}: segments are lower case with hyphens, or parameters such as {{sync_id}}."
            )


def test_path_parameters__are_required_uuids_of_the_request() -> None:
    for name in MODULES:
        endpoint = importlib.import_module(name).endpoint
        named = re.findall(r"\{(\w+)\}", endpoint.path)
        assert len(set(named)) == len(named), f"Name each path parameter of {name} once."
        for member in named:
            field = endpoint.request.model_fields[member]
            assert (field.annotation, field.is_required(), field.alias) == (UUID, True, None), (
                f"Declare `{member}: UUID` in the request of {name}, without default and alias."
            )
        filled = path_of(endpoint, dict.fromkeys(named, NOWHERE))
        assert endpoint.path_parameters(filled) == dict.fromkeys(named, NOWHERE)
        assert endpoint.path_parameters(f"{filled}/x") is None
        assert endpoint.path_parameters(f"/x{filled}") is None


# Arguments that are not fields of the request, because `respond` adds them.
ADDED = {"test_connection": {"configuration"}}


def sent_members(endpoint: Endpoint) -> dict[str, bool]:
    """The names of the fields that are sent to SQL, and whether they are required."""
    left_out = unsent(endpoint.request)
    return {
        field.alias or name: field.is_required()
        for name, field in endpoint.request.model_fields.items()
        if name not in left_out and not field.exclude
    }


def test_rpc__exists_and_accepts_the_requests_fields(catalog_database: Database) -> None:
    for name in MODULES:
        endpoint = importlib.import_module(name).endpoint
        found = catalog_database.all(
            "select proargnames as names, pronargs - pronargdefaults as required, prosrc as source,"
            " has_function_privilege('anon', oid, 'EXECUTE') as for_keys,"
            " has_function_privilege('authenticated', oid, 'EXECUTE') as for_users from pg_proc"
            " where proname = %s and pronamespace = 'public'::regnamespace",
            (endpoint.rpc,),
        )
        assert len(found) == 1, f"Declare public.{endpoint.rpc} in sql/schemas, or set rpc= in {name}."
        [function] = found
        names = function["names"] or []
        members = sent_members(endpoint)
        unknown = set(members) - set(names)
        assert unknown == set(), (
            f"Add the parameters {unknown} to public.{endpoint.rpc}, or remove the fields from {name}."
        )
        required = {member for member, is_required in members.items() if is_required} | ADDED.get(endpoint.name, set())
        missing = set(names[: function["required"]]) - required
        assert missing == set(), f"Give {missing} of public.{endpoint.rpc} a default, or require the fields in {name}."
        # The error format decides whether an agency's API key is accepted, the grants decide it again.
        roles = "anon, authenticated, service_role" if endpoint.error_format.api_keys else "authenticated, service_role"
        assert (function["for_users"], function["for_keys"]) == (True, endpoint.error_format.api_keys), (
            f"Write in the file of public.{endpoint.rpc}: grant execute on function public.{endpoint.rpc} to {roles};"
        )
        for helper in ("get_idempotent_response", "save_idempotent_response"):
            does = f"app.{helper}(" in function["source"] or "app.cancel_definition(" in function["source"]
            assert does or not endpoint.accepts_idempotency_key, (
                f"Call app.{helper} in public.{endpoint.rpc}, or set idempotent=False in {name}."
            )
            assert not does or endpoint.accepts_idempotency_key, (
                f"Set idempotent=True in {name}, or do not call app.{helper} in public.{endpoint.rpc}."
            )


def test_fields__unsent_fields_change_nothing() -> None:
    """A field that is not sent to SQL changes nothing."""
    for name in MODULES:
        endpoint = importlib.import_module(name).endpoint
        for member, field in endpoint.request.model_fields.items():
            if field.exclude:
                assert issubclass(endpoint.request, StrictRequest), member
                if (endpoint.name, member) == ("create_sync_job_run", "status"):
                    continue  # accepted and ignored
                [nested] = [one for one in get_args(field.annotation) if one is not type(None)]
                assert unsent(nested), member
            elif member in unsent(endpoint.request):
                assert not field.is_required(), member


def test_handler__names_missing_settings() -> None:
    """The test environment has no settings."""
    from functions.historical_sync.cancel_historical_sync import handler  # noqa: PLC0415

    event = {"rawPath": "/", "requestContext": {"http": {"method": "POST"}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SUPABASE_URL", raising=False)
        with pytest.raises(RuntimeError, match="SUPABASE_URL"):
            handler(event, None)


def test_registry__imports_only_candidates() -> None:
    for endpoint in registry.endpoints():
        near = registry._candidates(endpoint.path)
        assert endpoint in near
        assert {one.module.rpartition(".")[0] for one in near} <= {
            endpoint.module.rpartition(".")[0],
            *(["functions.sync_job"] if endpoint.path.startswith("/sync-job-run") else []),
        }
