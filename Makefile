.DEFAULT_GOAL := help
.PHONY: help install demo train-demo test test-slow eval-proof mutants parity lint clean

# The first interpreter that fits: python3 if it is 3.11 to 3.13, else one of these versions by name.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
TRAINED := runs/train-demo
# The shipped cascade that the demo samples; clothes goes to runs/demo, clothes-fast to runs/demo-fast.
CASCADE := clothes
DEMO := runs/demo$(subst -clothes,,-$(CASCADE))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## make .venv and install the tested versions

.venv/installed: pyproject.toml .ci/constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found; name one with PYTHON=..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint .ci/constraints.txt --editable ".[dev]"
	@touch $@

demo: install ## sample the cascade that comes with the package: runs/demo (under 2 minutes); CASCADE=NAME: another that does
	$(BIN)/cascade sample cascade=$(CASCADE) "classes=[dress,hat,longsleeve,outwear,pants,shirt,shoes,shorts]" seeds=0 save_stages=true out=$(DEMO)
	@echo "look at $(DEMO)/contact_sheet.png"

# Pictures to train on: how many are drawn for each stage, at its resolution.
$(TRAINED)/data/64: PICTURES := 1200
$(TRAINED)/data/256: PICTURES := 240
$(TRAINED)/data/1024: PICTURES := 48
$(TRAINED)/data/%: | .venv/installed
	$(BIN)/cascade prepare data=procedural data.size=$(PICTURES) data.val_size=24 resolution=$* out=$@

train-demo: install $(TRAINED)/data/64 $(TRAINED)/data/256 $(TRAINED)/data/1024 ## train, chain and evaluate a very small cascade: runs/train-demo (under 15 minutes)
	$(BIN)/cascade train experiment=demo_base64
	$(BIN)/cascade train -m "stage=sr256,sr1024" experiment=demo
	$(BIN)/cascade assemble "stages=[$(TRAINED)/base64,$(TRAINED)/sr256,$(TRAINED)/sr1024]" out=$(TRAINED)/cascade overwrite=true
	$(BIN)/cascade sample cascade=$(TRAINED)/cascade seeds=0-1 save_stages=true out=$(TRAINED)/samples
	$(BIN)/cascade evaluate cascade=$(TRAINED)/cascade data=procedural stages=1 num_images=120 out=$(TRAINED)/evaluation
	@echo "look at $(TRAINED)/samples/contact_sheet.png and $(TRAINED)/evaluation/evaluation.json"

test: install ## run the tests (under 10 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: install ## run the proofs that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

eval-proof: install ## evaluate a tiny cascade in many ways (batch, processes, kills): one hash of the report (minutes)
	$(BIN)/python -m pytest -q -s -m slow tests/evaluation/test_one_report_however_it_is_made.py

mutants: install ## change one coefficient of each formula; every change must make a test fail
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants $(ONLY)

parity: install ## install k-diffusion and diffusers into .venv, and compare the samplers with theirs
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint .ci/constraints.txt --editable ".[parity]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/parity

lint: install ## check style and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean: ## remove .venv and what tools leave behind (runs are kept)
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info build dist
