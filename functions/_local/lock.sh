#!/bin/sh
# Pins every dependency with hashes, for every platform and Python from 3.11 on; no index is named.
set -eu
uv=$1
pin() { "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
  --no-annotate --upgrade "$@"; }
pin pyproject.toml -o functions/requirements.txt
pin pyproject.toml --group dev -o tests/requirements.txt
pin --group schemathesis -o tests/schemathesis.txt
