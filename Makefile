# Everything runs in .venv, which holds the built wheel and the tools; the source tree is not importable there.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find ocp_stripe_balance schemas shim -type f -not -name '*.pyc') tool_manifest.json pyproject.toml

.DEFAULT_GOAL := all
.PHONY: all help demo console pictures check test test-postgres test-floors test-clients test-crewai chaos chaos-postgres chaos-bulk chaos-mcp chaos-web bench bench-quick bench-pace bench-bulk bench-compare docs docs-serve docs-reference format clean

all: check test ## lint, format, types and tests

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /: /'

demo: .venv/wheel ## the main job on the embedded sandbox
	@$(BIN)/ocp-stripe-balance demo

console: .venv/wheel .venv/web ## the console on the sandbox with an agent at work, until Ctrl-C; prints who may sign in
	@$(BIN)/ocp-stripe-balance console

pictures: .venv/tools .venv/wheel ## the pictures of the console in the docs; needs Chromium
	$(BIN)/python scripts/screenshots.py

check: .venv/tools ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: .venv/tools .venv/wheel ## all tests, against the wheel
	$(BIN)/pytest -n 4 --dist worksteal

test-postgres: .venv/tools .venv/wheel ## the tests of the promises, the journal and the calls with every journal on a server
	$(BIN)/pytest -n 4 --dist worksteal --engine postgres tests/promises tests/_journal tests/_calls

test-floors: .venv/wheel ## the tests that need no provider's package, with the oldest dependencies we promise to work with
	$(PYTHON) tests/floors.py > build/floors.txt
	$(PYTHON) -m venv build/floors
	build/floors/bin/pip install --quiet --constraint build/floors.txt '.[dev]'
	build/floors/bin/pytest -n 2

test-clients: .venv/tools .venv/wheel build/clients/node_modules ## clients that others wrote against our servers; needs npm
	TEST_CLIENTS=1 $(BIN)/pytest tests/doors/test_mcp_clients.py tests/web/test_api_programs.py

test-crewai: .venv/wheel ## CrewAI's loop, which needs a gigabyte of packages
	$(PYTHON) -m venv build/crewai
	build/crewai/bin/pip install --quiet '.[dev]' 'crewai>=1.15,<2'
	build/crewai/bin/pytest -W ignore::DeprecationWarning tests/doors/test_frameworks.py -k crewai

chaos: .venv/tools .venv/wheel ## 10,000 calls, killed workers, a failing Stripe; then 16 processes race for one key
	$(BIN)/python tests/chaos.py --calls 10000 --workers 4 --kills 60 --faults 0.3 --seeds 1 2 3
	$(BIN)/python tests/chaos.py --race 500 --processes 16

chaos-postgres: .venv/tools .venv/wheel ## the same on a server: two hosts with wrong clocks, and the server is killed too
	$(BIN)/python tests/chaos.py --journal postgres --calls 10000 --workers 4 --kills 60 --faults 0.3 --stops 5 --ends 60 --timeout 5 --seeds 1 2 3
	$(BIN)/python tests/chaos.py --journal postgres --race 500 --processes 16

chaos-bulk: .venv/tools .venv/wheel ## one plan of 2,000 rows, four workers, 40 kills, a failing Stripe, three witnesses; then on two hosts
	$(BIN)/python tests/chaos_bulk.py --rows 2000 --workers 4 --kills 40 --faults 0.3 --seeds 1 2 3
	$(BIN)/python tests/chaos_bulk.py --rows 2000 --workers 4 --kills 40 --faults 0.3 --seeds 1 2 3 --journal postgres

chaos-mcp: .venv/tools .venv/wheel ## MCP sessions that are killed each second for a minute: 100 over HTTP, then 20 servers
	$(BIN)/python tests/chaos_mcp_http.py --sessions 100 --seconds 60
	$(BIN)/python tests/chaos_mcp.py --sessions 20 --seconds 60

chaos-web: .venv/tools .venv/wheel ## a gateway that is killed 40 times under 64 agents, four people who decide, a failing Stripe
	$(BIN)/python tests/chaos_web.py --agents 64 --kills 40 --ends 8 --faults 0.3

bench: .venv/tools .venv/wheel ## speed, memory and start beside Stripe's SDK; tables, build/benchmarks/results.json and speed.svg
	$(BIN)/python benchmarks/run.py

bench-quick: .venv/tools .venv/wheel ## the same with short slices
	$(BIN)/python benchmarks/run.py --quick

bench-pace: .venv/tools .venv/wheel ## twice the rate limit offered to a sandbox that limits as Stripe does
	$(BIN)/python benchmarks/pacing.py

bench-bulk: .venv/tools .venv/wheel ## a list of 100,000 rows, planned and run by processes that are killed 20 times, in five minutes
	$(BIN)/python benchmarks/bulk.py --rows 100000 --kills 20

bench-compare: .venv/tools ## the working tree beside another revision: make bench-compare REF=main
	@test -n "$(REF)" || { echo "Say beside which revision: make bench-compare REF=main"; exit 2; }
	$(BIN)/python benchmarks/compare.py $(REF)

docs: .venv/docs ## the docs site, in build/site
	$(BIN)/zensical build --clean --strict

docs-serve: .venv/docs ## the docs site on loopback, until Ctrl-C
	$(BIN)/zensical serve

docs-reference: .venv/tools .venv/wheel ## write anew the reference and the picture of the demo
	$(BIN)/python scripts/reference.py
	$(BIN)/python scripts/pictures.py

format: .venv/tools ## apply lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was built and installed
	rm -rf .venv build dist

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/tools: .venv/python pyproject.toml
	@echo "Installing the tools for tests and checks, once; this takes a minute or two."
	$(BIN)/pip install --quiet --disable-pip-version-check '.[dev,providers,bench,web,browser]'
	@command -v chromium >/dev/null || $(BIN)/playwright install chromium || echo "No Chromium: the tests in a browser will say that they did not run."
	@touch $@

.venv/web: .venv/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check '.[web]'
	@touch $@

.venv/docs: .venv/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check '.[docs]'
	@touch $@

.venv/wheel: .venv/python $(SOURCES)
	@echo "Building and installing the package."
	rm -rf build/dist
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/dist .
	$(BIN)/pip install --quiet --disable-pip-version-check build/dist/*.whl
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall build/dist/*.whl
	@touch $@

# Node itself is among them: the conformance framework wants 22.
build/clients/node_modules: tests/clients/package.json tests/clients/typescript.mjs
	mkdir -p build/clients
	cp $^ build/clients/
	npm install --prefix build/clients --no-audit --no-fund --no-package-lock --loglevel=error
	@touch $@
