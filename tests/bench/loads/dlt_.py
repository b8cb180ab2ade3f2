"""dlt: extracts, normalizes and loads into a dataset of its own, with COPY. Rows are replaced by key, like ours."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import uuid

import dlt

from tests.bench.loads.rows import KEY, read

rows = read(sys.argv[1])
with tempfile.TemporaryDirectory() as folder:
    pipeline = dlt.pipeline(
        pipeline_name="bench",
        pipelines_dir=folder,
        destination=dlt.destinations.postgres(credentials=os.environ["DATABASE_URL"]),
        dataset_name=f"dlt_{uuid.uuid4().hex}",
    )
    begun = time.perf_counter()
    pipeline.run(
        rows,
        table_name="flights",
        primary_key=KEY,
        write_disposition={"disposition": "merge", "strategy": "upsert"},
        loader_file_format="csv",
    ).raise_on_failed_jobs()
    print(json.dumps({"seconds": time.perf_counter() - begun}))
