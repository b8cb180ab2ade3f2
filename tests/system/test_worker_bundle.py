"""The worker's zip, run by the template's Python as by Lambda, with queues on moto's server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from functions._build import bundle
from functions._local.fake_auth import AuthServer
from functions._local.gateway import forward, gateway
from functions._local.source import Source, table
from functions._local.web_server import WebServer
from functions._shared import aws
from functions.worker.lambda_handler import RESERVE_SECONDS
from tests.support import cloud
from tests.support import postgrest as rest
from tests.support.historical_syncs import Scenario
from tests.support.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.database import Database

pytestmark = pytest.mark.timeout(600)  # the zip may have to be built first

HANDLER = "functions.worker.lambda_handler.handler"
ATTEMPTS = 3


class Queue:
    """A queue with a dead-letter queue, as in the template."""

    def __init__(self, name: str, visibility_seconds: int = 0) -> None:
        self._sqs = aws.client("sqs")
        self.dead: str = self._sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        arn = self._sqs.get_queue_attributes(QueueUrl=self.dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        attributes = {
            "VisibilityTimeout": str(visibility_seconds),
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": ATTEMPTS}),
        }
        self.url: str = self._sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    def put(self, body: str) -> None:
        self._sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def receive(self) -> dict[str, Any]:
        """The event that Lambda would pass to the function, with at most ten messages."""
        messages = self._sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", [])
        return {
            "Records": [
                {
                    "messageId": message["MessageId"],
                    "receiptHandle": message["ReceiptHandle"],
                    "body": message["Body"],
                    "attributes": {},
                    "messageAttributes": {},
                    "md5OfBody": message["MD5OfBody"],
                    "eventSource": "aws:sqs",
                    "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:runs",
                    "awsRegion": "eu-central-1",
                }
                for message in messages
            ]
        }

    def settle(self, event: dict[str, Any], response: dict[str, Any]) -> None:
        """Delete the messages that did not fail, as Lambda does."""
        failed = {failure["itemIdentifier"] for failure in response["batchItemFailures"]}
        for record in event["Records"]:
            if record["messageId"] not in failed:
                self._sqs.delete_message(QueueUrl=self.url, ReceiptHandle=record["receiptHandle"])

    def dead_letters(self) -> list[str]:
        messages = self._sqs.receive_message(QueueUrl=self.dead, MaxNumberOfMessages=10).get("Messages", [])
        return [message["Body"] for message in messages]


class Deployed:
    def __init__(self, scenario: Scenario, environment: dict[str, str]) -> None:
        self.scenario = scenario
        self.runs, self.checks = Queue("runs"), Queue("checks")
        self.environment = environment | {
            "AWS_LAMBDA_FUNCTION_NAME": "worker",
            "DATABASE_URL": scenario.database.login("authenticator"),
            "QUEUE_URL": self.runs.url,
            "CHECK_QUEUE_URL": self.checks.url,
            "WORKER_ALLOW_PRIVATE_ADDRESSES": "true",
            "WORKER_LEASE_SECONDS": "1",
            "WORKER_HEARTBEAT_SECONDS": "0.1",
            "WORKER_TICK_SECONDS": "0.05",
        }
        self._zip = cloud.built(bundle.WORKER)

    def start(self) -> str:
        job_id = self.scenario.start()
        self.runs.put('{"queue": "runs"}')
        return job_id

    def process(self) -> Any:
        return cloud.function(self._zip, HANDLER, self.environment)

    def call_for_all(self, invoke: cloud.Function, seconds: float = 60) -> int:
        """Invoke the function until the queue is empty, and return the number of invocations."""
        invocations = 0
        while (event := self.runs.receive())["Records"]:
            self.runs.settle(event, invoke(event, seconds))
            invocations += 1
        return invocations


@pytest.fixture
def deployed(
    account: None, aws_endpoint: str, mortal_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployed]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws_endpoint)
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    table("flights")
    with Source(delay_seconds=0.02) as source:
        yield Deployed(Scenario(mortal_database, source, tmp_path), environment)


def test_worker__message__runs_the_job(deployed: Deployed) -> None:
    job_id = deployed.start()
    with deployed.process() as invoke:
        assert deployed.call_for_all(invoke) == 1
        log = [json.loads(line) for line in invoke.logged().splitlines()]
    deployed.scenario.assert_completed(job_id)
    messages = [line["message"] for line in log if line.get("execution_id") == job_id]
    assert messages == ["execution started", "execution ended"]


def test_worker__long_sync__continued_by_the_next_invocation(deployed: Deployed) -> None:
    deployed.scenario.source.faults.delay_seconds = 0.1
    job_id = deployed.start()
    with deployed.process() as invoke:
        invocations = deployed.call_for_all(invoke, RESERVE_SECONDS + 0.7)
    assert invocations > 2
    deployed.scenario.assert_completed(job_id)
    assert deployed.scenario.row(job_id)["attempts"] == 0


def test_worker__killed__run_continued_by_another(deployed: Deployed) -> None:
    """After the next tick and message. The message of the killed invocation returns and claims nothing."""
    deployed.scenario.source.faults.delay_seconds = 0.1
    job_id = deployed.start()
    with deployed.process() as invoke, ThreadPoolExecutor(1) as pool:
        response = pool.submit(invoke, deployed.runs.receive(), 60)
        deployed.scenario.wait_for_seq(job_id, 1)
        invoke.process.kill()
        with pytest.raises(cloud.HandlerFailed):
            response.result()
    assert deployed.scenario.row(job_id)["status"] == "running"
    deployed.scenario.source.faults.delay_seconds = 0
    with deployed.process() as invoke:
        until(lambda: invoke({"tick": True}) == {} and deployed.scenario.row(job_id)["status"] == "queued")
        deployed.call_for_all(invoke)
    deployed.scenario.assert_completed(job_id)
    assert deployed.scenario.row(job_id)["attempts"] <= 1
    assert [event for event in deployed.scenario.events(job_id) if event == "complete"] == ["complete"]


def test_worker__frozen_process__reconnects(deployed: Deployed) -> None:
    with deployed.process() as invoke:
        first = deployed.start()
        deployed.call_for_all(invoke)
        invoke.process.send_signal(signal.SIGSTOP)
        deployed.scenario.database.server.restart()
        deployed.scenario.database.reconnect()
        second = deployed.start()
        invoke.process.send_signal(signal.SIGCONT)
        deployed.call_for_all(invoke)
    assert {deployed.scenario.row(job_id)["status"] for job_id in (first, second)} == {"completed"}


def test_worker__malformed_message__dead_letter(deployed: Deployed) -> None:
    job_id = deployed.start()
    deployed.runs.put("malformed")
    with deployed.process() as invoke:
        assert deployed.call_for_all(invoke) == ATTEMPTS
    assert deployed.runs.dead_letters() == ["malformed"]
    deployed.scenario.assert_completed(job_id)


def test_worker__postgrest_transport__key_in_a_secret(deployed: Deployed) -> None:
    with contextlib.ExitStack() as stack:
        auth = AuthServer(deployed.scenario.database.url, issuer_url="http://127.0.0.1/auth/v1", jwt_secret="s" * 40)
        stack.callback(auth.close)
        postgrest = rest.serve(deployed.scenario.database, auth.jwks_for_postgrest())
        stack.callback(postgrest.close)
        client = stack.enter_context(httpx.Client())
        project = WebServer(gateway({"/rest/v1": forward("/rest/v1", postgrest.url, client)}))
        stack.callback(project.close)
        value = json.dumps({"SUPABASE_SERVICE_ROLE_KEY": auth.service_role_key()})
        aws.client("secretsmanager").create_secret(Name="the-settings", SecretString=value)
        del deployed.environment["DATABASE_URL"]
        deployed.environment |= {"SUPABASE_URL": project.url, "SETTINGS_SECRET": "the-settings"}
        job_id = deployed.start()
        with deployed.process() as invoke:
            deployed.call_for_all(invoke)
            assert auth.service_role_key() not in invoke.logged()
        deployed.scenario.assert_completed(job_id)


def test_worker__missing_setting__named_in_the_error(deployed: Deployed) -> None:
    job_id = deployed.start()
    del deployed.environment["DATABASE_URL"]
    with deployed.process() as invoke, pytest.raises(cloud.HandlerFailed, match="SUPABASE_URL"):
        invoke(deployed.runs.receive())
    assert deployed.scenario.row(job_id)["status"] == "queued"
