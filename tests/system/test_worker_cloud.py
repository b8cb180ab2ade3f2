"""functions/worker/lambda_handler.py as AWS Lambda calls it: messages of a queue (moto's), ticks, and limited time."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from moto import mock_aws

from functions._local.source import Source, table
from functions._shared import aws
from functions._shared.services import make_dispatcher
from functions.worker import lambda_handler
from tests.support.historical_syncs import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.database import Database

INVOCATION_SECONDS = 900.0
NOTHING_FAILED: Mapping[str, Any] = {"batchItemFailures": []}


class Context:
    """Lambda's context: the remaining time of an invocation."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self._seconds * 1000)


class Queue:
    """One of moto's queues, with its messages as Lambda delivers them."""

    def __init__(self, name: str) -> None:
        self.url: str = aws.client("sqs").create_queue(QueueName=name)["QueueUrl"]

    def put(self, body: str) -> None:
        aws.client("sqs").send_message(QueueUrl=self.url, MessageBody=body)

    def receive(self) -> dict[str, Any]:
        """All messages as one event. They are deleted from the queue."""
        records = []
        while messages := aws.client("sqs").receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                aws.client("sqs").delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
                records.append(
                    {
                        "messageId": message["MessageId"],
                        "receiptHandle": message["ReceiptHandle"],
                        "body": message["Body"],
                        "attributes": {"ApproximateReceiveCount": "1"},
                        "messageAttributes": {},
                        "eventSource": "aws:sqs",
                        "awsRegion": "eu-central-1",
                    }
                )
        return {"Records": records}


class Cloud:
    """The worker's Lambda functions and their queues."""

    def __init__(self, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scenario = scenario
        self.runs, self.checks = Queue("runs"), Queue("checks")
        self.set = monkeypatch.setenv
        self.set("DATABASE_URL", scenario.database.login("authenticator"))
        self.set("WORKER_ALLOW_PRIVATE_ADDRESSES", "true")
        self.set("QUEUE_URL", self.runs.url)
        self.set("CHECK_QUEUE_URL", self.checks.url)
        self.dispatcher = make_dispatcher(self.runs.url, self.checks.url)

    def start(self, *resources: str) -> str:
        job_id = self.scenario.start(*resources)
        self.dispatcher.notify("runs")
        return job_id

    def invoke(self, event: Mapping[str, Any], seconds: float = INVOCATION_SECONDS) -> dict[str, Any]:
        return lambda_handler.handler(dict(event), Context(seconds))

    def tick(self) -> None:
        assert self.invoke({"tick": True}, 60) == {}


@pytest.fixture
def scenario(database: Database, tmp_path: Path) -> Iterator[Scenario]:
    table("flights")
    with Source() as source:
        yield Scenario(database, source, tmp_path)


@pytest.fixture
def in_cloud(account: None, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with mock_aws():
        yield Cloud(scenario, monkeypatch)


def test_message__runs_the_execution(in_cloud: Cloud) -> None:
    job_id = in_cloud.start()
    assert in_cloud.invoke(in_cloud.runs.receive()) == NOTHING_FAILED
    in_cloud.scenario.assert_completed(job_id)
    assert in_cloud.runs.receive()["Records"] == []


def test_message__received_twice__runs_once(in_cloud: Cloud) -> None:
    job_id = in_cloud.start()
    event = in_cloud.runs.receive()
    assert in_cloud.invoke(event) == in_cloud.invoke(event) == NOTHING_FAILED
    in_cloud.scenario.assert_completed(job_id)
    assert in_cloud.scenario.events(job_id) == ["start", "claim", "complete"]


def test_invocation__runs_everything_queued(in_cloud: Cloud) -> None:
    """A lost message loses no execution, because each invocation runs until nothing is queued."""
    jobs = [in_cloud.scenario.start("weather") for _ in range(3)]
    in_cloud.dispatcher.notify("runs")
    in_cloud.invoke(in_cloud.runs.receive())
    assert {in_cloud.scenario.row(job_id)["status"] for job_id in jobs} == {"completed"}


def test_invocation__long_sync__continues_in_the_next(in_cloud: Cloud) -> None:
    """Each invocation stops before its time is over, with a checkpoint and a message for the next."""
    in_cloud.scenario.source.faults.delay_seconds = 0.1
    job_id = in_cloud.start()
    invocations = 0
    while (event := in_cloud.runs.receive())["Records"]:
        seq = in_cloud.scenario.row(job_id)["seq"]
        assert in_cloud.invoke(event, lambda_handler.RESERVE_SECONDS + 0.7) == NOTHING_FAILED
        invocations += 1
        assert in_cloud.scenario.row(job_id)["seq"] > seq
    assert invocations > 2
    in_cloud.scenario.assert_completed(job_id)
    transitions = ["claim", "release"] * (invocations - 1)
    assert in_cloud.scenario.events(job_id) == ["start", *transitions, "claim", "complete"]
    assert in_cloud.scenario.row(job_id)["attempts"] == 0  # a release is not a failed attempt


def test_message__malformed__returned_alone(in_cloud: Cloud) -> None:
    job_id = in_cloud.start()
    malformed = ["", "{}", "[]", "null", '{"queue": "x"}', '{"queue": []}', "\ufeff{", "9" * 5000]
    for body in malformed[1:]:
        in_cloud.runs.put(body)
    event = in_cloud.runs.receive()
    wrong = [record["messageId"] for record in event["Records"] if record["body"] in malformed]
    assert len(wrong) == 7
    response = in_cloud.invoke(event)
    assert [failure["itemIdentifier"] for failure in response["batchItemFailures"]] == wrong
    in_cloud.scenario.assert_completed(job_id)


def test_message__only_malformed__database_not_called(in_cloud: Cloud) -> None:
    in_cloud.set("DATABASE_URL", "postgresql://no_role@127.0.0.1:9/x")
    in_cloud.runs.put("{}")
    event = in_cloud.runs.receive()
    [failure] = in_cloud.invoke(event)["batchItemFailures"]
    assert failure == {"itemIdentifier": event["Records"][0]["messageId"]}


def test_message__database_unavailable__all_returned(in_cloud: Cloud) -> None:
    job_id = in_cloud.start()
    in_cloud.dispatcher.notify("runs")
    event = in_cloud.runs.receive()
    in_cloud.set("DATABASE_URL", "postgresql://no_role@127.0.0.1:9/x")
    in_cloud.set("WORKER_SHUTDOWN_SECONDS", "0.2")
    response = in_cloud.invoke(event, lambda_handler.RESERVE_SECONDS + 0.3)
    assert [failure["itemIdentifier"] for failure in response["batchItemFailures"]] == [
        record["messageId"] for record in event["Records"]
    ]
    assert in_cloud.scenario.row(job_id)["status"] == "queued"
    assert in_cloud.runs.receive()["Records"] == []  # they were received before


def test_tick__message_lost__sends_another(in_cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    job_id = in_cloud.scenario.start()
    with caplog.at_level(logging.INFO):
        in_cloud.tick()
    logged = {record.queue: record for record in caplog.records if record.message == "queue stats"}  # type: ignore[attr-defined]
    assert (logged["runs"].executions, logged["checks"].executions) == (1, 0)  # type: ignore[attr-defined]
    event = in_cloud.runs.receive()
    assert [json.loads(record["body"]) for record in event["Records"]] == [{"queue": "runs"}]
    assert in_cloud.checks.receive()["Records"] == []
    in_cloud.invoke(event)
    in_cloud.scenario.assert_completed(job_id)


def test_tick__expired_lease__queued_again(in_cloud: Cloud) -> None:
    job_id = in_cloud.scenario.start()
    with in_cloud.scenario.database.worker() as session:
        session.claim()
    in_cloud.scenario.database.expire_lease(job_id)
    in_cloud.tick()
    assert in_cloud.scenario.row(job_id)["status"] == "queued"
    assert in_cloud.scenario.events(job_id) == ["start", "claim", "release"]


def test_tick__nothing_queued__sends_no_message(in_cloud: Cloud) -> None:
    in_cloud.tick()
    assert in_cloud.runs.receive()["Records"] == in_cloud.checks.receive()["Records"] == []


def test_tick__database_unavailable__invocation_fails(in_cloud: Cloud) -> None:
    """A failed invocation raises the alarm."""
    in_cloud.set("DATABASE_URL", "postgresql://no_role@127.0.0.1:9/x")
    with pytest.raises(TimeoutError):
        in_cloud.invoke({"tick": True}, 1)


def test_queue__claims_its_own_families_only(in_cloud: Cloud) -> None:
    job_id = in_cloud.start()
    event = in_cloud.runs.receive()
    in_cloud.set("WORKER_QUEUE", "checks")
    assert in_cloud.invoke(event) == NOTHING_FAILED
    assert in_cloud.scenario.row(job_id)["status"] == "queued"


def test_message__cancelled_before_the_invocation__not_run(in_cloud: Cloud) -> None:
    """The message remains, but the invocation claims nothing."""
    job_id = in_cloud.start()
    event = in_cloud.runs.receive()
    in_cloud.scenario.cancel(job_id)
    assert in_cloud.invoke(event) == NOTHING_FAILED
    assert in_cloud.scenario.events(job_id) == ["start", "cancel"]


def test_settings__read_from_a_secret(in_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = in_cloud.start()
    value = json.dumps({"DATABASE_URL": in_cloud.scenario.database.login("authenticator")})
    aws.client("secretsmanager").create_secret(Name="the-settings", SecretString=value)
    monkeypatch.delenv("DATABASE_URL")
    in_cloud.set("SETTINGS_SECRET", "the-settings")
    assert in_cloud.invoke(in_cloud.runs.receive()) == NOTHING_FAILED
    in_cloud.scenario.assert_completed(job_id)
