#!/bin/sh
# Pins every dependency with hashes, for every platform and Python from 3.11 on; no index is named. What is bundled is
# what was tested: the bundles' pins are a part of the tests'.
set -eu
uv=$1
pin() { "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
  --no-annotate "$@"; }
pin --upgrade pyproject.toml --group dev -o tests/requirements.txt
bundle() { name=$1 && shift && pin --constraint tests/requirements.txt pyproject.toml "$@" -o "functions/requirements/$name.txt"; }
bundle api
bundle postgres-transport --group postgres-transport
bundle worker --group worker
for peer in tests/bench/requirements/*.in; do pin --upgrade "$peer" -o "${peer%.in}.txt"; done
pin --upgrade --group schemathesis -o tests/schemathesis.txt
