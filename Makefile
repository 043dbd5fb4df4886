# Everything works on a fresh machine with Python 3.11+, make and the package index.
.DEFAULT_GOAL := help
.PHONY: help install run run-distributed test check bench torture kafka lock

VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
KAFKA_PORT ?= 9092
DATA ?= ./var
PYTHON ?= python3

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

install: $(VENV)/.installed  ## create .venv with everything, as locked

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Tact needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": set PYTHON=") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	awk '/^uv==/ {on=1} on {print} on && !/\\$$/ {exit}' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps -e .
	$(BIN)/python -m compileall -q api engine features policies
	@touch $@

run: install  ## start everything with the retail example, send sample events, show a decision, serve
	$(BIN)/python -m api.running.tour --port $(PORT) --data $(DATA)

run-distributed: install  ## the services of docker-compose.yml without containers: Kafka, Valkey, two APIs, workers
	$(BIN)/python -m api.running.distributed --data $(DATA)/distributed

test: install  ## all tests, with branch coverage of engine, policies and features
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(ARGS)

check: install  ## lint, format, types, imports, and the lock file is fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m loadtests.lock_is_fresh

bench: install  ## speed beside an empty FastAPI route; results go to docs/performance.md
	$(BIN)/python -m loadtests.bench --write docs/performance.md

torture: install  ## load and faults against the real product, each promise judged; about an hour, Linux, as root
	$(BIN)/python -m loadtests.torture all $(ARGS)

kafka: install  ## a real Kafka without containers, until Ctrl-C; needs a JDK (17+) and, once, Maven
	$(BIN)/python -m api.running.kafka --port $(KAFKA_PORT) --data $(DATA)/kafka

lock: install  ## pin what pyproject.toml asks for
	$(BIN)/uv pip compile --quiet pyproject.toml --group dev --python-version 3.11 --universal --generate-hashes -o requirements.lock
