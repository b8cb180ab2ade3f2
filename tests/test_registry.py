"""Every module of a family is an endpoint, found by its name; nothing else is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

import functions
from functions._shared import registry
from functions._shared.endpoint import Endpoint

if TYPE_CHECKING:
    from tests.house import Database

ROOT = Path(functions.__file__).parent
# Found in the file system, not by what is tested.
MODULES = sorted(
    f"functions.{file.parent.name}.{file.stem}"
    for file in ROOT.glob("*/*.py")
    if not file.parent.name.startswith("_") and file.parent.name != "worker" and file.stem != "__init__"
)


def test_all_are_found() -> None:
    assert sorted(endpoint.module for endpoint in registry.endpoints()) == MODULES
    assert {"/cancel-historical-sync", "/start-historical-sync", "/get-historical-sync"} <= {
        endpoint.path for endpoint in registry.endpoints()
    }


def test_no_two_have_the_same_path() -> None:
    paths = [endpoint.path for endpoint in registry.endpoints()]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_declares_an_endpoint_and_a_handler(name: str) -> None:
    module = importlib.import_module(name)
    endpoint = module.endpoint
    assert isinstance(endpoint, Endpoint)
    assert endpoint.module == name
    assert callable(module.handler)
    assert module.handler is endpoint.handler
    assert module.__doc__
    assert issubclass(endpoint.request, BaseModel)
    assert issubclass(endpoint.response, BaseModel)
    assert endpoint.method in {"GET", "POST", "PUT", "PATCH", "DELETE"}
    assert 200 <= endpoint.status < 300


@pytest.mark.parametrize("name", MODULES)
def test_one_rule_connects_module_and_url(name: str) -> None:
    stem = name.rpartition(".")[2]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", stem)
    assert importlib.import_module(name).endpoint.path == f"/{stem.replace('_', '-')}"


@pytest.mark.parametrize("name", MODULES)
def test_the_rpc_exists_and_takes_what_the_request_has(database: Database, name: str) -> None:
    endpoint = importlib.import_module(name).endpoint
    [function] = database.all(
        "select proargnames as names, pronargs - pronargdefaults as required from pg_proc"
        " where proname = %s and pronamespace = 'public'::regnamespace",
        (endpoint.rpc,),
    )
    names = function["names"] or []
    fields = endpoint.request.model_fields
    assert set(fields) <= set(names)
    assert set(names[: function["required"]]) <= {field for field, info in fields.items() if info.is_required()}


def test_a_handler_without_settings_says_which() -> None:
    """The environment of the tests has none."""
    from functions.historical_sync.cancel_historical_sync import handler  # noqa: PLC0415

    event = {"rawPath": "/", "requestContext": {"http": {"method": "POST"}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SUPABASE_URL", raising=False)
        with pytest.raises(RuntimeError, match="SUPABASE_URL"):
            handler(event, None)
