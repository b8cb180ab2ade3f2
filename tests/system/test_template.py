"""functions/template.yaml, translated as AWS translates it, linted, and created on moto."""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from cfnlint.api import lint
from cfnlint.core import get_rules
from moto import mock_aws
from moto.cloudformation.parsing import get_model_map
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from functions._build import bundle
from functions._local.schema import ROOT
from tests.support.template import sam_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

REGION = "eu-central-1"
PARAMETERS = {
    "SupabaseUrl": "https://abc.supabase.co",
    "SupabasePublishableKey": "k",
    "FunctionUrl": "true",
    "Release": "1795354680",
}
QUEUES = {"Worker": "Queue", "SourceCheckWorker": "CheckQueue"}  # by the function that each queue invokes
WORKERS = ["Worker", "SourceCheckWorker", "Tick"]
FUNCTIONS = ["Api", *WORKERS]

# Types that moto's CloudFormation does not create, although it may support the service.
NOT_ON_MOTO = {
    "AWS::ApiGatewayV2::Api",
    "AWS::ApiGatewayV2::Stage",
    "AWS::CloudWatch::Alarm",
    "AWS::Lambda::Alias",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::Url",
    "AWS::Logs::MetricFilter",
}
# Resources that require one of those.
REQUIRE_THEM = {"ApiAnyPathPermission"}


class NoManagedPolicies:
    """Roles use no managed policies, so none are loaded from AWS."""

    def load(self) -> dict[str, str]:
        return {}


def _translated(template: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The template after SAM's transform, with the zips uploaded."""
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = f"s3://bundles/{resource['Properties']['CodeUri'].rpartition('/')[2]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        made: dict[str, Any] = transform(template, dict(given), NoManagedPolicies())
    return made


@cache
def translated(**given: str) -> dict[str, Any]:
    return _translated(sam_template(), PARAMETERS | given)


def resources(kind: str = "", **given: str) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in translated(**given)["Resources"].items() if kind in {"", one["Type"]}}


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = resources()[name]["Properties"]
    return found


def test_template__lint() -> None:
    for template in (sam_template(), translated()):
        found = lint(json.dumps(template), get_rules([], [], [], {}), [REGION])
        assert [str(match) for match in found] == []


def test_lint__finds_an_unknown_property() -> None:
    template = json.loads(json.dumps(translated()))
    template["Resources"]["Queue"]["Properties"]["VisibilityTimeOut"] = 1
    assert lint(json.dumps(template), get_rules([], [], [], {}), [REGION])


def test_deploying_md__endpoint_and_family_as_own_functions() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", (ROOT / "functions" / "DEPLOYING.md").read_text(), re.DOTALL)
    added: dict[str, Any] = yaml_parse(block)
    template = sam_template()
    for function in added.values():
        function["Properties"] = {**template["Resources"]["Api"]["Properties"], **function["Properties"]}
    made = _translated(template | {"Resources": template["Resources"] | added}, PARAMETERS)
    assert [str(match) for match in lint(json.dumps(made), get_rules([], [], [], {}), [REGION])] == []
    paths = made["Resources"]["HttpApi"]["Properties"]["Body"]["paths"]
    found = {path: re.search(r"\$\{(\w+)Aliaslive\}", json.dumps(methods)) for path, methods in paths.items()}
    assert {path: function and function[1] for path, function in found.items()} == {
        "/$default": "Api",
        "/functions/v1/cancel-historical-sync": "CancelHistoricalSync",
        "/functions/v1/api/bulk/{proxy+}": "BulkSyncs",
    }


# The API


def test_http_api__no_cors() -> None:
    """CORS in the template would send headers twice and respond to preflights before the function."""
    names = set(re.findall(r"\w*cors\w*", json.dumps(translated()), re.IGNORECASE))
    assert names == {"CorsAllowedOrigins", "CORS_ALLOWED_ORIGINS"}


def test_http_api__every_path_to_the_published_version() -> None:
    body = properties("HttpApi")["Body"]
    [(path, methods)] = body["paths"].items()
    assert (path, [*methods]) == ("/$default", ["x-amazon-apigateway-any-method"])
    integration = methods["x-amazon-apigateway-any-method"]["x-amazon-apigateway-integration"]
    assert integration["payloadFormatVersion"] == "2.0"
    assert "${ApiAliaslive}" in json.dumps(integration["uri"])
    assert properties("ApiUrl")["TargetFunctionArn"] == {"Ref": "ApiAliaslive"}


def test_http_api__stage_has_rate_limits() -> None:
    [stage] = resources("AWS::ApiGatewayV2::Stage").values()
    settings = stage["Properties"]["DefaultRouteSettings"]
    assert 0 < settings["ThrottlingRateLimit"] <= settings["ThrottlingBurstLimit"]


def test_api__versions_are_snapshots() -> None:
    assert properties("Api")["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    [version] = resources("AWS::Lambda::Version").values()
    assert version["DeletionPolicy"] == "Delete"


def test_release__publishes_a_version() -> None:
    """Also if only a setting has changed, because a version keeps its settings."""
    one, other = (set(resources("AWS::Lambda::Version", Release=value)) for value in ("1795354680", "1795354681"))
    assert len(one) == len(other) == 1
    assert one.isdisjoint(other)
    # Lambda publishes no version of an unchanged function.
    assert properties("Api")["Description"] == PARAMETERS["Release"]
    assert "Default" not in sam_template()["Parameters"]["Release"]


# Every function


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function__runs_its_bundle(name: str) -> None:
    function = properties(name)
    assert function["Architectures"] == [bundle.ARCH]
    assert function["Runtime"] == f"python{bundle.VERSION}"
    assert function["Code"]["S3Key"] == ("api.zip" if name == "Api" else "worker.zip")
    assert function["Role"] == {"Fn::GetAtt": [f"{name}Role", "Arn"]}


def test_functions__all_tested() -> None:
    assert set(resources("AWS::Lambda::Function")) == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function__log_retention(name: str) -> None:
    assert properties(name)["LoggingConfig"]["LogGroup"] == {"Ref": f"{name}Log"}
    assert properties(f"{name}Log")["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    assert sam_template()["Parameters"]["LogRetentionDays"]["Default"] == 30


def variables(name: str) -> dict[str, Any]:
    found: dict[str, Any] = properties(name)["Environment"]["Variables"]
    return found


def test_function__no_secret_in_its_environment() -> None:
    for name in FUNCTIONS:
        assert not {"SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY", "DATABASE_URL"} & set(variables(name))
    assert "SettingsSecret" in sam_template()["Parameters"]


def test_function__environment_variables_are_read() -> None:
    files = [*(ROOT / "functions" / "_shared").glob("*.py"), *(ROOT / "functions" / "worker").glob("*.py")]
    code = "".join(file.read_text() for file in files)
    for name in FUNCTIONS:
        assert not [variable for variable in variables(name) if f'"{variable}"' not in code]


def test_workers__queue_of_each() -> None:
    assert [variables(name).get("WORKER_QUEUE") for name in WORKERS] == ["runs", "checks", None]


# Queues


@pytest.mark.parametrize("name", QUEUES)
def test_queue__redrive_and_event_source(name: str) -> None:
    queue = properties(QUEUES[name])
    assert queue["VisibilityTimeout"] >= 6 * properties(name)["Timeout"]
    assert queue["RedrivePolicy"]["maxReceiveCount"] == 3
    mapping = properties(f"{name}Messages")
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": [QUEUES[name], "Arn"]}
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}


def test_queue__batch_size() -> None:
    """A source check never waits for another. One invocation runs several executions."""
    assert (properties("WorkerMessages")["BatchSize"], properties("SourceCheckWorkerMessages")["BatchSize"]) == (4, 1)
    assert properties("Worker")["Timeout"] == 900


def test_queues__encrypted() -> None:
    queues = resources("AWS::SQS::Queue")
    assert len(queues) == 4
    assert all(queue["Properties"]["SqsManagedSseEnabled"] for queue in queues.values())


def test_tick__each_minute_without_retries() -> None:
    rule = properties("TickEachMinute")
    assert rule["ScheduleExpression"] == "rate(1 minute)"
    [target] = rule["Targets"]
    assert json.loads(target["Input"]) == {"tick": True}
    assert target["Arn"] == {"Fn::GetAtt": ["Tick", "Arn"]}
    assert properties("Tick")["Timeout"] == 60
    [invoked] = resources("AWS::Lambda::EventInvokeConfig").values()
    assert (invoked["Properties"]["FunctionName"], invoked["Properties"]["MaximumRetryAttempts"]) == (
        {"Ref": "Tick"},
        0,
    )


# Alarms


def alarms() -> dict[str, dict[str, Any]]:
    return {name: alarm["Properties"] for name, alarm in resources("AWS::CloudWatch::Alarm").items()}


@pytest.mark.parametrize("queue", QUEUES.values())
def test_alarm__dead_letters(queue: str) -> None:
    [dead] = properties(queue)["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][:1]
    alarm = alarms()[f"{dead}Alarm"]
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/SQS", "ApproximateNumberOfMessagesVisible")
    assert alarm["Dimensions"] == [{"Name": "QueueName", "Value": {"Fn::GetAtt": [dead, "QueueName"]}}]
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("GreaterThanThreshold", 0)


def test_alarm__errors_of_each_worker() -> None:
    alarm = alarms()["WorkerErrorsAlarm"]
    [result] = [metric for metric in alarm["Metrics"] if metric.get("ReturnData", True)]
    summed = {metric["Id"]: metric["MetricStat"]["Metric"] for metric in alarm["Metrics"] if metric is not result}
    assert set(re.findall(r"FILL\((\w+), 0\)", result["Expression"])) == set(summed)
    assert {metric["MetricName"] for metric in summed.values()} == {"Errors"}
    watched = [metric["Dimensions"] for metric in summed.values()]
    assert watched == [[{"Name": "FunctionName", "Value": {"Ref": name}}] for name in WORKERS]


def test_alarm__oldest_queued_execution() -> None:
    """Missing data is an alarm too."""
    waiting = properties("OldestQueuedMetric")
    assert waiting["LogGroupName"] == {"Ref": "TickLog"}
    assert waiting["FilterPattern"] == '{ $.message = "queue stats" }'
    [metric] = waiting["MetricTransformations"]
    assert metric["MetricValue"] == "$.oldest_seconds"
    alarm = alarms()["OldestQueuedAlarm"]
    assert (alarm["Namespace"], alarm["MetricName"]) == (metric["MetricNamespace"], metric["MetricName"])
    assert alarm["TreatMissingData"] == "breaching"


def test_alarms__sent_to_the_topic() -> None:
    assert len(alarms()) == 4
    topic = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopic"}], {"Ref": "AWS::NoValue"}]}
    assert all(alarm["AlarmActions"] == topic for alarm in alarms().values())


# The stack on moto


class Stack:
    """A stack of this template on moto, without the types that moto does not create. `ids` are the physical ids."""

    def __init__(self, name: str, **given: str) -> None:
        template = json.loads(json.dumps(translated()).replace('"Ref": "ApiAliaslive"', '"Ref": "Api"'))
        self.left_out = {
            name for name, one in template["Resources"].items() if one["Type"] in NOT_ON_MOTO
        } | REQUIRE_THEM
        self.resources = {name: one for name, one in template["Resources"].items() if name not in self.left_out}
        template |= {"Resources": self.resources, "Outputs": {}}
        cloud = client("cloudformation")
        parameters = [{"ParameterKey": name, "ParameterValue": value} for name, value in (PARAMETERS | given).items()]
        cloud.create_stack(StackName=name, TemplateBody=json.dumps(template), Parameters=parameters)
        found = cloud.list_stack_resources(StackName=name)["StackResourceSummaries"]
        self.ids = {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found}

    def may(self, function: str, action: str, resource: str) -> bool:
        """Whether the function's role allows it."""
        return any(
            action in _listed(statement["Action"])
            and any(fnmatchcase(resource, pattern) for pattern in _listed(statement["Resource"]))
            for statement in self.statements(function)
        )

    def statements(self, function: str) -> list[dict[str, Any]]:
        role = self.ids[f"{function}Role"]
        assert not client("iam").list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        [name] = client("iam").list_role_policies(RoleName=role)["PolicyNames"]
        document = client("iam").get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        found = ast.literal_eval(document)["Statement"]  # moto returns Python instead of JSON
        return [statement for statement in found if statement]

    def queue_arn(self, queue: str) -> str:
        return str(self.attributes(queue)["QueueArn"])

    def attributes(self, queue: str) -> dict[str, str]:
        response = client("sqs").get_queue_attributes(QueueUrl=self.ids[queue], AttributeNames=["All"])
        return dict(response["Attributes"])


def client(service: str) -> Any:
    return boto3.client(service)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _put_bundles() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("functions/__init__.py", "")
    client("s3").create_bucket(Bucket="bundles", CreateBucketConfiguration={"LocationConstraint": REGION})
    for name in ("api.zip", "worker.zip"):
        client("s3").put_object(Bucket="bundles", Key=name, Body=content.getvalue())


@pytest.fixture(scope="module")
def aws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        with mock_aws(config={"lambda": {"use_docker": False}}):
            _put_bundles()
            yield


@pytest.fixture(scope="module")
def stack(aws: None) -> Stack:
    return Stack("postgrest")


def _check_function(stack: Stack, name: str) -> None:
    made = client("lambda").get_function_configuration(FunctionName=stack.ids[name])
    assert made["Handler"] == properties(name)["Handler"]
    assert made["Environment"]["Variables"]["QUEUE_URL"] == stack.ids["Queue"]


def _check_version(stack: Stack, name: str) -> None:
    assert len(client("lambda").list_versions_by_function(FunctionName=stack.ids["Api"])["Versions"]) == 2


def _check_mapping(stack: Stack, name: str) -> None:
    made = client("lambda").get_event_source_mapping(UUID=stack.ids[name])
    assert made["EventSourceArn"] == stack.queue_arn(QUEUES[name.removesuffix("Messages")])


def _check_permission(stack: Stack, name: str) -> None:
    function = properties(name)["FunctionName"]["Ref"].replace("Aliaslive", "")
    policy = json.loads(client("lambda").get_policy(FunctionName=stack.ids[function])["Policy"])
    assert properties(name)["Action"] in {statement["Action"] for statement in policy["Statement"]}


def _check_log(stack: Stack, name: str) -> None:
    [group] = client("logs").describe_log_groups(logGroupNamePrefix=stack.ids[name])["logGroups"]
    assert group["retentionInDays"] == 30


def _check_rule(stack: Stack, name: str) -> None:
    assert client("events").describe_rule(Name=stack.ids[name])["State"] == "ENABLED"
    [target] = client("events").list_targets_by_rule(Rule=stack.ids[name])["Targets"]
    assert target["Arn"].endswith(stack.ids["Tick"])


def _check_role(stack: Stack, name: str) -> None:
    trusted = client("iam").get_role(RoleName=stack.ids[name])["Role"]["AssumeRolePolicyDocument"]["Statement"]
    assert [statement["Principal"] for statement in trusted] == [{"Service": "lambda.amazonaws.com"}]


def _check_queue(stack: Stack, name: str) -> None:
    assert stack.attributes(name)["SqsManagedSseEnabled"] == "true"


CHECKS: Mapping[str, Callable[[Stack, str], None]] = {
    "AWS::Events::Rule": _check_rule,
    "AWS::IAM::Role": _check_role,
    "AWS::Lambda::EventSourceMapping": _check_mapping,
    "AWS::Lambda::Function": _check_function,
    "AWS::Lambda::Permission": _check_permission,
    "AWS::Lambda::Version": _check_version,
    "AWS::Logs::LogGroup": _check_log,
    "AWS::SQS::Queue": _check_queue,
}


def test_stack__created_on_moto(stack: Stack) -> None:
    for name, resource in stack.resources.items():
        CHECKS[resource["Type"]](stack, name)


def test_stack__types_not_on_moto_are_listed() -> None:
    """A type is checked above or listed. A type that moto begins to create must be removed from the list."""
    kinds = {resource["Type"] for resource in resources().values()}
    assert kinds == CHECKS.keys() | NOT_ON_MOTO
    assert {kind for kind in kinds if kind not in get_model_map()} == NOT_ON_MOTO
    missing = {name for name, resource in resources().items() if resource["Type"] in NOT_ON_MOTO}
    assert all(set(re.findall(r"\w+", json.dumps(properties(name)))) & missing for name in REQUIRE_THEM)


def test_queue__message_received_three_times__dead_letter(stack: Stack) -> None:
    sqs = client("sqs")
    for name, queue in QUEUES.items():
        client("lambda").update_event_source_mapping(UUID=stack.ids[f"{name}Messages"], Enabled=False)
        sqs.send_message(QueueUrl=stack.ids[queue], MessageBody="{}")
        received = [
            len(sqs.receive_message(QueueUrl=stack.ids[queue], VisibilityTimeout=0).get("Messages", []))
            for _ in range(4)
        ]
        assert received == [1, 1, 1, 0]
        assert stack.attributes(queue.replace("Queue", "") + "DeadLetters")["ApproximateNumberOfMessages"] == "1"


# Permissions


def secret(name: str) -> str:
    """The ARN of a secret, to which Secrets Manager appends six random letters."""
    return f"arn:aws:secretsmanager:{REGION}:123456789012:secret:{name}-AbCdEf"


CONNECTION, SETTINGS = secret("sync-control-plane/a/b"), secret("sync-control-plane-settings")
OTHERS = secret("sync-control-plane-settings-of-another")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_role__no_wildcards(stack: Stack, function: str) -> None:
    """A wildcard only follows a log group or the prefix of secrets. No statement needs `*` as its resource."""
    for statement in stack.statements(function):
        assert not any("*" in action for action in _listed(statement["Action"]))
        for resource in _listed(statement["Resource"]):
            assert re.fullmatch(r"arn:aws:[^*]*(:log-group:[^*]+:\*|:secret:sync-control-plane/\*)?", resource), (
                resource
            )


def test_api_role__creates_secrets_only(stack: Stack) -> None:
    assert stack.may("Api", "secretsmanager:CreateSecret", CONNECTION)
    assert not stack.may("Api", "secretsmanager:CreateSecret", SETTINGS)
    for action in ("GetSecretValue", "PutSecretValue", "UpdateSecret", "DeleteSecret"):
        assert not stack.may("Api", f"secretsmanager:{action}", CONNECTION)
        assert not stack.may("Api", f"secretsmanager:{action}", SETTINGS)


def test_worker_roles__read_secrets_only(stack: Stack) -> None:
    for function in ("Worker", "SourceCheckWorker"):
        for name in (CONNECTION, SETTINGS):
            assert stack.may(function, "secretsmanager:GetSecretValue", name)
            for action in ("CreateSecret", "PutSecretValue", "DeleteSecret"):
                assert not stack.may(function, f"secretsmanager:{action}", name)


def test_tick_role__deletes_secrets(stack: Stack) -> None:
    assert stack.may("Tick", "secretsmanager:DeleteSecret", CONNECTION)
    assert not stack.may("Tick", "secretsmanager:DeleteSecret", SETTINGS)
    assert stack.may("Tick", "secretsmanager:GetSecretValue", SETTINGS)
    assert not stack.may("Tick", "secretsmanager:GetSecretValue", CONNECTION)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_role__no_access_to_other_secrets_and_logs(stack: Stack, function: str) -> None:
    assert not stack.may(function, "secretsmanager:GetSecretValue", OTHERS)
    for other in FUNCTIONS:
        log = f"arn:aws:logs:{REGION}:123456789012:log-group:{stack.ids[f'{other}Log']}:log-stream:x"
        assert stack.may(function, "logs:PutLogEvents", log) == (function == other)


@pytest.mark.parametrize("queue", QUEUES.values())
def test_queue__senders_and_receivers(stack: Stack, queue: str) -> None:
    own = [name for name in QUEUES if QUEUES[name] == queue]
    arn = stack.queue_arn(queue)
    assert [name for name in FUNCTIONS if stack.may(name, "sqs:SendMessage", arn)] == ["Api", *own, "Tick"]
    for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes"):
        assert [name for name in FUNCTIONS if stack.may(name, f"sqs:{action}", arn)] == own


def test_api_role__settings_secret_with_postgres_transport_only(stack: Stack) -> None:
    given = {"Fn::If": ["StraightToPostgres", {"Ref": "SettingsSecret"}, {"Ref": "AWS::NoValue"}]}
    assert variables("Api")["SETTINGS_SECRET"] == given
    assert all(variables(name)["SETTINGS_SECRET"] == {"Ref": "SettingsSecret"} for name in WORKERS)
    assert Stack("postgres", RpcTransport="postgres").may("Api", "secretsmanager:GetSecretValue", SETTINGS)
