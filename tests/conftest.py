"""Fixtures: a real Postgres for each process of the run, databases cloned from a template, and projects over them."""

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
from tests.support.project import SETUPS, Project, Projects, Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

TEMPLATE = "template_project"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--setups",
        choices=["one", "all"],
        default="one",
        help="Run each test in one setup of a project, or also in each further setup that it names (its first case).",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps each case of a test in its first setup; with `--setups=all` also the test's first case in each setup.

    What a setup changes, the transport and the tokens, does not depend on the case. A test whose cases do depend on it
    is marked `every_setup` and keeps them all.
    """
    seen: set[object] = set()
    items[:] = [item for item in items if _is_kept(item, seen, every=config.getoption("setups") == "all")]


def _is_kept(item: pytest.Item, seen: set[object], *, every: bool) -> bool:
    callspec = getattr(item, "callspec", None)
    if callspec is None or item.get_closest_marker("every_setup"):
        return True
    setups = tuple(value for value in callspec.params.values() if isinstance(value, Setup))
    if not setups:
        return True
    test = item.nodeid.partition("[")[0]
    # The setups of a test share the objects of its other parameters.
    case = tuple((name, id(value)) for name, value in callspec.params.items() if value not in setups)
    new = {(test, case)} | ({(test, setups)} if every else set())
    kept = bool(new - seen)
    seen |= new
    return kept


@contextlib.contextmanager
def _server(binaries: Path | None = None) -> Iterator[Postgres]:
    with Postgres(binaries=binaries) as server:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"create database {TEMPLATE}")
        with psycopg.connect(server.url(TEMPLATE), autocommit=True) as connection:
            schema.install(connection, schema.declared())
        with psycopg.connect(server.url(), autocommit=True) as admin:
            if admin.info.server_version >= 160000:
                admin.execute("set scram_iterations = 1")  # halves the time of each login
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
    """Makes databases that hold the schema and no rows. The invariants are checked when a test is done with one."""
    numbers = itertools.count()
    return lambda: _database(postgres, f"test_{next(numbers)}")


@pytest.fixture(scope="session")
def debian_clone() -> Iterator[Callable[[], AbstractContextManager[Database]]]:
    """`clone`, on Debian's Postgres 15, which has the extensions pgTAP and plpgsql_check."""
    numbers = itertools.count()
    with _server(installed.debian_postgres()) as server:
        yield lambda: _database(server, f"test_{next(numbers)}")


@pytest.fixture(scope="module")
def module_database(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    """The database that a module's tests share. Use `database`, which empties it after each test."""
    with clone() as made:
        yield made


@pytest.fixture
def database(
    request: pytest.FixtureRequest, clone: Callable[[], AbstractContextManager[Database]]
) -> Iterator[Database]:
    """An empty database: the module's, or a clone of its own for a test marked `fresh_database`.

    After each test the invariants are checked. A test that changes the schema needs the mark.
    """
    if request.node.get_closest_marker("fresh_database"):
        with clone() as made:
            yield made
        return
    shared: Database = request.getfixturevalue("module_database")
    with shared.emptied_afterwards():
        yield shared


@pytest.fixture(scope="module")
def projects(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Projects]:
    """One project for each setup, over one database for the module. Each test makes agencies of its own."""
    with clone() as made, contextlib.closing(Projects(made)) as all_of_them:
        yield all_of_them


@pytest.fixture(params=SETUPS, ids=str)
def project(request: pytest.FixtureRequest, clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Project]:
    """The module's project in one setup (see `--setups`), or one of its own for a test marked `fresh_database`.

    The invariants are checked when the module ends.
    """
    if request.node.get_closest_marker("fresh_database"):
        with clone() as made, contextlib.closing(Projects(made)) as own:
            yield own(request.param)
    else:
        yield request.getfixturevalue("projects")(request.param)


@pytest.fixture(scope="session")
def mortal_postgres() -> Iterator[Postgres]:
    """A server for tests that stop it. They leave it running."""
    with _server() as server:
        yield server


@pytest.fixture
def mortal_database(mortal_postgres: Postgres) -> Iterator[Database]:
    with _database(mortal_postgres, f"test_{uuid.uuid4().hex}") as made:
        yield made


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An AWS account with test credentials and no cached clients."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    aws.client.cache_clear()
    yield
    aws.client.cache_clear()


@pytest.fixture
def aws_endpoint() -> Iterator[str]:
    """The address of moto's server, for other processes."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 (most tests need none of it)

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
