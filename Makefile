.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow mutants lint clean

# The first interpreter that fits: python3 if it is 3.11 to 3.13, else one of these versions by name.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
DEMO := runs/demo

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## make .venv and install the tested versions

.venv/installed: pyproject.toml .ci/constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found; name one with PYTHON=..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint .ci/constraints.txt --editable ".[dev]"
	@touch $@

test: install ## run the tests (under 10 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: install ## run the proofs that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

mutants: install ## change one coefficient of each formula; every change must make a test fail
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants

lint: install ## check style and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean: ## remove .venv and what tools leave behind (runs are kept)
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info build dist
