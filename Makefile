# make help lists the targets. Everything installs itself into .venv on first use.

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
DEMO := data/results/demo
# A directory with unpack.py, which writes the data sets without a network; used where it is there.
SHARED_DATA ?= ../shared/data
export MPLBACKEND := Agg

.PHONY: help install data test lint types unit demo bench calibrate mutants clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-9s %s\n", $$1, $$2}'

install: $(READY) ## Create .venv and install the tested versions (PYTHON=... chooses the interpreter)

$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	  if "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "creating $(VENV) with $$("$$python" --version)"; exec "$$python" -m venv $(VENV); \
	  fi; \
	done; \
	echo "error: no Python >= 3.11 with venv found; set PYTHON=/path/to/python" >&2; exit 2

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[notebooks,dev]'
	@touch $@

data: $(READY) ## Unpack the data sets from SHARED_DATA into data/cache where both are missing and there
	@if [ -z "$$LANDSCAPE_DATA" ] && [ ! -d data/cache/mnist ] && [ -f $(SHARED_DATA)/unpack.py ]; then \
	  $(BIN)/python $(SHARED_DATA)/unpack.py data/cache; \
	fi

test: lint types unit ## Lint, types, tests, README, notebooks

lint: $(READY) ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## Check types
	$(BIN)/mypy

unit: data ## Run the tests (not: slow, gpu, bench)
	$(BIN)/python -m pytest -q --durations=10

demo: $(READY) ## Train a small network on digits, measure its Hessian spectrum, draw it
	$(BIN)/python -m landscape.training --model mlp --data digits --out $(DEMO)/ckpt.pt
	$(BIN)/python -m landscape.spectrum $(DEMO)/ckpt.pt

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

bench: $(BENCH_READY) data ## Measure speed, beside the peers
	$(BIN)/python -m pytest -q -s -m bench tests

calibrate: $(READY) ## Measure the volume estimators against known truth
	$(BIN)/python -m landscape.volume.calibrate --threads 1 --force

mutants: data ## Show that the tests fail on broken code
	$(BIN)/python tests/mutants/run.py

clean: ## Remove the environment and all caches (no data)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
