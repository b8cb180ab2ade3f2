"""A real Postgres per process of the run; every test that moves something gets a database cloned from a template."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from typing import TYPE_CHECKING

import psycopg
import pytest

from functions._local import schema
from functions._local.postgres import SUPERUSER, Postgres
from functions._shared import aws
from tests.support import installed
from tests.support.database import Database
from tests.support.project import SETUPS, Project, Projects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

TEMPLATE = "template_house"


@contextlib.contextmanager
def _server(binaries: Path | None = None) -> Iterator[Postgres]:
    with Postgres(binaries=binaries) as server:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"create database {TEMPLATE}")
        with psycopg.connect(server.url(TEMPLATE), autocommit=True) as connection:
            schema.install(connection, schema.declared())
        with psycopg.connect(server.url(), autocommit=True) as admin:
            if admin.info.server_version >= 160000:
                admin.execute("set scram_iterations = 1")  # half the time of each of thousands of logins
            for role in (SUPERUSER, "postgres", "authenticator"):
                admin.execute(f"alter role {role} password '{server.password}'")
        yield server


@contextlib.contextmanager
def _database(server: Postgres, name: str) -> Iterator[Database]:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"create database {name} template {TEMPLATE} owner postgres")
    database = Database(server, name)
    try:
        yield database
        database.check_invariants()
    finally:
        database.close()
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with _server() as server:
        yield server


@pytest.fixture(scope="session")
def clone(postgres: Postgres) -> Callable[[], AbstractContextManager[Database]]:
    """Makes databases that hold the schema and nothing else; the invariants are checked when one is given back."""
    numbers = itertools.count()
    return lambda: _database(postgres, f"house_{next(numbers)}")


@pytest.fixture(scope="session")
def debian_clone() -> Iterator[Callable[[], AbstractContextManager[Database]]]:
    """`clone`, on Debian's Postgres 15: it has the extensions pgTAP and plpgsql_check."""
    numbers = itertools.count()
    with _server(installed.debian_postgres()) as server:
        yield lambda: _database(server, f"house_{next(numbers)}")


@pytest.fixture
def database(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    with clone() as made:
        yield made


@pytest.fixture(scope="session")
def projects(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Projects]:
    """A project per setup, over one database for the run."""
    with clone() as made, contextlib.closing(Projects(made)) as all_of_them:
        yield all_of_them


@pytest.fixture(scope="module")
def own_projects(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Projects]:
    """For a module in which somebody reaps: what other tests left comes due at any time, and would be seen."""
    with clone() as made, contextlib.closing(Projects(made)) as all_of_them:
        yield all_of_them


@pytest.fixture(params=SETUPS, ids=str)
def project(request: pytest.FixtureRequest, projects: Projects) -> Iterator[Project]:
    """Each of the setups, or those of an indirect parametrization; the invariants are checked after each test."""
    made = projects(request.param)
    yield made
    made.database.check_invariants()


@pytest.fixture
def own_project(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Project]:
    """For a test that leaves thousands of rows: the invariants of the others' database would be read through them."""
    with clone() as made, contextlib.closing(Projects(made)) as all_of_them:
        yield all_of_them(SETUPS[0])


@pytest.fixture(scope="session")
def mortal_postgres() -> Iterator[Postgres]:
    """A server for tests that stop it; they leave it running."""
    with _server() as server:
        yield server


@pytest.fixture
def mortal_database(mortal_postgres: Postgres) -> Iterator[Database]:
    with _database(mortal_postgres, f"house_{uuid.uuid4().hex}") as made:
        yield made


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody at AWS, with clients of its own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    aws.client.cache_clear()
    yield
    aws.client.cache_clear()


@pytest.fixture
def aws_endpoint() -> Iterator[str]:
    """The address of moto's server, for processes that are not this one."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 (most tests need none of it)

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
