# Every target builds what it needs: Python >= 3.11 and make are all a machine must have.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint fmt simulate bench docs lock clean

PY := .venv/bin/python
# An environment is as good as its inputs: one stamp per content of these files.
STAMP := .venv/.setup-$(shell cat pyproject.toml constraints.txt dev/setup | cksum | cut -d' ' -f1)
ARGS ?=
SCHEDULES ?= 2000
SEED ?= 1

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv in this checkout (instant when nothing changed)

$(STAMP):
	@dev/setup
	@rm -f .venv/.setup-* && touch $@

demo: setup ## train a classifier on three processes through Airflow
	@$(PY) dev/demo $(ARGS)

test: setup ## run every test this machine can run; REQUIRE_ENGINES=docker makes a missing engine a failure
	@eval "$$(dev/engines env)" && $(PY) -m pytest $(ARGS)

test-fast: setup ## only the tests that need no engine and no running Airflow
	@$(PY) -m pytest -m "not docker and not kubernetes and not airflow and not chaos and not slow" $(ARGS)

lint: setup ## what CI and the commit hook check
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports

fmt: setup ## apply the formatter and the safe fixes
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

simulate: setup ## run SCHEDULES random histories of the supervisor from SEED
	@$(PY) -m tests.simulation --schedules $(SCHEDULES) --seed $(SEED) $(ARGS)

bench: setup ## measure launches against the same work made raw, and against peers
	@eval "$$(dev/engines env)" && $(PY) -m bench $(ARGS)

docs: setup ## build the documentation into docs/_build/html
	@$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

lock: setup ## resolve pyproject.toml into constraints.txt anew (UPGRADE=1 takes the newest of everything)
	@.venv/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --quiet $(if $(UPGRADE),--upgrade) --output-file constraints.txt

clean: ## remove everything make has made
	@rm -rf .venv build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
