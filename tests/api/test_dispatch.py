"""functions/_shared/dispatch.py: which endpoints notify workers, when, and how errors of AWS are handled."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from moto import mock_aws

from functions._local.web_server import WebServer
from functions._shared import aws, dispatch, registry
from functions._shared.errors import ApiError
from functions._shared.http import Request
from functions._shared.services import Services, make_dispatcher
from functions._shared.settings import from_environment
from tests.support.stub import Stub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

UNKNOWN = "00000000-0000-4000-8000-000000000000"
# Endpoints whose success queues an execution, or an event about the end of one.
NOTIFYING = {
    "create_bulk_action",
    "create_sync_job_run",
    "delete_connection",
    "delete_sync_job",
    "retry_historical_sync",
    "start_bulk_sync",
    "start_historical_sync",
    "start_model_sync",
    "stop_sync_job_run",
}


class RecordingDispatcher:
    """Records each notification, with the functions that had been called before."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self.requests: list[tuple[str, int, list[str]]] = []

    def notify(self, queue: dispatch.Queue, count: int = 1) -> None:
        called = [step[1] for step in self._stub.steps if step[0] == "call"]
        self.requests.append((queue, count, called))


def start(stub: Stub) -> tuple[int, RecordingDispatcher]:
    dispatcher = RecordingDispatcher(stub)
    services = Services(stub.services.settings, stub.services.authenticator, stub, dispatcher)
    body = {"connection_id": UNKNOWN, "date_from": "2013-01-01", "date_to": "2013-01-02"}
    request = Request("POST", "/start-historical-sync", body=json.dumps(body).encode())
    return registry.handle(request, services).status, dispatcher


def test_endpoint__success__notifies_after_the_call() -> None:
    assert start(Stub())[1].requests == [("runs", 1, ["start_historical_sync"])]


@pytest.mark.parametrize("failure", [ApiError(409, "already_active", "No."), RuntimeError()])
def test_endpoint__error__does_not_notify(failure: Exception) -> None:
    status, dispatcher = start(Stub(response=failure))
    assert status in (409, 500)
    assert dispatcher.requests == []


def test_endpoints__which_notify_workers() -> None:
    assert {endpoint.name for endpoint in registry.endpoints() if endpoint.notifies_worker} == NOTIFYING


# SQS


@pytest.mark.parametrize("count", [1, 2, 10, 11, 25])
def test_sqs__one_message_for_each_worker(account: None, count: int) -> None:
    with mock_aws():
        sqs = aws.client("sqs")
        runs, checks = (sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("runs", "checks"))
        make_dispatcher(runs, checks).notify("runs", count)
        bodies = []
        while messages := sqs.receive_message(QueueUrl=runs, MaxNumberOfMessages=10).get("Messages"):
            bodies += [json.loads(message["Body"]) for message in messages]
        assert bodies == [{"queue": "runs"}] * count
        assert "Messages" not in sqs.receive_message(QueueUrl=checks)


def test_dispatcher__no_queues__polling() -> None:
    assert isinstance(make_dispatcher(None, None), dispatch.PollingDispatcher)
    make_dispatcher(None, None).notify("runs", 3)


@pytest.mark.parametrize("missing", ["QUEUE_URL", "CHECK_QUEUE_URL"])
def test_settings__one_queue_missing__rejected(missing: str) -> None:
    both = {"QUEUE_URL": "https://q.example/a", "CHECK_QUEUE_URL": "https://q.example/b"}
    with pytest.raises(RuntimeError, match="Set both QUEUE_URL and CHECK_QUEUE_URL, or neither"):
        from_environment({"SUPABASE_URL": "http://p", "SUPABASE_ANON_KEY": "k", **both, missing: ""})


class FakeSqs:
    """Returns each of these responses in turn, and the last from then on."""

    def __init__(self, *responses: tuple[int, dict[str, Any]]) -> None:
        self.responses = list(responses)
        self.requests = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        self.requests += 1
        status, body = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        start_response(f"{status} X", [("content-type", "application/x-amz-json-1.0")])
        return [json.dumps(body).encode()]


THROTTLED = (400, {"__type": "com.amazonaws.sqs#RequestThrottled", "message": "slow down"})
BROKEN = (500, {"__type": "com.amazonaws.sqs#InternalError", "message": "internal error"})
DENIED = (403, {"__type": "com.amazon.coral.service#AccessDeniedException", "message": "access denied"})
SENT = (200, {"Successful": [{"Id": "0", "MessageId": "m"}]})
REJECTED = (200, {"Successful": [], "Failed": [{"Id": "0", "Code": "InternalError", "SenderFault": False}]})


@pytest.fixture
def fake_sqs(account: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSqs]:
    sqs = FakeSqs(SENT)
    server = WebServer(sqs)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    yield sqs
    server.close()


def notify(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Notify and return what is logged."""
    with caplog.at_level(logging.WARNING, "functions"):
        make_dispatcher("http://127.0.0.1/1/runs", "http://127.0.0.1/1/checks").notify("runs")
    return [f"{record.message}: {record.error}" for record in caplog.records]  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [THROTTLED, BROKEN])
def test_sqs__passing_error__retried(fake_sqs: FakeSqs, caplog: pytest.LogCaptureFixture, error: Any) -> None:
    fake_sqs.responses = [error, error, SENT]
    assert notify(caplog) == []
    assert fake_sqs.requests == 3


@pytest.mark.parametrize(
    ("error", "tries", "name"),
    [
        (THROTTLED, 3, "RequestThrottled"),
        (BROKEN, 3, "InternalError"),
        (DENIED, 1, "AccessDenied"),
        (REJECTED, 1, "InternalError"),
    ],
)
def test_sqs__lasting_error__logged_and_not_raised(
    fake_sqs: FakeSqs, caplog: pytest.LogCaptureFixture, error: Any, tries: int, name: str
) -> None:
    fake_sqs.responses = [error]
    [line] = notify(caplog)
    assert fake_sqs.requests == tries
    assert line.startswith("could not notify workers")
    assert name in line


def test_sqs__unreachable__logged_and_not_raised(
    account: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    [line] = notify(caplog)
    assert "EndpointConnectionError" in line
