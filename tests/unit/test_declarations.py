"""functions/_build/declarations.py: each mistake in a declaration is reported by name, with what to do."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import functions
from functions._build.declarations import problems
from functions._shared import registry
from functions._shared.error_format import PLAIN, TRUTO
from functions._shared.errors import ErrorSpec
from functions.historical_sync import cancel_historical_sync
from functions.webhook import create_webhook, get_webhook
from tests.support.requests import GOOD

if TYPE_CHECKING:
    from pathlib import Path

    from functions._shared.endpoint import Endpoint

pytestmark = pytest.mark.conventions

ENDPOINTS = registry.endpoints()


def broken(endpoint: Endpoint, **changes: Any) -> list[str]:
    """The problems of all endpoints if this one were declared so."""
    return problems(replace(each, **changes) if each is endpoint else each for each in ENDPOINTS)


def test_declarations__all_correct() -> None:
    assert problems(ENDPOINTS) == []


def test_declarations__each_has_a_test_request() -> None:
    missing = {endpoint.name for endpoint in ENDPOINTS} - set(GOOD)
    assert not missing, f"Add lines for {missing} to GOOD in tests/support/requests.py: requests that succeed."


def test_declarations__test_requests_name_endpoints() -> None:
    unknown = set(GOOD) - {endpoint.name for endpoint in ENDPOINTS}
    assert not unknown, f"There is no endpoint {unknown}. Remove its line from GOOD in tests/support/requests.py."


def test_declarations__module_is_not_the_file() -> None:
    [problem] = broken(cancel_historical_sync.endpoint, module="functions.historical_sync.cancel_sync")
    assert problem == (
        "functions.historical_sync.cancel_sync: there is no functions/historical_sync/cancel_sync.py."
        " Pass __name__ as the endpoint's first argument."
    )


def test_declarations__sql_function_is_missing() -> None:
    [problem] = broken(cancel_historical_sync.endpoint, rpc="cancel_sync")
    assert problem == (
        "functions/historical_sync/cancel_historical_sync.py: there is no SQL function public.cancel_sync. Write"
        " sql/schemas/historical_sync/public/cancel_sync.sql, or name another function with `rpc`."
    )


def test_declarations__published_path_is_forgotten() -> None:
    [problem] = broken(create_webhook.endpoint, path="/create-webhook")
    assert problem == (
        "functions/webhook/create_webhook.py: its URL is /create-webhook, but those of the family begin with /webhook."
        " Set `path`, or change PATH in functions/webhook/__init__.py."
    )


def test_declarations__path_in_a_family_without_prefix() -> None:
    [problem] = broken(cancel_historical_sync.endpoint, path="/cancel-historical")
    assert "its URL /cancel-historical is never found" in problem
    assert "Omit `path`" in problem


@pytest.mark.parametrize(
    ("endpoint", "changes", "expected"),
    [
        (create_webhook.endpoint, {"error_format": PLAIN}, "Set `error_format`."),
        (cancel_historical_sync.endpoint, {"error_format": TRUTO}, "Set `error_format`."),
        (get_webhook.endpoint, {"path": "/webhook/{id}"}, "Add id to GetWebhook."),
        (get_webhook.endpoint, {"method": "POST", "path": "/webhook"}, "both serve POST /webhook"),
        (get_webhook.endpoint, {"method": "get"}, "unknown method 'get'"),
        (get_webhook.endpoint, {"errors": (ErrorSpec(400, "x", "X."),)}, "x is not in functions/_shared/error_catalog"),
        (cancel_historical_sync.endpoint, {"errors": ()}, "NOT_CANCELLABLE"),
    ],
)
def test_declarations__other_mistakes(endpoint: Endpoint, changes: dict[str, Any], expected: str) -> None:
    others = [each for each in ENDPOINTS if each.errors and "not_cancellable" not in {e.code for e in each.errors}]
    found = problems([*(each for each in others if each is not endpoint), replace(endpoint, **changes)])
    assert [problem for problem in found if expected in problem], found


def test_declarations__handler_and_docstring_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(get_webhook, "handler")
    monkeypatch.setattr(get_webhook, "__doc__", None)
    found = problems(ENDPOINTS)
    assert [problem.partition(": ")[2] for problem in found] == [
        "the module has no docstring. Write one: its first paragraph is the summary in OpenAPI.",
        "there is no handler. End the module with `handler = lambda_handler(endpoint)`.",
    ]


def test_registry__module_without_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "functions.webhook.helpers", types.ModuleType("functions.webhook.helpers"))
    with pytest.raises(registry.NotAnEndpoint, match=r"^functions\.webhook\.helpers declares no endpoint\."):
        registry._import_endpoint("functions.webhook.helpers")


def test_registry__underscore_modules_are_not_endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("family/__init__", "family/_helpers", "family/get_it", "_tools/__init__", "_tools/get_it"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").touch()
    monkeypatch.setattr(functions, "__path__", [str(tmp_path)])
    registry._modules.cache_clear()
    try:
        assert registry._modules() == {"functions.family": ("functions.family.get_it",)}
    finally:
        monkeypatch.undo()
        registry._modules.cache_clear()
