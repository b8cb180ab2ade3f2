"""A Singer target (meltanolabs-target-postgres): loads into a schema of its own, with COPY, merged by key."""

from __future__ import annotations

import io
import json
import os
import sys
import time
import uuid
from contextlib import redirect_stdout

from target_postgres.target import TargetPostgres

from tests.bench.loads.rows import KEY, read

rows = read(sys.argv[1])
types = {"str": "string", "int": "integer", "float": "number", "NoneType": "null"}
properties: dict[str, set[str]] = {}
for row in rows:
    for name, value in row.items():
        properties.setdefault(name, {"null"}).add(types[type(value).__name__])
schema = {
    "type": "SCHEMA",
    "stream": "flights",
    "schema": {"properties": {name: {"type": sorted(found)} for name, found in properties.items()}},
    "key_properties": KEY,
}
messages = [schema, *({"type": "RECORD", "stream": "flights", "record": row} for row in rows)]
target = TargetPostgres(
    config={
        "sqlalchemy_url": os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:"),
        "use_copy": True,
        "default_target_schema": f"singer_{uuid.uuid4().hex}",
    }
)
lines = io.StringIO("\n".join(json.dumps(message) for message in messages))
begun = time.perf_counter()
with redirect_stdout(sys.stderr):  # its states
    target.listen(lines)
print(json.dumps({"seconds": time.perf_counter() - begun}))
