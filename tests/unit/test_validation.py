"""validation.py: error messages name the field and the problem in the words of this API, for every request model."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from functions._shared import registry
from functions._shared.errors import ApiError
from functions._shared.http import Request
from functions._shared.validation import read_arguments
from functions.bulk_action import Criteria
from functions.bulk_action.create_bulk_action import CreateBulkAction
from functions.historical_sync.start_historical_sync import StartHistoricalSync
from functions.model_sync.create_model_sync import CreateModelSync
from functions.webhook.create_webhook import CreateWebhook

if TYPE_CHECKING:
    from functions._shared.endpoint import Endpoint

ID = "248df4b7-aa70-47b8-a036-33ac447e668d"
WRONG_VALUES: tuple[Any, ...] = (True, 1, 1.5, 2**40, -(2**40), "", "x", "x" * 3000, [], [1], ["x"], {}, {"x": 1})
MESSAGE = re.compile(
    r"[\w.]+ (is required|must (be|not be|have|not contain|begin) .+|must not be empty|is not supported yet)\."
)


def validation_error(model: Any, method: str = "POST", query: Any = (), **body: Any) -> ApiError | None:
    request = Request(method, "/", query=dict(query), body=json.dumps(body).encode())
    try:
        read_arguments(model, request, {})
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (StartHistoricalSync, {"connection_id": "x"}, "connection_id must be a UUID."),
        (StartHistoricalSync, {"connection_id": 1}, "connection_id must be a UUID."),
        (StartHistoricalSync, {"connection_id": ID}, "date_from is required."),
        (StartHistoricalSync, {"connection_id": ID, "date_from": "2013-02-30"}, "date_from must be a date like "),
        (
            StartHistoricalSync,
            {"connection_id": ID, "date_from": "2013-01-02", "date_to": "2013-01-01"},
            "date_from must not be after date_to.",
        ),
        (
            StartHistoricalSync,
            {"connection_id": ID, "date_from": "2013-01-01", "date_to": "2013-01-01", "resources": []},
            "resources must not be empty.",
        ),
        (Criteria, {"created_after": "2013-01-01T00:00:00+23:00"}, "created_after must have a valid time zone offset."),
        (Criteria, {"created_after": "2013-01-01T00:00:00"}, "created_after must have a time zone, for example "),
        (Criteria, {"created_after": "soon"}, "created_after must be a time like 2026-11-22T13:47:26Z."),
        (Criteria, {"ids": ["x"]}, "ids.0 must be a UUID."),
        (CreateBulkAction, {"action_type": "x"}, "action_type must be 'cancel', 'retry' or 'start'."),
        (
            CreateBulkAction,
            {"action_type": "cancel", "criteria": {}, "max_limit": 0},
            "max_limit must be at least 1.",
        ),
        (CreateBulkAction, {"action_type": "cancel", "criteria": 1}, "criteria must be an object."),
        (
            CreateBulkAction,
            {"action_type": "cancel", "criteria": {}, "action_reason": "x" * 501},
            "action_reason must have at most 500 characters.",
        ),
        (CreateBulkAction, {"action_type": "cancel", "criteria": {}, "more": 1}, "Not supported yet: more."),
        (CreateWebhook, {"target_url": "ftp://x/y"}, "target_url must begin with https://."),
        (CreateWebhook, {"target_url": "https://x:99999999"}, "target_url must be a URL."),
        (CreateModelSync, {"name": ""}, "name must not be empty."),
        (Criteria, {"ids": [ID] * 10_001}, "ids must have at most 10000 items."),
    ],
    ids=str,
)
def test_validation__message(model: Any, body: dict[str, Any], message: str) -> None:
    error = validation_error(model, **body)
    assert error is not None
    assert error.message.startswith(message)


def test_validation__malformed_id_in_the_path() -> None:
    with pytest.raises(ApiError) as raised:
        read_arguments(StartHistoricalSync, Request("POST", "/"), {"connection_id": "x"})
    error = raised.value
    assert (error.status, error.code, error.message) == (404, "not_found", "Not found. connection_id must be a UUID.")


@pytest.mark.parametrize("endpoint", registry.endpoints(), ids=lambda endpoint: endpoint.name)
def test_validation__every_field_has_a_plain_message(endpoint: Endpoint) -> None:
    """Whatever its value: no message is pydantic's own."""
    for name, field in endpoint.request.model_fields.items():
        for value in WRONG_VALUES:
            sent = {field.alias or name: value}
            error = (
                validation_error(endpoint.request, **sent)
                if endpoint.has_body
                else validation_error(endpoint.request, endpoint.method, {n: str(v) for n, v in sent.items()})
            )
            if error is not None and error.status == 400:
                assert MESSAGE.fullmatch(error.message), (sent, error.message)
