"""The zips: their content, that builds are reproducible, and that their functions need no other files."""

from __future__ import annotations

import base64
import json
import os
import signal
import struct
import subprocess
import zipfile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from functions._build import bundle, deploy, interpreter
from functions._local.schema import ROOT
from functions._shared import registry
from tests.support import cloud, installed
from tests.support.lambda_events import FUNCTION_URL, HTTP_API
from tests.support.project import BOTH_TRANSPORTS, Project
from tests.support.proxy import Proxy
from tests.support.template import sam_template

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.cloud import Function
    from tests.support.database import Database
    from tests.support.project import Projects, Setup

pytestmark = pytest.mark.timeout(600)  # pip may have to install each bundle's dependencies first

HANDLER = "functions._shared.registry.handler"
MACHINES = {"x86_64": 62, "arm64": 183}  # in ELF headers
UNCHECKED = 1


@pytest.fixture(scope="module", params=bundle.BUNDLES, ids=lambda made: made.name)
def packed(request: pytest.FixtureRequest) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(cloud.built(request.param)) as archive:
        yield archive


def names(made: bundle.Bundle) -> set[str]:
    with zipfile.ZipFile(cloud.built(made)) as archive:
        return set(archive.namelist())


def tops(made: bundle.Bundle) -> set[str]:
    return {name.partition("/")[0].partition("-")[0].partition(".")[0] for name in names(made)}


# Content


def test_bundle__no_unstable_or_unused_files(packed: zipfile.ZipFile) -> None:
    found = packed.namelist()
    assert not [name for name in found if name.startswith(("bin/", "functions/_local/", "tests/"))]
    assert not [name for name in found if name.endswith((".dist-info/RECORD", ".dist-info/direct_url.json"))]
    data = {name.split("/")[2] for name in found if name.startswith("botocore/data/")}
    assert data == {"_retry.json", "endpoints.json", "partitions.json", "sdk-default-configuration.json"} | {
        "sqs", "secretsmanager",
    }  # fmt: skip


def test_bundle__bytecode_is_not_compared_with_its_source(packed: zipfile.ZipFile) -> None:
    compiled = [name for name in packed.namelist() if name.endswith(".pyc")]
    assert {struct.unpack("<I", packed.read(name)[4:8])[0] for name in compiled} == {UNCHECKED}
    assert not [name for name in compiled if packed.read(name).find(str(ROOT).encode()) >= 0]


def test_bundle__own_sources_included_and_compiled(packed: zipfile.ZipFile) -> None:
    sources = {name for name in packed.namelist() if name.endswith(".py")}
    assert {name.partition("/")[0] for name in sources} == {"functions"}
    suffix = f".cpython-{bundle.VERSION.replace('.', '')}.pyc"
    for name in sources:
        folder, _, module = name.removesuffix(".py").rpartition("/")
        assert f"{folder}/__pycache__/{module}{suffix}" in packed.namelist()


def test_bundles__dependencies_of_each() -> None:
    for made in bundle.BUNDLES:
        assert {"botocore", "httpx", "postgrest", "pydantic", "supabase_auth", "functions"} <= tops(made)
        assert not {"boto3", "moto", "pytest"} & tops(made)
        assert ({"supabase", "simplejson", "h2"} & tops(made) != set()) == (made == bundle.WORKER)
        assert ("anyio" in tops(made)) == (made == bundle.WORKER)
        assert ("psycopg" in tops(made), "psycopg_binary" in tops(made)) == ((made != bundle.API),) * 2
    families = {endpoint.module.split(".")[1] for endpoint in registry.endpoints()}
    for made in (bundle.API, bundle.POSTGRES_TRANSPORT):
        ours = {name for name in names(made) if name.startswith("functions/")}
        assert {f"functions/{family}/__init__.py" for family in families} <= ours
        assert not [name for name in ours if name.startswith("functions/worker/")]
    assert not [name for name in names(bundle.WORKER) if name.split("/")[1:2] and name.split("/")[1] in families]


def test_api_bundle__size() -> None:
    assert cloud.built(bundle.API).stat().st_size <= 13 * 2**20


def test_build__reproducible(tmp_path: Path) -> None:
    again = bundle.build(bundle.API, cloud.ARCH, folder=tmp_path / "another place")
    assert again.read_bytes() == cloud.built(bundle.API).read_bytes()


def test_build__default_architecture(tmp_path: Path) -> None:
    """Built for the template's architecture on any machine."""
    archive = bundle.build(bundle.API, folder=tmp_path)
    assert archive.name == f"sync-control-plane-api-{bundle.ARCH}-py{bundle.VERSION}.zip"
    assert archive.stat().st_size <= 13 * 2**20
    with zipfile.ZipFile(archive) as packed:
        libraries = [name for name in packed.namelist() if ".so" in name.rpartition("/")[2]]
        machines = {struct.unpack("<H", packed.read(name)[18:20])[0] for name in libraries}
    assert machines == {MACHINES[bundle.ARCH]}


# Run as by Lambda


def environment(project: Project) -> dict[str, str]:
    settings = project.settings
    given = {
        "SUPABASE_URL": settings.supabase_url,
        "SUPABASE_PUBLISHABLE_KEY": settings.supabase_publishable_key,
        "RPC_TRANSPORT": settings.rpc_transport,
    }
    return given | ({"DATABASE_URL": settings.database_url} if settings.database_url else {})


@pytest.fixture(scope="module", params=BOTH_TRANSPORTS, ids=str)
def deployed(request: pytest.FixtureRequest, projects: Projects) -> Iterator[tuple[Project, Function]]:
    """A project, and its functions from the zip of its transport."""
    project = projects(request.param)
    archive = cloud.built(deploy.TRANSPORTS[project.setup.transport])
    with cloud.function(archive, HANDLER, environment(project)) as invoke:
        yield project, invoke


def event_with_token(event: dict[str, Any], token: str, **changes: Any) -> dict[str, Any]:
    """The captured event with the caller's token. The header's name keeps its case."""
    headers = {name: value for name, value in event["headers"].items() if name.lower() != "authorization"}
    name_in_event = next(name for name in event["headers"] if name.lower() == "authorization")
    return {**event, "headers": {**headers, name_in_event: f"Bearer {token}"}, **changes}


def test_api__cancel_through_an_http_api(deployed: tuple[Project, Function]) -> None:
    project, invoke = deployed
    user = project.database.user(project.database.agency())
    for encoded in (True, False):
        job_id = project.job(user, "released")
        body = json.dumps({"job_id": job_id, "reason": "日本 🛑"}, ensure_ascii=False)
        sent = base64.b64encode(body.encode()).decode() if encoded else body
        response = invoke(event_with_token(HTTP_API, project.token(user), body=sent, isBase64Encoded=encoded))
        assert (response["statusCode"], json.loads(response["body"])) == (
            200,
            {"job_id": job_id, "status": "cancelled"},
        )
        assert response["headers"]["x-request-id"] == HTTP_API["headers"]["X-Request-Id"]
        stored = json.loads(project.get(project.token(user), job_id).content)
        assert (stored["status"], stored["cancel_reason"]) == ("cancelled", "日本 🛑")


def test_endpoint__own_handler(projects: Projects) -> None:
    project = projects(BOTH_TRANSPORTS[1])
    user = project.database.user(project.database.agency())
    handler = "functions.historical_sync.cancel_historical_sync.handler"
    with cloud.function(cloud.built(bundle.API), handler, environment(project)) as invoke:
        response = invoke(
            event_with_token(HTTP_API, project.token(user), body=json.dumps({"job_id": project.job(user)}))
        )
        assert response["statusCode"] == 200
        assert "functions._shared.registry" not in invoke.modules()


def test_api__read_through_a_function_url(deployed: tuple[Project, Function]) -> None:
    project, invoke = deployed
    user = project.database.user(project.database.agency())
    job_id = project.job(user)
    query = f"job_id={HTTP_API['requestContext']['accountId']}&job_id={job_id}&x=%C3%A9&x="
    response = invoke(
        event_with_token(FUNCTION_URL, project.token(user), rawQueryString=query, cookies=["a=b", "sb-token=x"])
    )
    assert (response["statusCode"], json.loads(response["body"])["job_id"]) == (200, job_id)


def test_api__preflight_and_invalid_token(deployed: tuple[Project, Function]) -> None:
    _, invoke = deployed
    preflight = {**HTTP_API, "requestContext": {"http": {"method": "OPTIONS"}}, "body": None}
    response = invoke(preflight)
    assert (response["statusCode"], response["headers"]["access-control-allow-origin"]) == (204, "*")
    response = invoke(event_with_token(HTTP_API, "no.such.token"))
    assert (response["statusCode"], json.loads(response["body"])["code"]) == (401, "invalid_token")


def test_cancel__imports_of_its_transport_only(projects: Projects) -> None:
    for setup in BOTH_TRANSPORTS:
        project = projects(setup)
        user = project.database.user(project.database.agency())
        with cloud.function(cloud.built(deploy.TRANSPORTS[setup.transport]), HANDLER, environment(project)) as invoke:
            response = invoke(
                event_with_token(HTTP_API, project.token(user), body=json.dumps({"job_id": project.job(user)}))
            )
            modules = {name.partition(".")[0] for name in invoke.modules()}
        assert response["statusCode"] == 200
        assert not {"anyio", "boto3", "botocore", "h2", "simplejson", "tenacity", "urllib3"} & modules
        assert "supabase_auth" in modules
        assert {"psycopg", "postgrest"} & modules == {"psycopg" if setup.transport == "postgres" else "postgrest"}


@pytest.mark.parametrize("setup", BOTH_TRANSPORTS, ids=str)
def test_api__frozen_process__closed_connections(projects: Projects, setup: Setup) -> None:
    project = projects(setup)
    settings = project.settings
    given = environment(project) | {"AUTH_ISSUER": settings.auth_issuer or f"{settings.supabase_url}/auth/v1"}
    by = "DATABASE_URL" if settings.database_url else "SUPABASE_URL"
    with Proxy(urlsplit(given[by]).port or 0) as proxy:
        given[by] = given[by].replace(f":{urlsplit(given[by]).port}", f":{proxy.port}")
        user = project.database.user(project.database.agency())
        with cloud.function(cloud.built(deploy.TRANSPORTS[setup.transport]), HANDLER, given) as invoke:
            for _ in range(3):
                response = invoke(
                    event_with_token(HTTP_API, project.token(user), body=json.dumps({"job_id": project.job(user)}))
                )
                assert response["statusCode"] == 200, invoke.logged()
                invoke.process.send_signal(signal.SIGSTOP)
                proxy.cut()
                invoke.process.send_signal(signal.SIGCONT)


def test_api__every_endpoint_included(deployed: tuple[Project, Function]) -> None:
    _, invoke = deployed
    response = invoke({**FUNCTION_URL, "rawPath": "/openapi.json", "rawQueryString": ""})
    assert len(json.loads(response["body"])["paths"]) == len({endpoint.path for endpoint in registry.endpoints()})


def test_create_connection__validated_by_the_workers_models(deployed: tuple[Project, Function]) -> None:
    project, invoke = deployed
    user = project.database.user(project.database.agency())
    body = {"name": "c", "type": "http", "configuration": {"base_url": "ftp://x"}}
    response = invoke(
        event_with_token(HTTP_API, project.token(user), rawPath="/api/connections", body=json.dumps(body))
    )
    assert (response["statusCode"], "base_url" in response["body"]) == (400, True)
    assert "functions._connections.http_config" in invoke.modules()


def test_traceback__quotes_the_source() -> None:
    with cloud.function(cloud.built(bundle.API), HANDLER, {}) as invoke:
        with pytest.raises(cloud.HandlerFailed, match="SUPABASE_URL"):
            invoke(event_with_token(HTTP_API, "a.b.c"))
        assert "/functions/_shared/settings.py" in invoke.logged()
        assert "raise RuntimeError(f" in invoke.logged()


def test_template__handlers_are_in_their_zips() -> None:
    zips = {"api.zip": bundle.API, "worker.zip": bundle.WORKER}
    functions = [one["Properties"] for one in sam_template()["Resources"].values() if "Handler" in one["Properties"]]
    for handler, name in {(one["Handler"], one["CodeUri"].rpartition("/")[2]) for one in functions}:
        with cloud.function(cloud.built(zips[name]), handler, {}) as invoke:
            assert handler.rpartition(".")[0] in invoke.modules()


def test_tick__logs_the_metric_of_the_alarm(database: Database) -> None:
    """The template makes a metric of these lines; without a number the alarm would report that the tick has not run."""
    transformed = sam_template()["Resources"]["OldestQueuedMetric"]["Properties"]
    member = transformed["MetricTransformations"][0]["MetricValue"].removeprefix("$.")
    given = {"DATABASE_URL": database.login("authenticator"), "AWS_LAMBDA_FUNCTION_NAME": "tick"}
    with cloud.function(cloud.built(bundle.WORKER), "functions.worker.lambda_handler.handler", given) as invoke:
        invoke({"tick": True}, seconds=60)
        lines = [json.loads(line) for line in invoke.logged().splitlines()]
    values = [line[member] for line in lines if line["message"] == "queue stats"]
    assert values == [0, 0]  # of runs, and of source checks
    assert transformed["FilterPattern"] == '{ $.message = "queue stats" }'


# AWS, with the files of its SDK that the zip includes

CALLS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import botocore.session
session = botocore.session.get_session()
sqs, secrets = session.create_client("sqs"), session.create_client("secretsmanager")
queue = sqs.create_queue(QueueName="q")["QueueUrl"]
sqs.send_message(QueueUrl=queue, MessageBody="m")
secrets.create_secret(Name="s", SecretString="v")
try:
    secrets.get_secret_value(SecretId="none")
except secrets.exceptions.ResourceNotFoundException as missing:
    code = missing.response["Error"]["Code"]
received = sqs.receive_message(QueueUrl=queue)["Messages"][0]["Body"]
print(json.dumps([received, secrets.get_secret_value(SecretId="s")["SecretString"], code]))
"""


def test_aws_sdk__queues_and_secrets(aws_endpoint: str) -> None:
    given = {"AWS_ENDPOINT_URL": aws_endpoint, "AWS_DEFAULT_REGION": "eu-central-1"}
    given |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    folder = cloud.unpacked(cloud.built(bundle.API))
    command = [str(installed.bundle_python()), "-I", "-S", "-B", "-c", CALLS, str(folder)]
    run = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == ["m", "v", "ResourceNotFoundException"]


# The harness

MODULE = """
import time
print("importing")

def handler(event, context):
    print("invoked", event)
    if event == "fail":
        raise ValueError("no such thing")
    if event == "sleep":
        time.sleep(60)
    return [context.get_remaining_time_in_millis(), context.aws_request_id, event]
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "small.zip", "w") as packed:
        packed.writestr("small.py", MODULE)
    return tmp_path / "small.zip"


def test_cloud_function__many_events_in_one_process(archive: Path) -> None:
    with cloud.function(archive, "small.handler", {}) as invoke:
        remaining, first, event = invoke({"a": "日本"}, seconds=50)
        assert (0 < remaining <= 50_000, event) == (True, {"a": "日本"})
        with pytest.raises(cloud.HandlerFailed, match="no such thing"):
            invoke("fail")
        _, second, _ = invoke(None)
        assert first != second
        assert "invoked fail" in invoke.logged()


def test_cloud_function__timeout__process_killed(archive: Path) -> None:
    with cloud.function(archive, "small.handler", {}) as invoke:
        with pytest.raises(cloud.TimedOut):
            invoke("sleep", seconds=0.2)
        assert invoke.process.wait(30) == -signal.SIGKILL


def test_cloud_function__imports_from_the_zip_only(archive: Path) -> None:
    with (
        pytest.raises(cloud.HandlerFailed, match="No module named 'functions'"),
        cloud.function(archive, "functions._shared.registry.handler", {"PYTHONPATH": str(ROOT)}),
    ):
        pass


# The interpreter


def test_interpreter__broken_shim__skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / f"python{bundle.VERSION}"
    shim.write_text("#!/bin/sh\necho 'not chosen' >&2\nexit 127\n")
    shim.chmod(0o755)
    real = installed.bundle_python()
    versions = tmp_path / "versions" / f"{bundle.VERSION}.9" / "bin"
    versions.mkdir(parents=True)
    (versions / shim.name).symlink_to(real)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert interpreter.find(bundle.VERSION).resolve() == real.resolve()


def test_interpreter__missing__names_the_command_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(interpreter.NoInterpreter, match=r"uv python install 3\.99"):
        interpreter.find("3.99")


# Deploying


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], ""),
        (["ARCH=x86_64", "PYTHON=3.13"], "--arch x86_64 --python 3.13"),
        (["PYTHON=python3"], ""),  # the interpreter of the virtual environment, as for every target
    ],
)
def test_make_bundle__arch_and_python(given: list[str], passed: str) -> None:
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", "bundle", *given]
    inherited = {name: value for name, value in os.environ.items() if name not in {"ARCH", "PYTHON", "MAKEFLAGS"}}
    run = subprocess.run(command, cwd=ROOT, env=inherited, capture_output=True, text=True, check=True)
    assert "\npython3 -m venv .venv\n" in run.stdout
    assert run.stdout.splitlines()[-1].partition(" -m functions._build.bundle")[2].split() == passed.split()


def test_deploy__places_the_zips_and_calls_sam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "functions" / "template.yaml"
    for name in ("SAM_CONFIG", "TEMPLATE"):
        monkeypatch.setattr(deploy, name, template.with_name("samconfig.toml") if name == "SAM_CONFIG" else template)
    monkeypatch.setattr(bundle, "FOLDER", tmp_path / ".bundle")
    built = {made: cloud.built(made) for made in (bundle.POSTGRES_TRANSPORT, bundle.WORKER)}
    monkeypatch.setattr(bundle, "build", built.__getitem__)
    deploy.build_zips("postgres")
    places = {
        one["Properties"]["CodeUri"] for one in sam_template()["Resources"].values() if "Handler" in one["Properties"]
    }
    found = {place: (template.parent / place).resolve().read_bytes() for place in places}
    assert found == {
        "../.bundle/deploy/api.zip": built[bundle.POSTGRES_TRANSPORT].read_bytes(),
        "../.bundle/deploy/worker.zip": built[bundle.WORKER].read_bytes(),
    }
    first = deploy.command("postgres", ["LogRetentionDays=7"])
    assert "--guided" in first
    template.parent.mkdir()
    deploy.SAM_CONFIG.touch()
    later = deploy.command("postgres", ["LogRetentionDays=7"])
    assert "--guided" not in later
    overrides = dict(one.split("=", 1) for one in later[later.index("--parameter-overrides") + 1 :])
    assert overrides.keys() <= sam_template()["Parameters"].keys()
    assert (overrides["RpcTransport"], len(overrides["Release"])) == ("postgres", 10)
