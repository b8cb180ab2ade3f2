# Every target installs what it needs. PYTHON is the interpreter (3.11 or newer); a bare version, such as 3.13, is that of
# the bundles.
PYTHON ?= python3
VERSION := $(filter 3.%,$(PYTHON))
INTERPRETER := $(if $(VERSION),python3,$(PYTHON))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
FROM_NPM := tests/node_modules/.package-lock.json
SCHEMATHESIS := $(VENV)/schemathesis/installed
POLYTOMIC := $(patsubst tests/support/clients/polytomic-%.txt,$(VENV)/polytomic/%/installed,$(wildcard tests/support/clients/polytomic-*.txt))
SECONDS ?= 60
# What `make bench` compares with, each in its own folder, for the deployment's Python where it is installed.
BENCH_PYTHON := $(or $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python3.13) $(shell command -v python3.13)),$(INTERPRETER))
BENCH_PEERS := $(patsubst tests/bench/requirements/%.txt,$(VENV)/bench/%/installed,$(wildcard tests/bench/requirements/*.txt))
BENCH_FROM_NPM := tests/bench/node_modules/.package-lock.json
WORKERS = $(if $(ARGS),0,logical)

.PHONY: demo serve test test-all check conventions bench chaos bulk bundle deploy migration openapi readme polytomic lock clean

## Run a real sync, cancel it half-way and show that nothing is written afterwards; FAMILY (historical-sync, bulk-sync, model-sync, sync-job-run)
demo: $(INSTALLED)
	@$(BIN)/python -m functions._local.demo

## Serve the functions, a worker and the stack below them on PORT (54321) until Ctrl-C
serve: $(INSTALLED)
	@exec $(BIN)/python -m functions._local.serve

## Run the tests to run before each commit (unit, sql, api) on every core; with ARGS, run pytest with them in one process
test: $(INSTALLED) $(FROM_NPM)
	@$(BIN)/pytest --numprocesses=$(WORKERS) $(ARGS)

## Run every test, in every setup of a project, as CI does
test-all: $(INSTALLED) $(FROM_NPM) $(POLYTOMIC) $(SCHEMATHESIS)
	@$(BIN)/pytest --numprocesses=$(WORKERS) --setups=all $(or $(ARGS),tests)

## Check format, lints, types, the direction of imports, and conventions
check: $(INSTALLED)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(MAKE) --no-print-directory conventions

## Check that endpoints, SQL functions, privileges, documentation and tests fit together; a failure says what to add
conventions: $(INSTALLED)
	@$(BIN)/pytest --quiet -m conventions $$(grep -rl --include='test_*.py' mark.conventions tests/unit tests/sql tests/api tests/system)

## Measure speed, compared with the alternatives; ONLY=transports|cold|engine|records|stop for one part
bench: $(INSTALLED) $(FROM_NPM) $(BENCH_FROM_NPM) $(VENV)/bench/functions/installed $(VENV)/bench/worker/installed $(BENCH_PEERS)
	@$(BIN)/python -m tests.bench

## Measure one bulk action that cancels EXECUTIONS (100,000): its speed, its effect on others, and how soon it can be cancelled
bulk: $(INSTALLED)
	@$(BIN)/python -m tests.bench.bulk_cancel

## Build the Lambda zips in .bundle; ARCH (arm64, x86_64) and PYTHON (3.13) default to those of functions/template.yaml
bundle: $(INSTALLED)
	@$(BIN)/python -m functions._build.bundle $(if $(ARCH),--arch $(ARCH)) $(if $(VERSION),--python $(VERSION))

## Deploy to AWS with SAM; TRANSPORT (postgrest, postgres), PARAMETERS (those of the template that change: Name=value …)
deploy: $(INSTALLED)
	@$(BIN)/python -m functions._build.deploy

## Attack the system for SECONDS (60) with races, crashes, malformed input and foreign agencies; SEED and ROUND repeat a finding, ONLY picks one attack
chaos: $(INSTALLED) $(FROM_NPM) $(SCHEMATHESIS)
	@$(BIN)/python -m tests.chaos --seconds=$(SECONDS) $(SEED:%=--seed=%) $(ROUND:%=--round=%) $(ONLY:%=--only=%)

## Write the next migration from the changes of the declared schema; NAME is its purpose
migration: $(INSTALLED)
	@$(BIN)/python -m functions._build.migrations new $(NAME)

## Print the API as OpenAPI 3.1
openapi: $(INSTALLED)
	@$(BIN)/python -m functions._build.openapi

## Write the endpoint table of functions/README.md
readme: $(INSTALLED)
	@$(BIN)/python -m functions._build.readme

## Install the versions of the polytomic client that the tests run
polytomic: $(POLYTOMIC)

## Update the pinned dependencies
lock: $(INSTALLED)
	@$(BIN)/pip install --quiet uv==0.13.9
	@sh functions/_build/lock.sh $(BIN)/uv

## Delete everything that make has installed or built
clean:
	rm -rf $(VENV) .bundle tests/node_modules tests/bench/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(INSTALLED): functions/_local/requirements.txt tests/requirements.txt
	@$(INTERPRETER) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.13 …")'
	@echo "Installing into $(VENV) …" >&2
	@$(INTERPRETER) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --no-build-isolation -r functions/_local/requirements.txt
	@touch $@

# Each version has its own folder, because an environment can hold only one. Without them their tests are skipped; in CI they fail.
$(VENV)/polytomic/%/installed: tests/support/clients/polytomic-%.txt | $(INSTALLED)
	@rm -rf $(@D)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target $(@D) -r $< && touch $@ \
	|| echo "polytomic $* cannot be installed now: its tests are skipped (make polytomic)." >&2

# It has its own environment, because its pins conflict with others. Without it `make chaos` reports what it left out.
$(SCHEMATHESIS): tests/schemathesis.txt | $(INSTALLED)
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $< && touch $@ \
	|| echo "schemathesis cannot be installed now: its tests are skipped (make $(SCHEMATHESIS))." >&2

define install_for_bench
	@rm -rf $(@D)
	@$(BENCH_PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes --target $(@D) -r $< \
	&& echo "$(BENCH_PYTHON)" >$(VENV)/bench/python && touch $@ \
	|| echo "$< cannot be installed now: it is not measured (make bench)." >&2
endef

$(VENV)/bench/%/installed: tests/bench/requirements/%.txt | $(INSTALLED)
	$(install_for_bench)

$(VENV)/bench/functions/installed: functions/requirements/postgres-transport.txt | $(INSTALLED)
	$(install_for_bench)

$(VENV)/bench/worker/installed: functions/requirements/worker.txt | $(INSTALLED)
	$(install_for_bench)

$(BENCH_FROM_NPM): tests/bench/package.json tests/bench/package-lock.json
	@if command -v npm >/dev/null; then npm ci --prefix tests/bench --ignore-scripts --loglevel=error; \
	else echo "npm is missing: graphile-worker and pg-boss are not measured (apt-get install npm)." >&2; fi

# PostgREST, the Supabase CLI, Deno, Postgres 17, and supabase-js with a Node that is new enough for it. Without npm the tests
# that need them are skipped with a message; in CI they must run.
$(FROM_NPM): tests/package.json tests/package-lock.json
	@if command -v npm >/dev/null; then npm ci --prefix tests --loglevel=error; \
	else echo "npm is missing: the tests of PostgREST, the Supabase CLI, supabase-js and polytomic are skipped (apt-get install npm)." >&2; fi
