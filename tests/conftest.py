"""One real Postgres for the run; every test that moves something gets a database of its own, cloned from a template."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

import psycopg
import pytest

from functions._local import schema
from functions._local.postgres import Postgres
from tests.house import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

TEMPLATE = "template_house"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"create database {TEMPLATE}")
        with psycopg.connect(server.url(TEMPLATE), autocommit=True) as connection:
            schema.install(connection, schema.declared())
        with psycopg.connect(server.url(), autocommit=True) as admin:
            for role in ("postgres", "authenticator"):
                admin.execute(f"alter role {role} password '{server.password}'")
        yield server


@pytest.fixture(scope="session")
def clone(postgres: Postgres) -> Callable[[], AbstractContextManager[Database]]:
    """Makes databases that hold the schema and nothing else; the invariants are checked when one is given back."""
    numbers = itertools.count()

    @contextlib.contextmanager
    def make() -> Iterator[Database]:
        name = f"house_{next(numbers)}"
        with psycopg.connect(postgres.url(), autocommit=True) as admin:
            admin.execute(f"create database {name} template {TEMPLATE} owner postgres")
        database = Database(postgres, name)
        try:
            yield database
            database.check_invariants()
        finally:
            database.close()
            with psycopg.connect(postgres.url(), autocommit=True) as admin:
                admin.execute(f"drop database {name} with (force)")

    return make


@pytest.fixture
def database(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    with clone() as made:
        yield made
