"""functions/template.yaml: what AWS makes of it. Translated as AWS translates it, linted, and created on moto."""

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
GIVEN = {
    "SupabaseUrl": "https://abc.supabase.co",
    "SupabasePublishableKey": "k",
    "FunctionUrl": "true",
    "Release": "1795354680",
}
QUEUES = {"Worker": "Queue", "Look": "CheckQueue"}  # by the function that they call
WORKERS = ["Worker", "Look", "Tick"]
FUNCTIONS = ["Api", *WORKERS]

# What moto's CloudFormation does not create, though it may know the service.
NOT_ON_MOTO = {
    "AWS::ApiGatewayV2::Api",
    "AWS::ApiGatewayV2::Stage",
    "AWS::CloudWatch::Alarm",
    "AWS::Lambda::Alias",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::Url",
    "AWS::Logs::MetricFilter",
}
# What cannot be without one of them.
NOT_WITHOUT_THEM = {"ApiAnyPathPermission"}


class NoManagedPolicies:
    """Roles name none, so AWS is not asked for them."""

    def load(self) -> dict[str, str]:
        return {}


def _translated(template: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """As AWS has it once SAM's own resources are spelled out, and the zips uploaded."""
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = f"s3://bundles/{resource['Properties']['CodeUri'].rpartition('/')[2]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        made: dict[str, Any] = transform(template, dict(given), NoManagedPolicies())
    return made


@cache
def translated(**given: str) -> dict[str, Any]:
    return _translated(sam_template(), GIVEN | given)


def resources(kind: str = "", **given: str) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in translated(**given)["Resources"].items() if kind in {"", one["Type"]}}


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = resources()[name]["Properties"]
    return found


def test_lint_finds_nothing() -> None:
    for template in (sam_template(), translated()):
        found = lint(json.dumps(template), get_rules([], [], [], {}), [REGION])
        assert [str(match) for match in found] == []


def test_lint_would_find_something() -> None:
    template = json.loads(json.dumps(translated()))
    template["Resources"]["Queue"]["Properties"]["VisibilityTimeOut"] = 1
    assert lint(json.dumps(template), get_rules([], [], [], {}), [REGION])


def test_an_endpoint_and_a_family_are_split_off_as_deploying_says() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", (ROOT / "functions" / "DEPLOYING.md").read_text(), re.DOTALL)
    added: dict[str, Any] = yaml_parse(block)
    template = sam_template()
    for function in added.values():
        function["Properties"] = {**template["Resources"]["Api"]["Properties"], **function["Properties"]}
    made = _translated(template | {"Resources": template["Resources"] | added}, GIVEN)
    assert [str(match) for match in lint(json.dumps(made), get_rules([], [], [], {}), [REGION])] == []
    paths = made["Resources"]["HttpApi"]["Properties"]["Body"]["paths"]
    found = {path: re.search(r"\$\{(\w+)Aliaslive\}", json.dumps(methods)) for path, methods in paths.items()}
    assert {path: function and function[1] for path, function in found.items()} == {
        "/$default": "Api",
        "/functions/v1/cancel-historical-sync": "CancelHistoricalSync",
        "/functions/v1/api/bulk/{proxy+}": "BulkSyncs",
    }


# The API


def test_no_cors_but_the_functions_own() -> None:
    """Of the template's, headers would be doubled and preflights answered without us."""
    words = set(re.findall(r"\w*cors\w*", json.dumps(translated()), re.IGNORECASE))
    assert words == {"CorsAllowedOrigins", "CORS_ALLOWED_ORIGINS"}


def test_every_path_goes_to_the_published_version() -> None:
    body = properties("HttpApi")["Body"]
    [(path, methods)] = body["paths"].items()
    assert (path, [*methods]) == ("/$default", ["x-amazon-apigateway-any-method"])
    integration = methods["x-amazon-apigateway-any-method"]["x-amazon-apigateway-integration"]
    assert integration["payloadFormatVersion"] == "2.0"
    assert "${ApiAliaslive}" in json.dumps(integration["uri"])
    assert properties("ApiUrl")["TargetFunctionArn"] == {"Ref": "ApiAliaslive"}


def test_the_stage_has_limits() -> None:
    [stage] = resources("AWS::ApiGatewayV2::Stage").values()
    settings = stage["Properties"]["DefaultRouteSettings"]
    assert 0 < settings["ThrottlingRateLimit"] <= settings["ThrottlingBurstLimit"]


def test_versions_are_snapshots() -> None:
    assert properties("Api")["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    [version] = resources("AWS::Lambda::Version").values()
    assert version["DeletionPolicy"] == "Delete"


def test_every_release_is_a_version() -> None:
    """Whatever has changed, be it a setting: a version has those of its time."""
    one, other = (set(resources("AWS::Lambda::Version", Release=value)) for value in ("1795354680", "1795354681"))
    assert len(one) == len(other) == 1
    assert one.isdisjoint(other)
    assert properties("Api")["Description"] == GIVEN["Release"]  # Lambda makes no version of what is as it was
    assert "Default" not in sam_template()["Parameters"]["Release"]


# Every function


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_what_is_bundled(name: str) -> None:
    function = properties(name)
    assert function["Architectures"] == [bundle.ARCH]
    assert function["Runtime"] == f"python{bundle.VERSION}"
    assert function["Code"]["S3Key"] == ("api.zip" if name == "Api" else "worker.zip")
    assert function["Role"] == {"Fn::GetAtt": [f"{name}Role", "Arn"]}


def test_every_function_is_known() -> None:
    assert set(resources("AWS::Lambda::Function")) == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_logs_end(name: str) -> None:
    assert properties(name)["LoggingConfig"]["LogGroup"] == {"Ref": f"{name}Log"}
    assert properties(f"{name}Log")["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    assert sam_template()["Parameters"]["LogRetentionDays"]["Default"] == 30


def variables(name: str) -> dict[str, Any]:
    found: dict[str, Any] = properties(name)["Environment"]["Variables"]
    return found


def test_no_secret_is_a_setting() -> None:
    for name in FUNCTIONS:
        assert not {"SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY", "DATABASE_URL"} & set(variables(name))
    assert "SettingsSecret" in sam_template()["Parameters"]


def test_every_variable_is_read() -> None:
    files = [*(ROOT / "functions" / "_shared").glob("*.py"), *(ROOT / "functions" / "worker").glob("*.py")]
    code = "".join(file.read_text() for file in files)
    for name in FUNCTIONS:
        assert not [variable for variable in variables(name) if f'"{variable}"' not in code]


def test_lanes() -> None:
    assert [variables(name).get("WORKER_QUEUE") for name in WORKERS] == ["runs", "checks", None]


# Queues


@pytest.mark.parametrize("name", QUEUES)
def test_messages(name: str) -> None:
    queue = properties(QUEUES[name])
    assert queue["VisibilityTimeout"] >= 6 * properties(name)["Timeout"]
    assert queue["RedrivePolicy"]["maxReceiveCount"] == 3
    mapping = properties(f"{name}Messages")
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": [QUEUES[name], "Arn"]}
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}


def test_batches() -> None:
    """A look waits for no other; of runs one function does some at once."""
    assert (properties("WorkerMessages")["BatchSize"], properties("LookMessages")["BatchSize"]) == (4, 1)
    assert properties("Worker")["Timeout"] == 900


def test_queues_are_encrypted() -> None:
    queues = resources("AWS::SQS::Queue")
    assert len(queues) == 4
    assert all(queue["Properties"]["SqsManagedSseEnabled"] for queue in queues.values())


def test_the_tick() -> None:
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
def test_a_dead_letter_is_an_alarm(queue: str) -> None:
    [dead] = properties(queue)["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][:1]
    alarm = alarms()[f"{dead}Alarm"]
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/SQS", "ApproximateNumberOfMessagesVisible")
    assert alarm["Dimensions"] == [{"Name": "QueueName", "Value": {"Fn::GetAtt": [dead, "QueueName"]}}]
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("GreaterThanThreshold", 0)


def test_an_error_of_any_worker_is_an_alarm() -> None:
    alarm = alarms()["WorkerErrorsAlarm"]
    [result] = [metric for metric in alarm["Metrics"] if metric.get("ReturnData", True)]
    summed = {metric["Id"]: metric["MetricStat"]["Metric"] for metric in alarm["Metrics"] if metric is not result}
    assert set(re.findall(r"FILL\((\w+), 0\)", result["Expression"])) == set(summed)
    assert {metric["MetricName"] for metric in summed.values()} == {"Errors"}
    watched = [metric["Dimensions"] for metric in summed.values()]
    assert watched == [[{"Name": "FunctionName", "Value": {"Ref": name}}] for name in WORKERS]


def test_an_execution_that_waits_is_an_alarm() -> None:
    """And nobody who looks, too."""
    waiting = properties("OldestQueuedMetric")
    assert waiting["LogGroupName"] == {"Ref": "TickLog"}
    assert waiting["FilterPattern"] == '{ $.message = "queue stats" }'
    [metric] = waiting["MetricTransformations"]
    assert metric["MetricValue"] == "$.oldest_seconds"
    alarm = alarms()["OldestQueuedAlarm"]
    assert (alarm["Namespace"], alarm["MetricName"]) == (metric["MetricNamespace"], metric["MetricName"])
    assert alarm["TreatMissingData"] == "breaching"


def test_alarms_are_heard() -> None:
    assert len(alarms()) == 4
    topic = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopic"}], {"Ref": "AWS::NoValue"}]}
    assert all(alarm["AlarmActions"] == topic for alarm in alarms().values())


# As moto creates it


class Stack:
    """A stack of this template, as far as moto can: the physical id of each resource."""

    def __init__(self, name: str, **given: str) -> None:
        template = json.loads(json.dumps(translated()).replace('"Ref": "ApiAliaslive"', '"Ref": "Api"'))
        self.left_out = {
            name for name, one in template["Resources"].items() if one["Type"] in NOT_ON_MOTO
        } | NOT_WITHOUT_THEM
        self.resources = {name: one for name, one in template["Resources"].items() if name not in self.left_out}
        template |= {"Resources": self.resources, "Outputs": {}}
        cloud = client("cloudformation")
        parameters = [{"ParameterKey": name, "ParameterValue": value} for name, value in (GIVEN | given).items()]
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
        found = ast.literal_eval(document)["Statement"]  # moto answers Python instead of JSON
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


def _seen_function(stack: Stack, name: str) -> None:
    made = client("lambda").get_function_configuration(FunctionName=stack.ids[name])
    assert made["Handler"] == properties(name)["Handler"]
    assert made["Environment"]["Variables"]["QUEUE_URL"] == stack.ids["Queue"]


def _seen_version(stack: Stack, name: str) -> None:
    assert len(client("lambda").list_versions_by_function(FunctionName=stack.ids["Api"])["Versions"]) == 2


def _seen_mapping(stack: Stack, name: str) -> None:
    made = client("lambda").get_event_source_mapping(UUID=stack.ids[name])
    assert made["EventSourceArn"] == stack.queue_arn(QUEUES[name.removesuffix("Messages")])


def _seen_permission(stack: Stack, name: str) -> None:
    function = properties(name)["FunctionName"]["Ref"].replace("Aliaslive", "")
    policy = json.loads(client("lambda").get_policy(FunctionName=stack.ids[function])["Policy"])
    assert properties(name)["Action"] in {statement["Action"] for statement in policy["Statement"]}


def _seen_log(stack: Stack, name: str) -> None:
    [group] = client("logs").describe_log_groups(logGroupNamePrefix=stack.ids[name])["logGroups"]
    assert group["retentionInDays"] == 30


def _seen_rule(stack: Stack, name: str) -> None:
    assert client("events").describe_rule(Name=stack.ids[name])["State"] == "ENABLED"
    [target] = client("events").list_targets_by_rule(Rule=stack.ids[name])["Targets"]
    assert target["Arn"].endswith(stack.ids["Tick"])


def _seen_role(stack: Stack, name: str) -> None:
    trusted = client("iam").get_role(RoleName=stack.ids[name])["Role"]["AssumeRolePolicyDocument"]["Statement"]
    assert [statement["Principal"] for statement in trusted] == [{"Service": "lambda.amazonaws.com"}]


def _seen_queue(stack: Stack, name: str) -> None:
    assert stack.attributes(name)["SqsManagedSseEnabled"] == "true"


SEEN: Mapping[str, Callable[[Stack, str], None]] = {
    "AWS::Events::Rule": _seen_rule,
    "AWS::IAM::Role": _seen_role,
    "AWS::Lambda::EventSourceMapping": _seen_mapping,
    "AWS::Lambda::Function": _seen_function,
    "AWS::Lambda::Permission": _seen_permission,
    "AWS::Lambda::Version": _seen_version,
    "AWS::Logs::LogGroup": _seen_log,
    "AWS::SQS::Queue": _seen_queue,
}


def test_what_moto_creates_is_there(stack: Stack) -> None:
    for name, resource in stack.resources.items():
        SEEN[resource["Type"]](stack, name)


def test_what_it_does_not_create_is_listed() -> None:
    """A new kind of resource is looked at above or named in the list; what moto learns leaves it."""
    kinds = {resource["Type"] for resource in resources().values()}
    assert kinds == SEEN.keys() | NOT_ON_MOTO
    assert {kind for kind in kinds if kind not in get_model_map()} == NOT_ON_MOTO
    missing = {name for name, resource in resources().items() if resource["Type"] in NOT_ON_MOTO}
    assert all(set(re.findall(r"\w+", json.dumps(properties(name)))) & missing for name in NOT_WITHOUT_THEM)


def test_three_times_received_is_a_dead_letter(stack: Stack) -> None:
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


# Who may what


def secret(name: str) -> str:
    """The ARN of a secret, which Secrets Manager ends with six letters of its own."""
    return f"arn:aws:secretsmanager:{REGION}:123456789012:secret:{name}-AbCdEf"


CONNECTION, SETTINGS = secret("sync-control-plane/a/b"), secret("sync-control-plane-settings")
OTHERS = secret("sync-control-plane-settings-of-another")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_role_may_whatever_it_likes(stack: Stack, function: str) -> None:
    """A star stands only for what is below a log group or the secrets' prefix: nothing here needs `*` as a resource."""
    for statement in stack.statements(function):
        assert not any("*" in action for action in _listed(statement["Action"]))
        for resource in _listed(statement["Resource"]):
            assert re.fullmatch(r"arn:aws:[^*]*(:log-group:[^*]+:\*|:secret:sync-control-plane/\*)?", resource), (
                resource
            )


def test_the_api_makes_secrets_and_can_do_no_more_with_them(stack: Stack) -> None:
    assert stack.may("Api", "secretsmanager:CreateSecret", CONNECTION)
    assert not stack.may("Api", "secretsmanager:CreateSecret", SETTINGS)
    for action in ("GetSecretValue", "PutSecretValue", "UpdateSecret", "DeleteSecret"):
        assert not stack.may("Api", f"secretsmanager:{action}", CONNECTION)
        assert not stack.may("Api", f"secretsmanager:{action}", SETTINGS)


def test_workers_read_secrets_and_write_none(stack: Stack) -> None:
    for function in ("Worker", "Look"):
        for name in (CONNECTION, SETTINGS):
            assert stack.may(function, "secretsmanager:GetSecretValue", name)
            for action in ("CreateSecret", "PutSecretValue", "DeleteSecret"):
                assert not stack.may(function, f"secretsmanager:{action}", name)


def test_the_tick_forgets_secrets(stack: Stack) -> None:
    assert stack.may("Tick", "secretsmanager:DeleteSecret", CONNECTION)
    assert not stack.may("Tick", "secretsmanager:DeleteSecret", SETTINGS)
    assert stack.may("Tick", "secretsmanager:GetSecretValue", SETTINGS)
    assert not stack.may("Tick", "secretsmanager:GetSecretValue", CONNECTION)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nobody_reads_what_is_not_ours(stack: Stack, function: str) -> None:
    assert not stack.may(function, "secretsmanager:GetSecretValue", OTHERS)
    for other in FUNCTIONS:
        log = f"arn:aws:logs:{REGION}:123456789012:log-group:{stack.ids[f'{other}Log']}:log-stream:x"
        assert stack.may(function, "logs:PutLogEvents", log) == (function == other)


@pytest.mark.parametrize("queue", QUEUES.values())
def test_who_sends_and_who_receives(stack: Stack, queue: str) -> None:
    own = [name for name in QUEUES if QUEUES[name] == queue]
    arn = stack.queue_arn(queue)
    assert [name for name in FUNCTIONS if stack.may(name, "sqs:SendMessage", arn)] == ["Api", *own, "Tick"]
    for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes"):
        assert [name for name in FUNCTIONS if stack.may(name, f"sqs:{action}", arn)] == own


def test_only_the_direct_door_reads_the_settings_secret(stack: Stack) -> None:
    given = {"Fn::If": ["StraightToPostgres", {"Ref": "SettingsSecret"}, {"Ref": "AWS::NoValue"}]}
    assert variables("Api")["SETTINGS_SECRET"] == given
    assert all(variables(name)["SETTINGS_SECRET"] == {"Ref": "SettingsSecret"} for name in WORKERS)
    assert Stack("postgres", RpcTransport="postgres").may("Api", "secretsmanager:GetSecretValue", SETTINGS)
