# make help lists the targets. Everything installs itself into .venv on first use.

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
DEMO := data/results/demo
GPU := data/results/gpu
GPU_PYTHON ?= python3
DEVICE ?= cuda
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
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile --durations=10

demo: $(READY) ## Train, prune and measure a small network on digits; the report's path is printed last
	$(BIN)/python -m landscape.training --model mlp --data digits --out $(DEMO)/ckpt.pt
	$(BIN)/python -m landscape.spectrum $(DEMO)/ckpt.pt
	$(BIN)/python -m landscape.study run digits --workers 2 --out $(DEMO)

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

bench: $(BENCH_READY) data ## Measure speed, beside the peers
	$(BIN)/python -m pytest -q -s -m bench tests

calibrate: $(READY) ## Measure the volume estimators against known truth
	$(BIN)/python -m landscape.volume.calibrate --threads 1 --workers 2 --force

# Each part finds itself done, or goes on where it was cut off. SMALL=1 is a dry run of the same commands.
ifdef SMALL
GPU_TRAIN := --num-examples 200
GPU_SPECTRUM := --num-examples 100 --batch-size 100
GPU_WIDTH := --model-arg width=4
GPU_TOP := 3
GPU_DENSITY := --num-probes 1 --depth 3
GPU_PRUNED := --fraction 0.999
GPU_STUDY := digits --budget 0
else
GPU_TOP := 100
GPU_DENSITY := --num-probes 10 --depth 80
GPU_PRUNED := --fraction 0.925
GPU_STUDY := resnet20_cifar10 --budget 0.12
endif
GPU_EPOCHS := --epochs 2 --lr 0.05 --momentum 0.9
GPU_WHEELS := numpy scipy xarray h5netcdf h5py matplotlib tqdm scikit-learn pooch dask[distributed] safetensors pytest pyyaml hypothesis
GPU_RUN = $(GPU_PYTHON) -m landscape

gpu: ## On a CUDA machine with PyTorch: GPU tests, timings, a short ResNet-20 study (DEVICE=cpu SMALL=1: a dry run)
	$(if $(SMALL),,$(GPU_PYTHON) -m pip install -q --disable-pip-version-check $(GPU_WHEELS))
	$(if $(filter cuda,$(DEVICE)),$(GPU_PYTHON) -m pytest -q -m gpu tests)
	BENCH_DEVICE=$(DEVICE) $(if $(SMALL),BENCH_EXAMPLES=64) $(GPU_PYTHON) -m pytest -q -s -m bench tests/test_bench_gpu.py
	$(GPU_RUN).training --model lenet_300_100 --data mnist $(GPU_EPOCHS) $(GPU_TRAIN) --device $(DEVICE) --out $(GPU)/lenet.pt --resume
	$(GPU_RUN).training --model resnet20 $(GPU_WIDTH) --data cifar10 $(GPU_EPOCHS) $(GPU_TRAIN) --device $(DEVICE) --out $(GPU)/resnet20.pt --resume
	for name in lenet resnet20; do \
	  $(GPU_RUN).spectrum $(GPU)/$$name.pt $(GPU_SPECTRUM) --largest $(GPU_TOP) --smallest 0 --num-probes 0 --device $(DEVICE) --resume --out $(GPU)/$$name.top.nc && \
	  $(GPU_RUN).spectrum $(GPU)/$$name.pt $(GPU_SPECTRUM) --largest 0 --smallest 0 $(GPU_DENSITY) --device $(DEVICE) --resume --out $(GPU)/$$name.density.nc || exit $$?; \
	done
	$(GPU_RUN).pruning imp --model lenet_300_100 --data mnist $(GPU_EPOCHS) $(GPU_TRAIN) --device $(DEVICE) $(GPU_PRUNED) --levels 1 --replicates 1 --out $(GPU)/pruned
	$(GPU_RUN).spectrum $(GPU)/pruned/replicate_0/imp/level_01/minimum.pt $(GPU_SPECTRUM) --engine dense --device $(DEVICE) --resume --out $(GPU)/pruned.dense.nc
	$(GPU_RUN).study run $(GPU_STUDY) --device $(DEVICE) --out $(GPU)/study

mutants: data ## Show that the tests fail on broken code
	$(BIN)/python tests/mutants/run.py

clean: ## Remove the environment and all caches (no data)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
